"""`routing.yaml` as values: who may send, when things are complete, which rules there are, where results go."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import time
from typing import Any, Literal, Protocol

from radnode.domain.errors import Problem
from radnode.domain.jobs import SeriesLabel
from radnode.domain.routing.conditions import AnyOf, Condition
from radnode.domain.routing.keywords import CONTEXT_KEYWORDS

Level = Literal["series", "study"]
Priority = Literal["urgent", "normal", "low"]
Resolver = Callable[[str], Collection[str]]
"""Host name -> its IP addresses; empty where it has none."""


class Catalog(Protocol):
    """The installed apps, as far as `routing.yaml` has to know them."""

    def names(self) -> Collection[str]:
        """All of them, the broken ones too."""

    def broken(self, name: str) -> str | None:
        """Why the app cannot be used; None where it can."""

    def parse_options(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """All options of the app as values JSON can hold. Raises OptionsError."""

    def version(self, name: str) -> str: ...

    def queue(self, name: str) -> str: ...


@dataclass(frozen=True)
class Destination:
    """A peer that results are sent to."""

    name: str
    aet: str
    host: str
    port: int
    receipt: str = "status"
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Complete:
    """For how many seconds nothing new may have come until a series, or a study, counts as complete."""

    series: float = 60.0
    study: float = 300.0


@dataclass(frozen=True)
class Hours:
    """A part of the day, over midnight where it starts later than it ends; in the node's time zone."""

    start: time
    end: time

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


def open_at(run_between: Hours | None, local_time: time) -> bool:
    """Whether jobs may start at this time of day: from the start on, up to but not at the end. None: always."""
    if run_between is None:
        return True
    after, before = local_time >= run_between.start, local_time < run_between.end
    return (after and before) if run_between.start < run_between.end else (after or before)


@dataclass(frozen=True)
class Sender:
    """Who may push: an AE title (with wildcards), a host (IP address, network or name), or both; empty: any."""

    aet: str = ""
    host: str = ""

    def allows(self, calling_aet: str, peer: Address, resolve: Resolver) -> bool:
        return (not self.aet or AnyOf((self.aet,)).accepts(calling_aet)) and self._is_host(peer, resolve)

    def _is_host(self, peer: Address, resolve: Resolver) -> bool:
        if not self.host:
            return True
        try:
            return peer in ipaddress.ip_network(self.host)
        except ValueError:
            return any(_address(each) == peer for each in resolve(self.host))


@dataclass(frozen=True)
class Senders:
    """`listed` None: everybody. Empty, as without the section in `routing.yaml`: this machine only."""

    listed: tuple[Sender, ...] | None = ()

    @property
    def any(self) -> bool:
        return self.listed is None

    def allows(
        self, calling_aet: str, peer_ip: str, *, resolve: Resolver = lambda host: (), local_ip: str = ""
    ) -> bool:
        """Whether an association may be opened.

        Args:
            resolve: looks up the host names among the senders; by default none is known.
            local_ip: the address the peer connected to: a peer with that same address is this machine.
        """
        if self.listed is None:
            return True
        peer = _address(peer_ip)
        if peer is None:
            return False
        if not self.listed:
            return peer.is_loopback or peer == _address(local_ip)
        return any(each.allows(calling_aet, peer, resolve) for each in self.listed)


@dataclass(frozen=True)
class Rule:
    """Which series or studies, which app, and where its results go.

    Attributes:
        app: None forwards the originals.
        options: all options of the app, as values JSON can hold.
        send_to: destinations; empty keeps the results on the node.
        complete: the rule's own times, those of `routing.yaml` where it has none.
        expire: seconds after which a result is parked instead of sent; None: never.
        app_broken: why the app cannot be used; such a rule never matches.
    """

    name: str
    line: int
    app: str | None = None
    app_version: str = ""
    app_broken: str = ""
    level: Level = "series"
    when: tuple[Condition, ...] = ()
    unless: tuple[Condition, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    priority: Priority = "normal"
    send_to: tuple[str, ...] = ()
    series: SeriesLabel = field(default_factory=SeriesLabel)
    enabled: bool = True
    complete: Complete = field(default_factory=Complete)
    expire: float | None = None
    run_between: Hours | None = None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return self.when + self.unless


@dataclass(frozen=True)
class Routing:
    """A `routing.yaml` that was read and found good.

    Attributes:
        version: the first 12 hexadecimal characters of the SHA-256 of its text.
        warnings: rules that were kept though their app is broken.
    """

    destinations: Mapping[str, Destination]
    senders: Senders
    complete: Complete
    rules: tuple[Rule, ...]
    version: str
    text: str = field(repr=False)
    warnings: tuple[Problem, ...] = ()

    @property
    def keywords(self) -> frozenset[str]:
        """Every DICOM keyword a condition names: what has to be read from the headers."""
        named = {condition.keyword for rule in self.rules for condition in rule.conditions}
        return frozenset(named.difference(CONTEXT_KEYWORDS))


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> Address | None:
    """An IP address as it is meant: without zone, IPv4 also where it comes wrapped in IPv6."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
