"""How many instances a series has to have: the key `min_instances`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from radnode.domain.routing import values
from radnode.domain.routing.conditions import Verdict
from radnode.domain.routing.nodes import line_of
from radnode.domain.routing.reader import Reader
from radnode.domain.study import Series


@dataclass(frozen=True)
class Least:
    """At least so many; 0: any number. `line` is where it says so."""

    instances: int = 0
    line: int = 0

    def verdicts(self, series: Series) -> Iterator[Verdict]:
        if self.instances:
            count, uid = len(series), series.SeriesInstanceUID
            wanted = f"at least {self.instances}"
            yield Verdict("min_instances", wanted, str(count), count >= self.instances, self.line, uid)


def read_least(reader: Reader, node: yaml.Node | None) -> Least:
    return Least(reader.read(node, values.count, 0), 0 if node is None else line_of(node))
