"""What the commands share: the application, its terminals, options that mean the same everywhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from radnode import settings as settings_module
from radnode.domain.errors import RadnodeError
from radnode.domain.jobs import DeliveryState, JobState
from radnode.settings import Settings
from radnode.state import crash

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

_WIDE = 200

out = Console(width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, width=None if sys.stderr.isatty() else _WIDE)


def _a_state(value: str) -> str:
    states = dict.fromkeys([*JobState, *DeliveryState])
    if value and value not in states:
        raise typer.BadParameter(f"there is no state {value!r}, only {', '.join(states)}")
    return value


def none_empty(values: list[str] | None) -> list[str] | None:
    """An empty name, such as a script's variable that is not set, would be the beginning of every ID."""
    if any(not each.strip() for each in values or ()):
        raise typer.BadParameter("an empty name means nothing, and not all")
    return values


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Since = Annotated[str, typer.Option(help="Only what is younger: 30m, 12h, 7d.")]
OfApp = Annotated[str, typer.Option("--app", help="Only jobs of this app.")]
OfRule = Annotated[str, typer.Option("--rule", help="Only jobs of this rule.")]
OfState = Annotated[str, typer.Option("--state", help="Only in this state.", callback=_a_state)]
OfDestination = Annotated[str, typer.Option("--destination", help="Only deliveries to this destination.")]
Limit = Annotated[int, typer.Option(help="How many at the most.", min=1)]
Ids = Annotated[list[str] | None, typer.Argument(help="Job IDs, or their beginnings.", callback=none_empty)]

NODE, LOOK, ACT, APPS, TOOLS = "The node", "Look", "Act", "Apps", "Tools"


def complain(error: RadnodeError, code: int) -> NoReturn:
    err.print("error:", style="bold red", end=" ")
    err.print(str(error), markup=False, highlight=False)
    sys.exit(code)


@contextmanager
def writing() -> Iterator[None]:
    """Says which file or folder it was that could not be made."""
    try:
        yield
    except OSError as error:
        raise RadnodeError(f"{error.filename} cannot be made: {error.strerror}", remedy="name another place") from None


def load_settings() -> Settings:
    settings = settings_module.load()
    crash.arm(settings.crash_at)
    return settings


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def show(value: Any, as_json: bool, render: Callable[[], Any]) -> None:
    """A value as JSON, or as it is rendered for people."""
    if as_json:
        print_json(value)
    else:
        out.print(render())
