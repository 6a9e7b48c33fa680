"""Peers that results are sent to, and their keys in `routing.yaml`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import yaml

from radnode.domain.errors import did_you_mean
from radnode.domain.routing import values
from radnode.domain.routing.nodes import items_of, line_of, quoted, text_of
from radnode.domain.routing.reader import NO_NODES, Reader

KEYS = ("aet", "host", "port")


@dataclass(frozen=True)
class Destination:
    """A peer that results are sent to."""

    name: str
    aet: str
    host: str
    port: int
    receipt: str = "status"
    line: int = field(default=0, compare=False)


def read_destinations(reader: Reader, node: yaml.Node | None) -> dict[str, Destination]:
    return {name: _destination(reader, name, line, each) for name, line, each in reader.entries(node)}


def read_names(reader: Reader, node: yaml.Node | None, known: Collection[str]) -> tuple[str, ...] | None:
    """Destinations, each named once; None where nothing is said."""
    if node is None:
        return None
    names: dict[str, None] = {}
    for each in reader.read(node, items_of, NO_NODES):
        name = reader.read(each, text_of, "")
        if name and name not in known:
            reader.problem(line_of(each), f"no destination {quoted(name)}{did_you_mean(name, known)}")
        names[name] = None
    return tuple(names)


def _destination(reader: Reader, name: str, line: int, node: yaml.Node) -> Destination:
    fields = reader.fields(node, "a destination", KEYS)
    reader.require(fields, ("aet", "host", "port"), line, f"destination {name}")
    return Destination(
        name=name,
        aet=reader.read(fields.get("aet"), values.aet, ""),
        host=reader.read(fields.get("host"), values.host, ""),
        port=reader.read(fields.get("port"), values.port, 0),
        line=line,
    )
