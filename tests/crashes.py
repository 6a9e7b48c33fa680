"""Crash labels as they stand in the source (see `radnode/state/crash.py`), transactions and renames without one, and
a folder in which they are armed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.peers import REPO, until

PARTS = [path for part in ("state", "run") for path in sorted((REPO / "radnode" / part).rglob("*.py"))]


def labels() -> list[str]:
    """`LABEL.MOMENT` of each instruction at which a process can be made to kill itself; what stands twice, twice."""
    return sorted(each for path in PARTS for each in _labels(path))


def _labels(path: Path) -> Iterator[str]:
    for call in _calls(ast.parse(path.read_text())):
        words = _words(call)
        if _name(call) == "begin" and words:
            yield from (f"{words[0]}.{moment}" for moment in ("before", "after"))
        if _name(call) == "point" and words:
            yield ".".join((words[0], words[1] if len(words) > 1 else "here"))


def unlabelled() -> list[str]:
    """Places of transactions without a label, and functions of `state` that rename files without passing a point."""
    return [f"{path.relative_to(REPO)}:{line}" for path in PARTS for line in _unlabelled(path)]


def _unlabelled(path: Path) -> Iterator[int]:
    tree = ast.parse(path.read_text())
    if path.name != "ledger.py":  # where transactions are made
        for call in _calls(tree):
            if _name(call) == "begin" and "ledger" in ast.unparse(call.func) and not _words(call):
                yield call.lineno
    for function in ast.walk(tree) if path.parent.name == "state" else ():
        if isinstance(function, ast.FunctionDef):
            names = {_name(call) for call in _calls(function)}
            if "rename" in names and "point" not in names:
                yield function.lineno


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _words(call: ast.Call) -> list[str]:
    """The call's arguments where they are literal words; none where a label is passed on."""
    words = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return words if len(words) == len(call.args) else []


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


class Armed:
    """Labels at which a process is to die, as a folder (RADNODE_CRASH_AT)."""

    def __init__(self, crash_at: Path) -> None:
        self.crash_at = crash_at
        self.crash_at.mkdir(parents=True)
        self.deaths = 0

    def arm(self, *labels: str) -> None:
        for each in labels:
            (self.crash_at / each).touch()
        self.deaths += len(labels)

    def begin(self) -> None:
        """A scenario begins."""
        self._at_first = self.armed()

    def armed(self) -> list[str]:
        return sorted(each.name for each in self.crash_at.iterdir())

    def hit(self, label: str) -> None:
        """Waits until a process has died there, at one of the moments that were armed as the scenario began."""
        mine = {each for each in self._at_first if each.startswith(f"{label}.")}
        until(lambda: mine - set(self.armed()), f"a process has died at {label}")


    def disarm(self) -> None:
        for each in self.crash_at.iterdir():
            each.unlink()


Place = TypeVar("Place", bound=Armed)


def rehearse(place: Place, label: str, scenario: Callable[[Place, str], None]) -> None:
    """A process dies at all moments of a label, in one go or, where what follows takes another way, in two or three."""
    moments = [each for each in labels() if each.rpartition(".")[0] == label]
    place.arm(*moments)
    for _ in moments:
        place.begin()
        scenario(place, label)
        if not place.armed():
            return
    assert place.armed() == []
