"""The commands. Each one reads the settings, calls into `radnode.run`, and prints: no work is done here."""

from __future__ import annotations

from radnode.cli.common import app, complain
from radnode.domain.errors import RadnodeError

# isort: off
from radnode.cli import node, look, act, tools  # noqa: F401 - in the order in which the help shows them
# isort: on


def main() -> None:
    """The command line. A RadnodeError becomes one clear message and exit code 1."""
    try:
        app()
    except RadnodeError as error:
        complain(error, 1)
