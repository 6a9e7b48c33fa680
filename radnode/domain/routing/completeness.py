"""When a series or a study counts as all here, and the keys of `complete` in `routing.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from radnode.domain.routing import values
from radnode.domain.routing.reader import Reader

KEYS = ("series", "study")


@dataclass(frozen=True)
class Complete:
    """For how many seconds nothing new may have come until a series, or a study, counts as complete."""

    series: float = 60.0
    study: float = 300.0


def read_complete(reader: Reader, node: yaml.Node | None, otherwise: Complete) -> Complete:
    """What is not said is as in `otherwise`."""
    fields = reader.fields(node, "complete", KEYS)
    return Complete(
        series=reader.read(fields.get("series"), values.duration, otherwise.series),
        study=reader.read(fields.get("study"), values.duration, otherwise.study),
    )
