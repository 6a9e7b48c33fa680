"""The commands. Each one reads the settings, calls into `radnode.run`, and prints: no work is done here."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from radnode.cli.common import app, complain
from radnode.domain.errors import RadnodeError

# isort: off
from radnode.cli import node, look, act, tools  # noqa: F401 - in the order in which the help shows them
# isort: on


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"radnode {version('radnode')}")
        raise typer.Exit


@app.callback()
def radnode(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Receives studies from a PACS, runs algorithms on them by routing.yaml, and stores the results back."""


def main() -> None:
    """The command line. A RadnodeError becomes one clear message and exit code 1."""
    try:
        app()
    except RadnodeError as error:
        complain(error, 1)
