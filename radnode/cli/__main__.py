"""`python -m radnode.cli`."""

from radnode.cli import main

main()
