"""Reading on after a problem, so that one reading finds them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import yaml

from radnode.domain.errors import Problem, did_you_mean
from radnode.domain.routing.nodes import Entry, Refused, entries_of, quoted

_MAX_PROBLEMS = 100
_MAX_HINTS = 25

T = TypeVar("T")
D = TypeVar("D")
Fields = dict[str, yaml.Node]
NO_NODES: list[yaml.Node] = []


class Reader:
    """Collects problems; each once, however many rules share the line by an alias."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._problems: dict[Problem, None] = {}
        self._warnings: dict[Problem, None] = {}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """In the order of the file, those without a line last."""
        found = sorted(self._problems, key=lambda each: (each.line == 0, each.line))[:_MAX_PROBLEMS]
        more = len(self._problems) - len(found)
        return (*found, Problem(self._source, 0, f"and {more} more problems")) if more else tuple(found)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(self._warnings)

    def problem(self, line: int, message: str) -> None:
        self._problems[Problem(self._source, line, message)] = None

    def warning(self, line: int, message: str) -> None:
        self._warnings[Problem(self._source, line, message)] = None

    def hint(self, given: str, known: Callable[[], list[str]]) -> str:
        """A "did you mean" among thousands of names: it costs time, so only the first problems get one."""
        return did_you_mean(given, known()) if len(self._problems) < _MAX_HINTS else ""

    def read(self, node: yaml.Node | None, read: Callable[[yaml.Node], T], otherwise: D) -> T | D:
        """What `read` makes of the node; `otherwise` where there is none, or after noting why it cannot be used."""
        if node is None:
            return otherwise
        try:
            return read(node)
        except Refused as refused:
            self.problem(refused.line, refused.message)
            return otherwise

    def entries(self, node: yaml.Node | None) -> list[Entry]:
        """The entries of a map, keys that come twice only once."""
        nothing: tuple[list[Entry], list[Refused]] = ([], [])
        entries, refused = self.read(node, entries_of, nothing)
        for each in refused:
            self.problem(each.line, each.message)
        return entries

    def fields(self, node: yaml.Node | None, place: str, known: tuple[str, ...]) -> Fields:
        """The entries of a map, those whose key is known in that place."""
        fields: Fields = {}
        for key, line, value in self.entries(node):
            if key in known:
                fields[key] = value
            else:
                hint = did_you_mean(key, known) or f"; there are {', '.join(known)}"
                self.problem(line, f"{quoted(key)} is no key of {place}{hint}")
        return fields

    def require(self, fields: Fields, keys: tuple[str, ...], line: int, whose: str) -> None:
        if missing := [key for key in keys if key not in fields]:
            self.problem(line, f"{whose} lacks {', '.join(missing)}")
