"""The text of `routing.yaml` into a Routing, or every problem in it with its line.

Each section, and each kind of line, is read where its values are defined.
"""

from __future__ import annotations

import hashlib

from radnode.domain.errors import RoutingError
from radnode.domain.routing import completeness, condition_keys, destinations, inputs, rule_keys, senders
from radnode.domain.routing.completeness import Complete, read_complete
from radnode.domain.routing.destinations import read_destinations
from radnode.domain.routing.nodes import Refused, compose, items_of, line_of
from radnode.domain.routing.reader import NO_NODES, Reader
from radnode.domain.routing.rule_keys import RuleReader, read_defaults
from radnode.domain.routing.rules import Catalog, Routing
from radnode.domain.routing.senders import read_senders

_SECTIONS = ("destinations", "senders", "complete", "defaults", "rules")

KEYS: dict[str, tuple[str, ...]] = {
    "routing.yaml": _SECTIONS,
    "a destination": destinations.KEYS,
    "tls": destinations.TLS_KEYS,
    "fallback": tuple(destinations.FALLBACKS),
    "a sender": senders.KEYS,
    "complete": completeness.KEYS,
    "defaults": rule_keys.DEFAULTS_KEYS,
    "a rule": rule_keys.KEYS,
    "an input": inputs.INPUT_KEYS,
    "wait": inputs.WAIT_KEYS,
    "series": rule_keys.LABEL_KEYS,
    "a condition": condition_keys.KEYS,
}
"""Every key there is, by the place it stands in: what the parser takes is what `docs/routing.md` has to describe."""


def parse_routing(
    text: str | bytes, *, source: str = "routing.yaml", catalog: Catalog, lenient_broken: bool = False
) -> Routing:
    """Reads a routing file.

    Args:
        source: the file's name, for the problems.
        catalog: the installed apps.
        lenient_broken: a rule with a broken app becomes a warning, and never matches, instead of refusing the file:
            for the running node, which a broken app must not stop.

    Raises:
        RoutingError: with every problem found, each with its line.
    """
    reader = Reader(source)
    try:
        routing = _routing(reader, text, catalog, lenient_broken)
    except Refused as refused:
        reader.problem(refused.line, refused.message)
    if reader.problems:
        raise RoutingError(reader.problems)
    return routing


def _routing(reader: Reader, text: str | bytes, catalog: Catalog, lenient_broken: bool) -> Routing:
    """The whole file. Raises Refused where it is no YAML, and notes all other problems."""
    root = compose(text)
    fields = reader.fields(root, "routing.yaml", _SECTIONS)
    peers = read_destinations(reader, fields.get("destinations"))
    complete = read_complete(reader, fields.get("complete"), Complete())
    defaults = read_defaults(reader, fields.get("defaults"), complete, peers)
    if "rules" not in fields:
        reader.problem(line_of(root), "there is no `rules`; a node without rules says so with `rules: []`")
    rules = RuleReader(reader, peers, defaults, catalog, lenient_broken)
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return Routing(
        destinations=peers,
        senders=read_senders(reader, fields.get("senders"), complete),
        complete=complete,
        rules=tuple(rules.read(node) for node in reader.read(fields.get("rules"), items_of, NO_NODES)),
        version=hashlib.sha256(raw).hexdigest()[:12],
        text=raw.decode(errors="replace"),
        warnings=reader.warnings,
    )
