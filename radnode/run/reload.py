"""The routing in force: read at start, read again when the file changes, the last good one kept."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radnode import metrics
from radnode.domain.errors import Problem, RoutingError
from radnode.domain.routing import Catalog, Routing, Sender, Senders, parse_routing
from radnode.state import deliveries, intake
from radnode.state.ledger import Ledger
from radnode.telemetry import log


class RoutingFile:
    """Watches what `routing.yaml` holds. `routing` is the one in force; a bad edit never takes effect."""

    def __init__(self, path: Path, ledger: Ledger, catalog: Catalog) -> None:
        self._path, self._ledger, self._catalog = path, ledger, catalog
        self._found = self._taken = self._look()
        self.routing = self._at_start()

    def _at_start(self) -> Routing:
        """The file's, or the last good one if the file has become bad. Raises RoutingError where there is neither."""
        try:
            routing = self._read()
        except RoutingError as error:
            last = self._last_good()
            if last is None:
                raise
            self._refused(error)
            return last
        self._apply(routing)
        return routing

    def poll(self) -> None:
        """Takes up what the file holds now, once two looks in a row have found the same.

        A file that is being written, or has gone for the moment in which another takes its place, is left alone.
        """
        found, before = self._look(), self._found
        self._found = found
        if found != before or found == self._taken:
            return
        self._taken = found
        try:
            routing = self._read()
        except RoutingError as error:
            self._refused(error)
            return
        metrics.routing_reloads.labels("applied").inc()
        self._apply(routing)
        self.routing = routing

    def _look(self) -> bytes | None:
        """What the file holds; None where it cannot be read. Who opens a pipe waits for somebody to write into it."""
        try:
            return None if self._path.is_fifo() else self._path.read_bytes()
        except OSError:
            return None

    def _read(self) -> Routing:
        if self._taken is None and self._path.is_fifo():
            raise RoutingError([Problem(str(self._path), 0, "is a pipe; set RADNODE_ROUTING to a file")])
        if self._taken is None:
            return read_routing(self._path, self._catalog)
        return parse_routing(self._taken, source=str(self._path), catalog=self._catalog, lenient_broken=True)

    def _last_good(self) -> Routing | None:
        with self._ledger.read() as tx:
            last = intake.routing_in_force(tx)
        if last is None:
            return None
        return parse_routing(last.text, source=f"{self._path} (last good)", catalog=self._catalog, lenient_broken=True)

    def _apply(self, routing: Routing) -> None:
        with self._ledger.begin("remember routing") as tx:
            intake.remember_routing(tx, routing.version, routing.text, peers_of(routing))
            deliveries.allow(tx, {each.name: each.associations for each in routing.destinations.values()})
        metrics.routing_ok.set(1)
        log().info("routing in force", version=routing.version, rules=len(routing.rules))
        for warning in routing.warnings:
            log().warning("rule without effect", problem=str(warning))
        if routing.senders.any:
            log().warning("senders: any - every machine that reaches the DICOM port may push")

    def _refused(self, error: RoutingError) -> None:
        metrics.routing_reloads.labels("refused").inc()
        metrics.routing_ok.set(0)
        for problem in error.problems:
            log().error("routing file refused, the last good one stays in force", problem=str(problem))


def read_routing(path: Path, catalog: Catalog, *, lenient_broken: bool = True) -> Routing:
    """Raises RoutingError with every problem, also where the file cannot be read."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RoutingError(
            [Problem(str(path), 0, f"cannot be read: {error}; set RADNODE_ROUTING or make the file")]
        ) from None
    return parse_routing(text, source=str(path), catalog=catalog, lenient_broken=lenient_broken)


def peers_of(routing: Routing) -> dict[str, Any]:
    """Destinations and senders as the ledger keeps them, for the parts that know no apps."""
    senders = routing.senders.listed
    return {
        "destinations": {name: asdict(each) for name, each in routing.destinations.items()},
        "senders": None if senders is None else [{"aet": each.aet, "host": each.host} for each in senders],
    }


def senders_of(peers: dict[str, Any]) -> Senders:
    listed = peers["senders"]
    return Senders(None if listed is None else tuple(Sender(**each) for each in listed))


def addresses_of(host: str) -> list[str]:
    """What a sender's host name stands for now; nothing where it cannot be resolved."""
    try:
        ipaddress.ip_address(host)
        return [host]
    except ValueError:
        pass
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except (OSError, UnicodeError):
        return []
