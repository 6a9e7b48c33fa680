"""Where results are sent, and the keys of destinations in `routing.yaml`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast, get_args

import yaml

from radnode.domain.errors import did_you_mean
from radnode.domain.routing import values
from radnode.domain.routing.nodes import choice_of, items_of, line_of, quoted, text_of
from radnode.domain.routing.reader import NO_NODES, Fields, Reader

Receipt = Literal["status", "find", "commitment"]
Identity = Literal["hold", "reissue", "ignore"]
Fetch = Literal["no", "get", "move"]

_PLACES = {"aet": ("aet", "host", "port", "tls", "query", "fetch"),
           "url": ("url", "user", "password_file", "token_file", "tls"),
           "folder": ("folder",)}  # fmt: skip
"""Of the three kinds of place, the key that tells which it is, and the keys that belong to it."""
KEYS = (
    "aet",
    "host",
    "port",
    "url",
    "user",
    "password_file",
    "token_file",
    "folder",
    "tls",
    "associations",
    "receipt",
    "receipt_within",
    "identity",
    "wants",
    "fallback",
    "query",
    "fetch",
)
TLS_KEYS = ("ca", "cert", "key")
FILE = "file"
KINDS = ("sc", "sr", "seg", "ko", "pdf", "raw", FILE)
"""Kinds of result objects, as `wants` names them."""
FALLBACKS = {"sr": ("sc", "pdf"), "seg": ("sc",)}
"""Kind -> the forms in which it can be had instead."""
COMPREHENSIVE = "comprehensive"
"""The form of a report for those that do not take Comprehensive 3D SR: nobody has to ask for it."""
MOST_ASSOCIATIONS = 8


@dataclass(frozen=True)
class Tls:
    """PEM files for calling a peer by TLS; empty: the system's authorities, no certificate of our own."""

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True)
class Destination:
    """A place that results are sent to: a DICOM peer (`aet`), a DICOMweb server (`url`) or a folder.

    Attributes:
        associations: deliveries to it at once, each over an association or connection of its own.
        receipt: what makes an instance delivered: its status, that a query finds it, or that the peer commits to it.
        receipt_within: seconds the peer may take until it shows, or commits to, what it has stored.
        identity: what happens to results whose patient or study has another identity there by now.
        wants: kinds of objects it is sent; empty: all it can hold.
        fallback: kind -> the form it gets instead, where it does not want that kind or refuses its SOP class.
        query: it may be asked what it has of a series that comes in (C-FIND).
        fetch: how what is missing here may be fetched from it: by C-GET, C-MOVE, or not at all.
    """

    name: str
    aet: str = ""
    host: str = ""
    port: int = 0
    url: str = ""
    user: str = ""
    password_file: str = ""
    token_file: str = ""
    folder: str = ""
    tls: Tls | None = None
    associations: int = 1
    receipt: Receipt = "status"
    receipt_within: float = 600.0
    identity: Identity = "hold"
    wants: tuple[str, ...] = ()
    fallback: Mapping[str, str] = field(default_factory=dict)
    query: bool = False
    fetch: Fetch = "no"
    line: int = field(default=0, compare=False)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Destination:
        """From what `dataclasses.asdict` and JSON have made of one."""
        tls = Tls(**kept["tls"]) if kept.get("tls") else None
        return cls(**{**kept, "tls": tls, "wants": tuple(kept.get("wants", ()))})

    def __str__(self) -> str:
        return self.url or self.folder or f"{self.aet} at {self.host}:{self.port}"

    def takes(self, kind: str) -> bool:
        """Whether objects of a kind are sent to it: files only to folders, originals wherever a rule sends them."""
        if kind == FILE and not self.folder:
            return False
        return not self.wants or kind in self.wants or kind not in KINDS


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
    place = next((each for each in ("url", "folder") if each in fields), "aet")
    if place == "aet":
        reader.require(fields, ("aet", "host", "port"), line, f"destination {name}")
    _refuse_strange(reader, fields, place)
    return Destination(
        name=name,
        aet=reader.read(fields.get("aet"), values.aet, ""),
        host=reader.read(fields.get("host"), values.host, ""),
        port=reader.read(fields.get("port"), values.port, 0),
        url=reader.read(fields.get("url"), values.url, ""),
        user=reader.read(fields.get("user"), text_of, ""),
        password_file=reader.read(fields.get("password_file"), values.path, ""),
        token_file=reader.read(fields.get("token_file"), values.path, ""),
        folder=reader.read(fields.get("folder"), values.path, ""),
        tls=_tls(reader, fields.get("tls")),
        associations=reader.read(fields.get("associations"), lambda each: values.whole(each, 1, MOST_ASSOCIATIONS), 1),
        receipt=cast(Receipt, _choice(reader, fields, "receipt", get_args(Receipt))),
        receipt_within=reader.read(fields.get("receipt_within"), values.duration, Destination.receipt_within),
        identity=cast(Identity, _choice(reader, fields, "identity", get_args(Identity))),
        wants=_kinds(reader, fields.get("wants")),
        fallback=_fallback(reader, fields),
        query=reader.read(fields.get("query"), values.switch, False),
        fetch=_fetch(reader, fields),
        line=line,
    )


def _fetch(reader: Reader, fields: Fields) -> Fetch:
    read = cast(Fetch, _choice(reader, fields, "fetch", get_args(Fetch)))
    if read != "no" and not reader.read(fields.get("query"), values.switch, False):
        reader.problem(line_of(fields["fetch"]), "fetch needs `query: true`: what is missing has to be asked for first")
    return read


def _refuse_strange(reader: Reader, fields: Fields, place: str) -> None:
    """Keys of another kind of place, and receipts that this one cannot give."""
    others = {key for keys in _PLACES.values() for key in keys} - set(_PLACES[place])
    for key in fields.keys() & others:
        reader.problem(line_of(fields[key]), f"{key} is of no use to a destination with {place}")
    if ("user" in fields) != ("password_file" in fields):
        reader.problem(line_of(fields[place]), "user and password_file need each other")
    impossible = {"url": ("commitment",), "folder": ("commitment", "find")}.get(place, ())
    if "receipt" in fields and reader.read(fields["receipt"], text_of, "") in impossible:
        reader.problem(line_of(fields["receipt"]), f"a destination with {place} cannot give that receipt")


def _tls(reader: Reader, node: yaml.Node | None) -> Tls | None:
    if node is None:
        return None
    fields = reader.fields(node, "tls", TLS_KEYS)
    if ("cert" in fields) != ("key" in fields):
        reader.problem(line_of(node), "cert and key need each other")
    return Tls(*(reader.read(fields.get(each), values.path, "") for each in TLS_KEYS))


def _choice(reader: Reader, fields: Fields, key: str, choices: tuple[str, ...]) -> str:
    """One of a few words; where nothing is said, the first."""
    return reader.read(fields.get(key), lambda node: choice_of(node, choices), choices[0])


def _fallback(reader: Reader, fields: Fields) -> dict[str, str]:
    given = reader.fields(fields.get("fallback"), "fallback", tuple(FALLBACKS))
    wanted = _kinds(reader, fields.get("wants"))
    read: dict[str, str] = {}
    for kind, node in given.items():
        read[kind] = reader.read(node, partial(choice_of, choices=FALLBACKS[kind]), "")
        if wanted and read[kind] not in ("", *wanted):
            reader.problem(line_of(node), f"{kind} falls back to {read[kind]}, which is not among what it `wants`")
    return {kind: form for kind, form in read.items() if form}


def _kinds(reader: Reader, node: yaml.Node | None) -> tuple[str, ...]:
    nodes = NO_NODES if node is None else reader.read(node, items_of, NO_NODES)
    read = [reader.read(each, lambda one: choice_of(one, KINDS), "") for each in nodes]
    return tuple(dict.fromkeys(each for each in read if each))
