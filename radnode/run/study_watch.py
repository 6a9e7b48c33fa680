"""Finds out which studies are worth judging before they have been quiet for long, and has peers asked about them.

A study is looked at when its last open series has been completed: what its headers say of its size is held against
what is here, and peers are asked once all its senders have gone. Nothing here grows with its instances.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from radnode.dicom.headers import read_attributes
from radnode.domain.assembly import SETTLED, Assessment
from radnode.domain.errors import NotDicomError
from radnode.domain.routing import Routing
from radnode.domain.study_assembly import KEYWORDS, StudySituation, claims_of
from radnode.run.completion import Completion
from radnode.run.study_inquiry import StudyInquiry, Subject
from radnode.settings import Settings
from radnode.state import assembling
from radnode.state.ledger import Ledger, Record
from radnode.state.slots import digest


@dataclass
class _Watched:
    """A study whose series are complete.

    Attributes:
        peers: its senders, as `slots` has them.
        gone_since: when the last of them was first seen to be gone; None while one is there.
        answered: a peer has said what it has.
    """

    subject: Subject
    peers: frozenset[bytes]
    gone_since: float | None = None
    settled: bool = False
    answered: bool = False


class StudyWatch:
    """`ripe`: the studies to be judged behind the next barrier, or the one that is up."""

    def __init__(self, settings: Settings, ledger: Ledger, completion: Completion, inquiry: StudyInquiry) -> None:
        self._settings, self._ledger = settings, ledger
        self._completion, self._inquiry = completion, inquiry
        self._routing: Routing | None = None
        self._stirred: set[int] = set()
        self._watched: dict[int, _Watched] = {}
        self._lacking: set[int] = set()
        self._marked: set[int] = set()
        self.ripe: set[int] = set()

    def stir(self, study_id: int) -> None:
        """A series of the study is complete."""
        self._stirred.add(study_id)

    def ripen(self) -> None:
        """No barrier is up: what was marked since the last was raised is for the next one, though the judgement behind
        the last may have left it to its quiet time."""
        for study_id in self._marked:
            self._completion.wake("study", study_id)
        self.ripe |= self._marked
        self._marked.clear()

    def assessed(self, row: Record, assessment: Assessment) -> None:
        if assessment.done:
            self._watched.pop(row.id, None)
            self._lacking.discard(row.id)
            self._inquiry.forget(row.id)
        elif assessment.missing:
            self._lacking.add(row.id)

    def situation(self, row: Record, judged_at: float) -> StudySituation:
        watched = self._watched.get(row.id)
        if watched is None or watched.subject.changes != row.changes:
            return StudySituation(judged_at - row.seen, lacked=row.missing > 0)
        idle = None if watched.gone_since is None else judged_at - watched.gone_since
        return StudySituation(judged_at - row.seen, idle, self._inquiry.inventories(watched.subject), row.missing > 0)

    def look(self, routing: Routing, now: float, here: Collection[bytes]) -> None:
        """One look at what has changed; `here`: the peers that have an association open."""
        with self._ledger.read() as tx:
            if routing is not self._routing:
                self._stirred |= assembling.receiving_studies(tx)
            stirred = assembling.whole_studies(tx, self._stirred) if self._stirred else []
        self._routing = routing
        self._stirred.clear()
        for row in stirred:
            self._begin(row)
        for study_id in self._inquiry.heard():
            if watched := self._watched.get(study_id):
                watched.answered = True
                self._marked.add(study_id)
        if any(each.query for each in routing.destinations.values()) and any(
            rule.level == "study" for rule in routing.rules
        ):
            for watched in self._watched.values():
                self._look_at(watched, routing, now, here)

    def _begin(self, row: Record) -> None:
        with self._ledger.read() as tx:
            series = assembling.sound(tx, row.id)
            path = assembling.newest_path(tx, series[-1].id) if series else None
        if path is None:
            return
        first = series[0]
        subject = Subject(row.id, row.changes, row.study_instance_uid, first.calling_aet, first.called_aet)
        self._watched[row.id] = _Watched(subject, frozenset(digest(each.peer) for each in series))
        try:
            claims = claims_of(read_attributes(self._settings.spool / path, KEYWORDS))
        except (NotDicomError, OSError):
            return
        if any(claims) and claims[0] <= len(series) and claims[1] <= self._instances(series):
            self._marked.add(row.id)

    def _instances(self, series: Sequence[Record]) -> int:
        with self._ledger.read() as tx:
            return sum(assembling.instances(tx, each.id) for each in series)

    def _look_at(self, each: _Watched, routing: Routing, now: float, here: Collection[bytes]) -> None:
        if not each.peers.isdisjoint(here):
            each.gone_since, each.settled = None, False
            return
        each.gone_since = now if each.gone_since is None else each.gone_since
        if now - each.gone_since < SETTLED:
            return
        if each.answered and not each.settled:
            self._marked.add(each.subject.id)
        each.settled = True
        lacks = each.subject.id in self._lacking
        if lacks or not each.answered:
            self._inquiry.ask(each.subject, routing.destinations, now)
        if lacks:
            self._inquiry.fetch(each.subject, routing.destinations, now)
