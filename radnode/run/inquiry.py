"""Asks peers what they have of a series that comes in, each in a lane of its own: none of them holds anything up.

What they say is evidence, kept in memory only: a peer that does not answer leaves a series to its quiet time.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial

from radnode import metrics
from radnode.dicom.peer import Peer
from radnode.dicom.query import find
from radnode.domain.assembly import COUNT, Inventory
from radnode.domain.errors import PeerError
from radnode.domain.jobs import backoff
from radnode.domain.routing import Destination
from radnode.run.fetching import Fetcher
from radnode.run.lanes import Lane
from radnode.settings import Settings
from radnode.state import assembling, intake
from radnode.state.ledger import Ledger, Record
from radnode.state.spool import Spool
from radnode.telemetry import log

_AGAIN, _AGAIN_MOST = 1.0, 30.0
"""Seconds until a series may be asked for again, doubling."""
_FETCH_AGAIN, _FETCH_AGAIN_MOST = 5.0, 300.0
_REST_MOST = 300.0
"""Seconds that a peer which does not answer is left alone, at most."""


@dataclass
class _Asked:
    """What was asked about one series; `at` and the pauses are on the ledger's clock."""

    changes: int = -1
    not_before: float = 0.0
    times: int = 0
    fetch_not_before: float = 0.0
    fetches: int = 0
    answers: dict[str, tuple[int, Inventory]] = field(default_factory=dict)


class Inquiry:
    """Questions, answers, and fetching what is missing. All methods are for core's thread."""

    def __init__(self, settings: Settings, ledger: Ledger, spool: Spool) -> None:
        self._settings, self._ledger = settings, ledger
        self._fetcher = Fetcher(settings, ledger, spool)
        self._peers: dict[tuple[str, Peer], _Peer] = {}
        self._series: dict[int, _Asked] = {}
        self._heard: queue.SimpleQueue[int] = queue.SimpleQueue()

    def ask(self, row: Record, destinations: Mapping[str, Destination], now: float) -> bool:
        """Has the peers that may be asked say what they have of a series; False where that has to wait a moment."""
        peers = askable(destinations, row.calling_aet)
        if not peers:
            return True
        asked = self._series.setdefault(row.id, _Asked())
        if now < asked.not_before:
            return False
        asked.times = asked.times + 1 if asked.changes == row.changes else 1
        asked.changes = row.changes
        asked.not_before = now + backoff(asked.times, first=_AGAIN, cap=_AGAIN_MOST)
        taken = [self._peer(each).submit(row.id, now, partial(self._answer, each, row)) for each in peers]
        return any(taken)

    def heard(self) -> set[int]:
        """Series of which something new is known since the last call."""
        found = set()
        while not self._heard.empty():
            found.add(self._heard.get())
        return found

    def inventories(self, row: Record) -> tuple[Inventory, ...]:
        """What peers have said of a series; first that of its sender, if it was asked."""
        asked = self._series.get(row.id)
        said = list(asked.answers.values()) if asked else []
        return tuple(
            Inventory(each.source, each.count, each.uids, fresh=changes == row.changes) for changes, each in said
        )

    def fetch(self, row: Record, destinations: Mapping[str, Destination], now: float) -> None:
        """Has a peer that allows it send what it has and the node lacks; with growing pauses while that fails."""
        asked = self._series.get(row.id)
        if asked is None or now < asked.fetch_not_before:
            return
        for name, (_, inventory) in asked.answers.items():
            destination = destinations.get(name)
            if destination is not None and destination.fetch != "no" and inventory.uids:
                asked.fetches += 1
                asked.fetch_not_before = now + backoff(asked.fetches, first=_FETCH_AGAIN, cap=_FETCH_AGAIN_MOST)
                fetching = partial(self._fetch, destination, row, inventory.uids)
                self._peer(destination).submit(("fetch", row.id), now, fetching)
                return

    def forget(self, series_id: int) -> None:
        self._series.pop(series_id, None)

    def _peer(self, destination: Destination) -> _Peer:
        key = destination.name, Peer.of(destination)
        if key not in self._peers:
            self._peers[key] = _Peer(destination.name, self._ledger.now)
        return self._peers[key]

    # ---- in the peers' lanes ------------------------------------------------------------------------------------

    def _answer(self, destination: Destination, row: Record) -> None:
        with self._ledger.read() as tx:
            study_uid, here = intake.study_of(tx, row.study_id).study_instance_uid, assembling.uids(tx, row.id)
        said = inventory(destination, study_uid, row.series_instance_uid, here, self._title(row))
        asked = self._series.get(row.id)
        if asked is not None:
            asked.answers[destination.name] = (row.changes, said)
            self._heard.put(row.id)

    def _fetch(self, destination: Destination, row: Record, uids: frozenset[str]) -> None:
        with self._ledger.read() as tx:
            study_uid, here = intake.study_of(tx, row.study_id).study_instance_uid, assembling.uids(tx, row.id)
        if uids - here:
            sent = self._fetcher.fetch(destination, study_uid, row, uids - here)
            metrics.instances_fetched.labels(destination.name).inc(sent)

    def _title(self, row: Record) -> str:
        return row.called_aet if row.called_aet in self._settings.aet else self._settings.aet[0]


class _Peer:
    """One peer's lane. After a failure it rests, and what it would be asked meanwhile is not asked."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name, self._clock = name, clock
        self._lane = Lane(f"ask {name}")
        self._failures = 0
        self._rests_until = 0.0

    def submit(self, key: Hashable, now: float, task: Callable[[], None]) -> bool:
        return now >= self._rests_until and self._lane.submit(key, lambda: self._do(task))

    def _do(self, task: Callable[[], None]) -> None:
        if self._clock() < self._rests_until:  # it waited behind one that failed
            return
        try:
            task()
        except PeerError as error:
            self._failures += 1
            self._rests_until = self._clock() + backoff(self._failures, first=5.0, cap=_REST_MOST)
            metrics.queries.labels(self._name, "failed").inc()
            log().warning("peer cannot be asked", destination=self._name, error=str(error), failures=self._failures)
        else:
            self._failures = 0
            metrics.queries.labels(self._name, "answered").inc()


def askable(destinations: Mapping[str, Destination], calling_aet: str) -> list[Destination]:
    """The peers to ask about what came from a sender: the sender itself, where it may be asked, else all that may."""
    may = [each for each in destinations.values() if each.query]
    return [each for each in may if each.aet == calling_aet] or may


def inventory(
    destination: Destination, study_uid: str, series_uid: str, here: Collection[str], calling_aet: str
) -> Inventory:
    """What a peer has of a series: its count, and where that is not ours its instances. Raises PeerError."""
    peer = Peer.of(destination)
    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    found = find(peer, "SERIES", keys, (COUNT,), calling_aet=calling_aet, most=10)
    if not found:
        return Inventory(destination.name, 0)
    count = found[0][COUNT]
    if count.isascii() and count.isdigit() and int(count) == len(here):
        return Inventory(destination.name, len(here))
    images = find(peer, "IMAGE", keys, ("SOPInstanceUID",), calling_aet=calling_aet)
    uids = frozenset(each["SOPInstanceUID"] for each in images) - {""}
    return Inventory(destination.name, len(uids), uids)
