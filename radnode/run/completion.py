"""From "nothing came for a while" to jobs: completes series and studies, holds the rules against them, makes jobs."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from radnode import metrics
from radnode.dicom.headers import read_attributes
from radnode.domain.errors import NotDicomError
from radnode.domain.jobs import PRIORITIES, JobInput, JobState, job_id
from radnode.domain.routing import Catalog, Evaluation, Routing, Rule, evaluate_series, evaluate_study, open_at
from radnode.domain.study import Instance, Series, Study
from radnode.run.broker import Tickets
from radnode.settings import Settings
from radnode.state import intake, jobs
from radnode.state.ledger import Ledger, Record, Transaction, note
from radnode.telemetry import log

_OF_STUDY = ("AccessionNumber", "PatientID", "StudyDescription", "StudyDate", "StudyTime")
_OF_SERIES = ("Modality", "SeriesDescription", "SeriesNumber", "BodyPartExamined")
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
FORWARD = "original"
_PIECE = 1 << 20


@dataclass(frozen=True)
class Filed:
    """A series as it is judged: its rows in the ledger, one per SOP instance, and what the headers say."""

    row: Record
    instances: tuple[Record, ...]
    series: Series

    @property
    def context(self) -> dict[str, str]:
        return {"CallingAETitle": self.row.calling_aet, "CalledAETitle": self.row.called_aet}


class Completion:
    """Judges what has gone quiet. A rule with times of its own fires when those have passed."""

    def __init__(self, settings: Settings, ledger: Ledger, catalog: Catalog, tickets: Tickets) -> None:
        self._settings, self._ledger, self._catalog, self._tickets = settings, ledger, catalog, tickets
        self._later: dict[tuple[str, int], tuple[int, float]] = {}

    def postponed(self, kind: str, row: Record, now: float) -> bool:
        """Whether a rule's longer quiet time is still being waited for, and nothing new has come since."""
        changes, until = self._later.get((kind, row.id), (-1, 0.0))
        return changes == row.changes and now < until

    def series(self, row: Record, routing: Routing) -> None:
        """Holds the series-level rules against a quiet series, makes their jobs, completes it."""
        filed = self._file(row, routing)
        if filed is None:
            return
        evaluations = evaluate_series(routing, filed.series, filed.context)
        matched = [each for each in evaluations if each.matched]
        ready, wait = self._split(
            matched, row, [each.rule.complete.series for each in matched], routing.complete.series
        )
        made: list[str] = []
        with self._ledger.begin() as tx:
            if not wait and not self._complete_series(tx, filed, evaluations):
                return
            for each in ready:
                made += self._make(tx, each.rule, routing, row.study_id, row.id, [filed])
        self._after("series", row, wait, made)
        if not wait:
            metrics.series_completed.inc()
            metrics.series_unmatched.inc(not matched)

    def study(self, row: Record, routing: Routing) -> None:
        """Holds the study-level rules against a quiet study, makes their jobs, completes it."""
        with self._ledger.read() as tx:
            rows = intake.series_of(tx, row.id)
        filed = {
            each.series.SeriesInstanceUID: each for each in (self._file(r, routing) for r in rows) if each is not None
        }
        evaluations: tuple[Evaluation, ...] = ()
        if filed:
            study = Study(tuple(each.series for each in filed.values()))
            evaluations = evaluate_study(routing, study, {uid: each.context for uid, each in filed.items()})
        matched = [each for each in evaluations if each.matched]
        ready, wait = self._split(matched, row, [each.rule.complete.study for each in matched], routing.complete.study)
        made: list[str] = []
        with self._ledger.begin() as tx:
            if not wait:
                if not intake.complete_study(tx, row):
                    return
                verdicts = [each.to_json() for each in evaluations]
                note(tx, "study complete", study_id=row.id, series=len(filed), rules=verdicts)
            for each in ready:
                chosen = [filed[series.SeriesInstanceUID] for series in each.series]
                made += self._make(tx, each.rule, routing, row.id, None, chosen)
        self._after("study", row, wait, made)
        if not wait:
            metrics.studies_completed.inc()
            log().info("study complete", study=row.id, series=len(filed), jobs=len(made))

    def _split(
        self, matched: Sequence[Evaluation], row: Record, times: Sequence[float], default: float
    ) -> tuple[list[Evaluation], float]:
        """Matches whose quiet time has passed, and until when the others wait (0: for none)."""
        quiet = self._ledger.now() - row.seen
        waiting = [time for time in (times if matched else [default]) if time > quiet]
        ready = [each for each, time in zip(matched, times, strict=True) if time <= quiet]
        return ready, row.seen + min(waiting) if waiting else 0.0

    def _after(self, kind: str, row: Record, wait: float, queues: Sequence[str]) -> None:
        if wait:
            self._later[kind, row.id] = (row.changes, wait)
        else:
            self._later.pop((kind, row.id), None)
        for queue in queues:
            self._tickets.send(queue)

    def _complete_series(self, tx: Transaction, filed: Filed, evaluations: Sequence[Evaluation]) -> bool:
        row, series = filed.row, filed.series
        new = [each.id for each in filed.instances if each.generation == 0]
        generation = row.generation + bool(new)
        headers = {keyword: series.first.text(keyword) for keyword in _OF_SERIES}
        if not intake.complete_series(
            tx, row, generation=generation, instance_ids=new, instances=len(filed.instances), headers=headers
        ):
            return False
        study = {keyword: series.first.text(keyword) for keyword in _OF_STUDY}
        intake.describe_study(tx, row.study_id, study["AccessionNumber"], study["PatientID"], study)
        note(
            tx,
            "complete",
            study_id=row.study_id,
            series_id=row.id,
            instances=len(filed.instances),
            new=len(new),
            generation=generation,
            rules=[each.to_json() for each in evaluations],
        )
        return True

    def _file(self, row: Record, routing: Routing) -> Filed | None:
        """The newest copy of each instance with what its header says; None where nothing sound is left."""
        with self._ledger.read() as tx:
            rows = intake.instances_of(tx, row.id)
        rows = self._without_copies(row, rows)
        keywords = routing.keywords.union(_OF_STUDY, _OF_SERIES, _IDENTITY)
        instances = tuple(self._read(each, row, keywords) for each in rows)
        return Filed(row, tuple(rows), Series(instances)) if instances else None

    def _read(self, row: Record, series: Record, keywords: Iterable[str]) -> Instance:
        """A header that cannot be read leaves what the receiver knew: it is routed on that."""
        path = self._settings.spool / row.path
        try:
            attributes = read_attributes(path, frozenset(keywords))
        except (NotDicomError, OSError) as error:
            log().warning("header unreadable", path=row.path, error=type(error).__name__)
            attributes = {}
        known = {
            "SOPInstanceUID": (row.sop_instance_uid,),
            "SOPClassUID": (row.sop_class_uid,),
            "SeriesInstanceUID": (series.series_instance_uid,),
        }
        return Instance(path, {**attributes, **known})

    def _without_copies(self, series: Record, rows: Sequence[Record]) -> list[Record]:
        """One row per SOP instance, the newest; a copy that is byte for byte the same is dropped with its file."""
        kept: dict[str, Record] = {}
        for row in rows:
            earlier = kept.get(row.sop_instance_uid)
            if earlier is None:
                kept[row.sop_instance_uid] = row
            elif self._same(earlier, row):
                with self._ledger.begin() as tx:
                    intake.drop_instance(tx, row.id)
                (self._settings.spool / row.path).unlink(missing_ok=True)
            else:
                kept[row.sop_instance_uid] = row
                if row.generation == 0:
                    with self._ledger.begin() as tx:
                        note(
                            tx,
                            "differing copy",
                            study_id=series.study_id,
                            series_id=series.id,
                            SOPInstanceUID=row.sop_instance_uid,
                        )
        return sorted(kept.values(), key=lambda each: int(each.id))

    def _same(self, one: Record, other: Record) -> bool:
        if one.transfer_syntax_uid != other.transfer_syntax_uid:
            return False
        try:
            return same_data_set(self._settings.spool / one.path, self._settings.spool / other.path)
        except OSError:
            return False

    def _make(
        self,
        tx: Transaction,
        rule: Rule,
        routing: Routing,
        study_id: int,
        series_id: int | None,
        chosen: Sequence[Filed],
    ) -> list[str]:
        """The rule's job; returns the queue to send a ticket to, if there is any work."""
        metrics.rules_matched.labels(rule.name).inc()
        if rule.app is None:
            chosen = _not_forwarded_yet(tx, rule, study_id, chosen)
            if not chosen:
                return ["deliver"]
        inputs = [_input(each) for each in chosen]
        new = jobs.NewJob(
            id=job_id(rule.app or f"forward by {rule.name}", rule.app_version, rule.options, inputs),
            study_id=study_id,
            series_id=series_id,
            rule=rule.name,
            routing_version=routing.version,
            app=rule.app or "",
            app_version=rule.app_version,
            level=rule.level,
            options=dict(rule.options),
            send_to=rule.send_to,
            queue="deliver" if rule.app is None else self._catalog.queue(rule.app),
            priority=PRIORITIES[rule.priority],
            last_image_at=max(each.row.last_received_at for each in chosen),
            inputs={one.name: [row.id for row in each.instances] for one, each in zip(inputs, chosen, strict=True)},
            label=rule.series,
            expire=rule.expire,
            not_before=self._not_before(rule),
        )
        if rule.app is None:
            _forward(tx, new, chosen)
        else:
            jobs.create(tx, new)
        return [new.queue]

    def _not_before(self, rule: Rule) -> float:
        """On the ledger's clock, when the rule's hours begin; 0 where it is open now."""
        local = datetime.now(self._settings.zone)
        if open_at(rule.run_between, local.time()) or rule.run_between is None:
            return 0.0
        start = rule.run_between.start
        opening = local.replace(hour=start.hour, minute=start.minute, second=0, microsecond=0)
        if opening < local:
            opening += timedelta(days=1)
        return self._ledger.now() + (opening - local).total_seconds()


def _not_forwarded_yet(tx: Transaction, rule: Rule, study_id: int, chosen: Sequence[Filed]) -> list[Filed]:
    """A forwarding rule sends only what is new; what it took before goes to destinations that are new to the rule."""
    earlier = jobs.forwarded(tx, rule.name, study_id)
    for each in earlier:
        jobs.add_destinations(tx, each, rule.send_to)
    taken = set().union(*earlier.values())
    rest = (replace(each, instances=tuple(row for row in each.instances if row.id not in taken)) for each in chosen)
    return [each for each in rest if each.instances]


def _forward(tx: Transaction, new: jobs.NewJob, chosen: Sequence[Filed]) -> None:
    """A rule without an app: the originals are the results, and are sent as they came."""
    jobs.create(tx, new, state=JobState.DONE.value)
    rows = [
        jobs.ResultRow(
            each.sop_instance_uid, each.sop_class_uid, each.transfer_syntax_uid, FORWARD, each.path, each.size
        )
        for filed in chosen
        for each in filed.instances
    ]
    jobs.add_results(tx, new.id, rows)
    jobs.make_deliveries(tx, jobs.get(tx, new.id))


def same_data_set(one: Path, other: Path) -> bool:
    """Whether two files of the spool hold the same bytes after their File Meta, which names who sent them."""
    with one.open("rb") as first, other.open("rb") as second:
        for stream in (first, second):
            (length,) = struct.unpack(
                "<L", stream.read(144)[140:]
            )  # value of (0002,0000), which comes first: PS3.10 7.1
            stream.seek(length, os.SEEK_CUR)
        while piece := first.read(_PIECE):
            if piece != second.read(_PIECE):
                return False
        return not second.read(1)


def _input(filed: Filed) -> JobInput:
    uids = tuple(row.sop_instance_uid for row in filed.instances)
    series_uid = filed.row.series_instance_uid
    return JobInput(series_uid, series_uid, uids, tuple(row.path for row in filed.instances))
