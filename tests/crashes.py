"""Crash labels as they stand in the source (see `radnode/state/crash.py`), and transactions and renames without one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.peers import REPO

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
