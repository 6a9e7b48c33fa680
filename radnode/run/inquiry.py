"""Asks peers what they have of a series or a study that comes in, each in a lane of its own: none holds anything up.

What they say is evidence, kept in memory only: a peer that does not answer leaves what comes in to its quiet time.
"""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from radnode import metrics
from radnode.dicom.peer import Peer
from radnode.dicom.query import find
from radnode.domain.assembly import COUNT, Inventory
from radnode.domain.errors import PeerError
from radnode.domain.jobs import backoff
from radnode.domain.routing import Destination
from radnode.run.fetching import Fetcher, Wanted
from radnode.run.lanes import Lane
from radnode.settings import Settings
from radnode.state import assembling, intake
from radnode.state.ledger import Ledger, Record
from radnode.telemetry import log

_AGAIN, _AGAIN_MOST = 1.0, 30.0
"""Seconds until the same may be asked again, doubling."""
_FETCH_AGAIN, _FETCH_AGAIN_MOST = 5.0, 300.0
_REST_MOST = 300.0
"""Seconds that a peer which does not answer is left alone, at most."""

Said = TypeVar("Said")


@dataclass
class _Asked(Generic[Said]):
    """What was asked about one series or study; the pauses are on the ledger's clock.

    `answers`: peer -> the row's changes when it was asked, and what it has said.
    """

    changes: int = -1
    not_before: float = 0.0
    times: int = 0
    fetch_not_before: float = 0.0
    fetches: int = 0
    answers: dict[str, tuple[int, Said]] = field(default_factory=dict)


class Inquiry(ABC, Generic[Said]):
    """Questions, answers, and fetching what is missing. All methods are for core's thread, but for those of the lanes.

    What it is asked about is a row with `id`, `changes`, `calling_aet` and `called_aet`.
    """

    kind: str

    def __init__(self, settings: Settings, ledger: Ledger, peers: Peers, fetcher: Fetcher) -> None:
        self.settings, self.ledger = settings, ledger
        self._peers, self.fetcher = peers, fetcher
        self._all: dict[int, _Asked[Said]] = {}
        self._heard: queue.SimpleQueue[int] = queue.SimpleQueue()

    def ask(self, row: Any, destinations: Mapping[str, Destination], now: float) -> bool:
        """Has the peers that may be asked say what they have; False where that has to wait a moment."""
        peers = askable(destinations, row.calling_aet)
        if not peers:
            return True
        asked = self._all.setdefault(row.id, _Asked())
        if now < asked.not_before:
            return False
        asked.times = asked.times + 1 if asked.changes == row.changes else 1
        asked.changes = row.changes
        asked.not_before = now + backoff(asked.times, first=_AGAIN, cap=_AGAIN_MOST)
        taken = [self._peers.of(each).submit((self.kind, row.id), now, partial(self._ask, each, row)) for each in peers]
        return any(taken)

    def heard(self) -> set[int]:
        """Of what something new is known since the last call."""
        found = set()
        while not self._heard.empty():
            found.add(self._heard.get())
        return found

    def answers(self, row: Any) -> list[tuple[bool, Said]]:
        """(asked since the last instance came, what was said) of each peer; first its sender, if it was asked."""
        asked = self._all.get(row.id)
        return [(changes == row.changes, said) for changes, said in asked.answers.values()] if asked else []

    def fetch(self, row: Any, destinations: Mapping[str, Destination], now: float) -> None:
        """Has a peer that allows it send what it has and the node lacks; with growing pauses while that fails."""
        asked = self._all.get(row.id)
        if asked is None or now < asked.fetch_not_before:
            return
        for name, (_, said) in asked.answers.items():
            destination = destinations.get(name)
            if destination is not None and destination.fetch != "no" and self.may_lack(said):
                asked.fetches += 1
                asked.fetch_not_before = now + backoff(asked.fetches, first=_FETCH_AGAIN, cap=_FETCH_AGAIN_MOST)
                fetching = partial(self._fetch, destination, row, said)
                self._peers.of(destination).submit(("fetch", self.kind, row.id), now, fetching)
                return

    def forget(self, row_id: int) -> None:
        self._all.pop(row_id, None)

    # ---- in the peers' lanes ------------------------------------------------------------------------------------

    @abstractmethod
    def look_up(self, destination: Destination, row: Any) -> Said:
        """Asks one peer. Raises PeerError."""

    @abstractmethod
    def may_lack(self, said: Said) -> bool:
        """Whether the peer has named instances that perhaps are not here."""

    @abstractmethod
    def wanted(self, row: Any, said: Said) -> list[Wanted]:
        """What of that is not here."""

    def _ask(self, destination: Destination, row: Any) -> None:
        said = self.look_up(destination, row)
        asked = self._all.get(row.id)
        if asked is not None:
            asked.answers[destination.name] = (row.changes, said)
            self._heard.put(row.id)

    def _fetch(self, destination: Destination, row: Any, said: Said) -> None:
        for each in self.wanted(row, said):
            sent = self.fetcher.fetch(destination, each)
            metrics.instances_fetched.labels(destination.name).inc(sent)

    def title(self, row: Any) -> str:
        return str(row.called_aet) if row.called_aet in self.settings.aet else self.settings.aet[0]


class SeriesInquiry(Inquiry[Inventory]):
    """About a series: its row in the ledger."""

    kind = "series"

    def inventories(self, row: Record) -> tuple[Inventory, ...]:
        """What peers have said of a series."""
        return tuple(Inventory(each.source, each.count, each.uids, fresh) for fresh, each in self.answers(row))

    def look_up(self, destination: Destination, row: Record) -> Inventory:
        study_uid, here = self._here(row)
        return inventory(destination, study_uid, row.series_instance_uid, here, self.title(row))

    def may_lack(self, said: Inventory) -> bool:
        return bool(said.uids)

    def wanted(self, row: Record, said: Inventory) -> list[Wanted]:
        study_uid, here = self._here(row)
        with self.ledger.read() as tx:
            kinds = assembling.kinds(tx, row.id)
        uids = (said.uids or frozenset()) - here
        title = self.title(row)
        return [Wanted(row.study_id, row.id, study_uid, row.series_instance_uid, title, kinds, uids)] if uids else []

    def _here(self, row: Record) -> tuple[str, frozenset[str]]:
        with self.ledger.read() as tx:
            return intake.study_of(tx, row.study_id).study_instance_uid, assembling.uids(tx, row.id)


class Peers:
    """The lanes of the peers, one each, whoever asks."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._peers: dict[tuple[str, Peer], _Peer] = {}

    def of(self, destination: Destination) -> _Peer:
        key = destination.name, Peer.of(destination)
        if key not in self._peers:
            self._peers[key] = _Peer(destination.name, self._ledger.now)
        return self._peers[key]


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
