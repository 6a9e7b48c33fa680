"""Core's part that finds out when series and studies are complete: it gathers what `domain/assembly.py` judges by.

A series is judged when it has been quiet for long enough, or before that, when something new is known: its count is
reached, its sender has gone, a peer has said what it has. Nothing here grows with the instances of a series.
"""

from __future__ import annotations

import queue
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from radnode.dicom.headers import read_attributes
from radnode.domain.assembly import KEYWORDS as EVIDENCE
from radnode.domain.assembly import SETTLED, Assessment, Situation, claims_of
from radnode.domain.errors import NotDicomError
from radnode.domain.routing import Complete, Routing
from radnode.domain.study_assembly import StudySituation
from radnode.run.completion import Completion
from radnode.run.inquiry import SeriesInquiry
from radnode.run.lanes import Lane
from radnode.run.reload import addresses_of
from radnode.run.study_watch import StudyWatch
from radnode.settings import Settings
from radnode.state import assembling, intake
from radnode.state.ledger import Ledger, Record, Unavailable
from radnode.state.presence import Barrier, present
from radnode.state.slots import digest, peers_open
from radnode.telemetry import log

_LOOK_EVERY = 0.1
_BRIEF = 0.15
"""Seconds without news after which a series is looked at."""
_SLACK = 2.0
"""Seconds that arrivals may take to reach the ledger; what takes longer is left to its quiet time."""
_BIG = 1000
"""Files; where more are read, a series is judged in a lane of its own, beside all others."""
_HOUR = 3600.0


@dataclass
class _Watched:
    """A series that is coming in, as it was last looked at.

    Attributes:
        claimed: how many instances a header says it has; 0: none does.
        graces: for how long its sender has to be gone for that to be evidence, those still to come, shortest first.
        asked: whether peers were asked about it since its sender has gone.
    """

    row: Record
    claimed: int
    graces: list[float]
    asked: bool = False


class Assembling:
    """One turn of core's loop: `advance`."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        barrier: Barrier,
        completion: Completion,
        inquiry: SeriesInquiry,
        studies: StudyWatch,
    ) -> None:
        self._settings, self._ledger, self._barrier = settings, ledger, barrier
        self._completion, self._inquiry, self._studies = completion, inquiry, studies
        self._big = Lane("big series")
        self._assessed: queue.SimpleQueue[tuple[str, Record, Assessment | None]] = queue.SimpleQueue()
        self._watched: dict[int, _Watched] = {}
        self._lacking: set[int] = set()
        self._routing: Routing | None = None
        self._of_peer: defaultdict[bytes, set[int]] = defaultdict(set)
        self._gone_since: dict[bytes, float] = {}
        self._marked: set[int] = set()
        self._ripe: set[int] = set()
        self._looked, self._asked, self._next_look = 0.0, 0.0, 0.0
        self._awaited, self._judged_at = 0, 0.0
        self._deaf = True

    def advance(self, routing: Routing) -> None:
        """Silence is never taken for completeness: first something looks complete, and the barrier is raised; once
        every living receiver has flushed past it, what looks so *still* is judged."""
        if not self._listening():
            return
        now = self._ledger.now()
        if time.monotonic() >= self._next_look:
            self._look(routing, now)
            self._next_look = time.monotonic() + _LOOK_EVERY
        self._take_assessments()
        if self._awaited and not all(each.mark >= self._awaited for each in present(self._settings.run, "receiver-")):
            return
        if not self._awaited:
            self._ripen()
            self._awaited = self._barrier.raise_() if any(self._candidates(routing, now)) else 0
            self._judged_at = now
            return
        series, studies = self._candidates(routing, self._judged_at)
        self._awaited = 0
        for row in series:
            self._series(row, routing)
        for row in studies:
            self._study(row, routing)

    def _listening(self) -> bool:
        """Without a living receiver silence means nothing; when there is one again, senders get a whole quiet time."""
        heard = any(each.alive for each in present(self._settings.run, "receiver-"))
        if heard and self._deaf:
            with self._ledger.begin("heard again") as tx:
                intake.restart_quiet_time(tx, self._ledger.now())
        self._deaf = not heard
        return heard

    # ---- what there is to judge ---------------------------------------------------------------------------------

    def _ripen(self) -> None:
        """Between two barriers. A series is judged by what was known when its barrier was raised: a mark that is set
        while that is up is for the next one."""
        self._ripe |= self._marked
        self._marked.clear()
        self._studies.ripen()

    def _candidates(self, routing: Routing, until: float) -> tuple[list[Record], list[Record]]:
        """Series and studies that look complete, by what was known at a moment, `until`."""
        ripe, whole = self._ripe, self._studies.ripe
        later, in_hand = self._completion.postponed(until), len(self._big)
        with self._ledger.read() as tx:
            quiet = assembling.quiet_series(tx, until - _shortest(routing, "series"), later["series"], in_hand)
            series = assembling.still_open(tx, ripe.union(quiet)) if ripe or quiet else []
            studies = {row.id: row for row in assembling.whole_studies(tx, whole)} if whole else {}
            most = 100 + len(later["study"]) + in_hand
            quiet_studies = intake.quiet_studies(tx, until - _shortest(routing, "study"), most)
        whole.intersection_update(studies)
        studies |= {row.id: row for row in quiet_studies}
        ripe.intersection_update(row.id for row in series)
        return (
            [row for row in series if ("series", row.id) not in self._big],
            [
                row
                for row in studies.values()
                if ("study", row.id) not in self._big and later["study"].get(row.id) != row.changes
            ],
        )

    def _series(self, row: Record, routing: Routing) -> None:
        with self._ledger.read() as tx:
            carriers, files = assembling.carriers(tx, row.id), assembling.size(tx, row.id)
            if any(rule.inputs for rule in routing.rules):  # for these all of its study is read
                files = assembling.study_size(tx, row.study_id)
        gone = self._gone_since.get(digest(row.peer))
        situation = Situation(
            quiet=self._judged_at - row.seen,
            idle=None if gone is None else self._judged_at - gone,
            carriers=carriers,
            inventories=self._inquiry.inventories(row),
            lacked=row.missing > 0,
        )
        self._do(("series", row.id), files, partial(self._judge, row, routing, situation))
        self._ripe.discard(row.id)

    def _judge(self, row: Record, routing: Routing, situation: Situation) -> None:
        self._assessed.put(("series", row, self._completion.judge_series(row, routing, situation)))

    def _study(self, row: Record, routing: Routing) -> None:
        with self._ledger.read() as tx:
            files = assembling.study_size(tx, row.id)
        situation = self._studies.situation(row, self._judged_at)
        self._do(("study", row.id), files, partial(self._judge_study, row, routing, situation))
        self._studies.ripe.discard(row.id)

    def _judge_study(self, row: Record, routing: Routing, situation: StudySituation) -> None:
        self._assessed.put(("study", row, self._completion.judge_study(row, routing, situation)))

    def _do(self, key: tuple[str, int], files: int, task: Callable[[], None]) -> None:
        """Judges at once, or where that takes its time in the lane for it. Nothing is lost if the lane dies half-way:
        what is not complete in the ledger is judged again."""
        if files > _BIG:
            self._big.submit(key, partial(_patient, task))
        else:
            task()

    def _take_assessments(self) -> None:
        while not self._assessed.empty():
            kind, row, assessment = self._assessed.get()
            if assessment is None:
                continue
            if kind == "study":
                self._studies.assessed(row, assessment)
            elif assessment.done:
                self._forget(row)
                self._studies.stir(row.study_id)
            elif assessment.missing:
                self._lacking.add(row.id)

    def _forget(self, row: Record) -> None:
        self._watched.pop(row.id, None)
        self._of_peer[digest(row.peer)].discard(row.id)
        self._lacking.discard(row.id)
        self._inquiry.forget(row.id)

    # ---- looking at what comes in -------------------------------------------------------------------------------

    def _look(self, routing: Routing, now: float) -> None:
        """Finds out which series are worth judging before they have been quiet for long."""
        if routing is not self._routing:
            self._routing, self._looked = routing, 0.0
            self._watched.clear()
        with self._ledger.read() as tx:
            stirred = assembling.stirred(tx, self._looked - _SLACK, now - _BRIEF)
        for row in stirred:
            known = self._watched.get(row.id)
            if known is None or known.row.changes != row.changes:
                self._stir(row, routing)
        self._looked = now - _BRIEF
        self._look_at_senders(routing, now)
        self._ask(routing, now)

    def _stir(self, row: Record, routing: Routing) -> None:
        """Something new has come of a series."""
        watched = self._watched[row.id] = self._look_at(row, routing)
        if watched.graces or _may_ask(routing):
            self._of_peer[digest(row.peer)].add(row.id)
        if watched.claimed:
            with self._ledger.read() as tx:
                if assembling.instances(tx, row.id) >= watched.claimed:
                    self._marked.add(row.id)

    def _look_at(self, row: Record, routing: Routing) -> _Watched:
        """What evidence there may be for a series, by one of its headers and by what the file says of its sender."""
        with self._ledger.read() as tx:
            path = assembling.newest_path(tx, row.id)
        try:
            attributes = read_attributes(self._settings.spool / path, EVIDENCE) if path else {}
        except (NotDicomError, OSError):
            attributes = {}
        claimed, of_acquisition = claims_of(attributes)
        sender = routing.senders.complete_of(row.calling_aet, row.peer, addresses_of)
        stated = (each.of_sender(sender).released for each in _completes(routing))
        graces = {max(each, SETTLED) for each in stated if each is not None} | ({SETTLED} if of_acquisition else set())
        return _Watched(row, claimed, sorted(graces))

    def _look_at_senders(self, routing: Routing, now: float) -> None:
        """A sender that has no association open any more may have sent all of a series."""
        here = peers_open(self._settings.run / "associations")
        self._studies.look(routing, now, here)
        self._gone_since = {each: at for each, at in self._gone_since.items() if each not in here and now - at < _HOUR}
        for peer, ids in self._of_peer.items():
            if peer not in here and ids:
                gone = now - self._gone_since.setdefault(peer, now)
                for each in [self._watched[series_id] for series_id in ids if series_id in self._watched]:
                    self._look_at_gone(each, gone, routing, now)
                    if each.asked and not each.graces:
                        ids.discard(each.row.id)

    def _look_at_gone(self, each: _Watched, gone: float, routing: Routing, now: float) -> None:
        if gone >= SETTLED and not each.asked:
            each.asked = self._inquiry.ask(each.row, routing.destinations, now)
        while each.graces and gone >= each.graces[0]:
            self._marked.add(each.row.id)
            each.graces.pop(0)

    def _ask(self, routing: Routing, now: float) -> None:
        """Has peers asked in time for their answers to be there when a series has been quiet for long enough, and
        again for series that lack something."""
        for series_id in self._inquiry.heard():
            self._completion.wake("series", series_id)
            self._marked.add(series_id)
        if not _may_ask(routing):
            return
        half = now - _shortest(routing, "series") / 2
        with self._ledger.read() as tx:
            rows = assembling.stirred(tx, max(self._asked, half - _SLACK), half)
            lacking = assembling.still_open(tx, self._lacking) if self._lacking else []
        self._asked = half
        for row in (*rows, *lacking):
            self._inquiry.ask(row, routing.destinations, now)
        for row in lacking:
            self._inquiry.fetch(row, routing.destinations, now)
        self._lacking.intersection_update(row.id for row in lacking)


def _patient(task: Callable[[], None]) -> None:
    """A ledger that does not answer will, later: what is not complete in it is judged again."""
    try:
        task()
    except Unavailable as error:
        log().error("ledger unavailable", error=str(error.orig))


def _completes(routing: Routing) -> list[Complete]:
    return [routing.complete, *(rule.complete for rule in routing.rules)]


def _shortest(routing: Routing, level: Literal["series", "study"]) -> float:
    """The shortest quiet time of any rule and sender."""
    senders = (each.complete for each in routing.senders.listed or () if each.complete)
    return float(min(getattr(each, level) for each in (*_completes(routing), *senders)))


def _may_ask(routing: Routing) -> bool:
    return any(each.query for each in routing.destinations.values())
