"""What people and programs are shown: studies with their series, jobs, deliveries and timeline, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, exists, func, or_, select

from radnode.domain.errors import NotFoundError
from radnode.domain.jobs import DeliveryState, JobState, SeriesState
from radnode.domain.routing.near_misses import near_misses_in
from radnode.state import hours, pauses, schema, waits

View = dict[str, Any]

_ATTENTION_JOBS = (JobState.FAILED.value, JobState.HELD.value)
ATTENTION_DELIVERIES = (DeliveryState.PARKED.value, DeliveryState.HELD.value, DeliveryState.EXPIRED.value)
DONE = JobState.DONE.value
_LIVE_JOBS = (JobState.WAITING.value, JobState.RUNNING.value)
LIVE_DELIVERIES = (DeliveryState.WAITING.value, DeliveryState.SENDING.value)


class Views:
    """Reads the ledger. Times come out as ISO 8601 in `zone` (None: the system's)."""

    def __init__(self, tx: Connection, zone: tzinfo | None) -> None:
        self._tx, self._zone = tx, zone

    def studies(
        self, wanted: str = "", *, attention: bool = False, near_misses: bool = False, limit: int = 100
    ) -> list[View]:
        """The newest studies, or those of an accession number, a Patient ID or a UID.

        Args:
            attention: only those where a person can act.
            near_misses: only those without a job of which a rule was a near miss; `limit` without a job are looked at.
        """
        query = _chosen(wanted).limit(limit)
        if attention:
            query = query.where(_needs_attention())
        if near_misses:
            query = query.where(~exists().where(schema.job.c.study_id == schema.study.c.id))
        found = map(self._study, self._rows(query))
        return [each for each in found if each["near_misses"] or not near_misses]

    def jobs(self, *, state: str = "", app: str = "", limit: int = 100) -> list[View]:
        query = select(schema.job).order_by(schema.job.c.created_at.desc()).limit(limit)
        if state:
            query = query.where(schema.job.c.state == state)
        if app:
            query = query.where(schema.job.c.app == app)
        return [self._job(row) for row in self._tx.execute(query)]

    def job(self, prefix: str) -> View:
        """One job by the beginning of its ID, with inputs, results, deliveries and timeline. Raises NotFoundError."""
        row = self._one_job(prefix)
        deliveries = self._rows(
            select(schema.delivery).where(schema.delivery.c.job_id == row.id).order_by(schema.delivery.c.id)
        )
        results = self._rows(
            select(schema.result).where(schema.result.c.job_id == row.id).order_by(schema.result.c.position)
        )
        counted = select(func.count()).select_from(schema.job_input).where(schema.job_input.c.job_id == row.id)
        about_inputs = or_(
            schema.event.c.job_id == row.id,
            and_(
                schema.event.c.study_id == row.study_id,
                schema.event.c.job_id.is_(None),
                schema.event.c.at <= (row.finished_at or row.created_at),
            ),
        )
        return {
            **self._job(row),
            "options": row.options,
            "inputs": self._tx.execute(counted).scalar_one(),
            "results": [
                {
                    "SOPInstanceUID": each.sop_instance_uid,
                    "SOPClassUID": each.sop_class_uid,
                    "kind": each.kind,
                    "path": each.path,
                }
                for each in results
            ],
            "deliveries": [self._delivery(each) for each in deliveries],
            "timeline": self._timeline(about_inputs),
        }

    def _one_job(self, prefix: str) -> Row[Any]:
        found = (
            self._rows(select(schema.job).where(schema.job.c.id.startswith(prefix, autoescape=True)).limit(2))
            if prefix
            else []
        )
        if len(found) != 1:
            fault = "several jobs begin" if found else "no job begins"
            raise NotFoundError(f"{fault} with {prefix!r}", remedy="`radnode jobs` lists them")
        return found[0]

    def _study(self, row: Row[Any]) -> View:
        jobs = self._rows(select(schema.job).where(schema.job.c.study_id == row.id).order_by(schema.job.c.created_at))
        mine = select(schema.job.c.id).where(schema.job.c.study_id == row.id)
        deliveries = self._rows(
            select(schema.delivery).where(schema.delivery.c.job_id.in_(mine)).order_by(schema.delivery.c.id)
        )
        series = self._rows(
            select(schema.series).where(schema.series.c.study_id == row.id).order_by(schema.series.c.id)
        )
        waiting = waits.of_study(self._tx, row.id)
        timeline = self._timeline(schema.event.c.study_id == row.id)
        return {
            "id": row.id,
            "StudyInstanceUID": row.study_instance_uid,
            "AccessionNumber": row.accession_number,
            "PatientID": row.patient_id,
            "StudyDescription": row.headers.get("StudyDescription", ""),
            "state": "attention" if row.held else _study_state(row, series, jobs, deliveries, bool(waiting)),
            "missing": row.missing,
            "held": row.held,
            "purged": self._time(row.purged_at) if row.purge else None,
            "received": self._time(row.first_received_at),
            "last_received": self._time(row.last_received_at),
            "series": [self._series(each) for each in series],
            "jobs": [self._job(each) for each in jobs],
            "waits": [
                {"rule": each.rule, "missing": each.missing, "until": self._time(each.began_at + each.seconds)}
                for each in waiting
            ],
            "deliveries": [self._delivery(each) for each in deliveries],
            "near_misses": [] if jobs else near_misses_in(timeline),
            "timeline": timeline,
        }

    @cached_property
    def _paused(self) -> set[tuple[str, str]]:
        return {(each.kind, each.name) for each in pauses.all_paused(self._tx)}

    @cached_property
    def _down(self) -> dict[str, int]:
        """Destination -> how often it has failed in a row."""
        column = schema.destination.c
        return dict(self._tx.execute(select(column.name, column.failures).where(column.failures > 0)).all())

    def _waits_in_line(self, delivery: Row[Any]) -> str:
        """Of a destination that does not answer only one delivery is tried: the others wait behind it."""
        times = self._down.get(delivery.destination)
        if not times or delivery.state != DeliveryState.WAITING.value:
            return ""
        return f"{delivery.destination} has failed {times} times in a row; it is tried again by itself"

    def paused(self) -> list[View]:
        """Apps and destinations that a person has paused."""
        rows = pauses.all_paused(self._tx)
        return [{"kind": each.kind, "name": each.name, "who": each.who, "at": self._time(each.at)} for each in rows]

    def _series(self, row: Row[Any]) -> View:
        column = schema.instance.c
        sound = and_(column.series_id == row.id, column.flaw == "")
        stored = self._tx.execute(select(func.count(column.sop_instance_uid.distinct())).where(sound)).scalar_one()
        return {
            "SeriesInstanceUID": row.series_instance_uid,
            "Modality": row.headers.get("Modality", ""),
            "SeriesDescription": row.headers.get("SeriesDescription", ""),
            "state": _series_state(row),
            "generation": row.generation,
            "instances": stored,
            "missing": row.missing,
            "CallingAETitle": row.calling_aet,
            "CalledAETitle": row.called_aet,
        }

    def _job(self, row: Row[Any]) -> View:
        study = self._tx.execute(
            select(schema.study.c.study_instance_uid, schema.study.c.accession_number).where(
                schema.study.c.id == row.study_id
            )
        ).one()
        return {
            "id": row.id,
            "state": row.state,
            "app": row.app,
            "app_version": row.app_version,
            "rule": row.rule,
            "routing_version": row.routing_version,
            "level": row.level,
            "queue": row.queue,
            "priority": ("urgent", "normal", "low")[row.priority],
            "send_to": row.send_to,
            "shadow": row.shadow,
            "run_between": row.run_between,
            "waits_for_hours": row.state == JobState.WAITING.value and not hours.are_open(row.run_between),
            "paused": row.state == JobState.WAITING.value and ("app", row.app) in self._paused,
            "attempt": row.attempt,
            "crashes": row.crashes,
            "error": row.error,
            "supersedes": row.supersedes,
            "superseded_by": row.superseded_by,
            "progress": row.progress,
            "flag": row.flag,
            "purged": row.purged,
            "created": self._time(row.created_at),
            "started": self._time(row.started_at),
            "finished": self._time(row.finished_at),
            "StudyInstanceUID": study.study_instance_uid,
            "AccessionNumber": study.accession_number,
        }

    def _delivery(self, row: Row[Any]) -> View:
        answers = self._rows(select(schema.sent).where(schema.sent.c.delivery_id == row.id))
        total = select(func.count()).select_from(schema.result).where(schema.result.c.job_id == row.job_id)
        left_out = sum(each.left_out for each in answers)
        return {
            "id": row.id,
            "job": row.job_id,
            "destination": row.destination,
            "state": row.state,
            "paused": row.state == DeliveryState.WAITING.value and ("destination", row.destination) in self._paused,
            "attempt": row.attempt,
            "error": row.error or self._waits_in_line(row),
            "instances": self._tx.execute(total).scalar_one() - left_out,
            "stored": sum(each.stored for each in answers),
            "refused": [
                {"SOPInstanceUID": each.sop_instance_uid, "status": each.status, "comment": each.comment}
                for each in answers
                if not each.stored and not each.left_out
            ],
            "created": self._time(row.created_at),
            "finished": self._time(row.finished_at),
        }

    def _timeline(self, which: Any) -> list[View]:
        rows = self._rows(select(schema.event).where(which).order_by(schema.event.c.at, schema.event.c.id))
        uids = self._series_uids(rows)
        return [
            {
                "at": self._time(each.at),
                "event": each.kind,
                "SeriesInstanceUID": uids.get(each.series_id, ""),
                "job": each.job_id or "",
                "delivery": each.delivery_id,
                **each.data,
            }
            for each in rows
        ]

    def _series_uids(self, rows: Sequence[Row[Any]]) -> dict[int, str]:
        ids = {each.series_id for each in rows if each.series_id is not None}
        found = self._tx.execute(
            select(schema.series.c.id, schema.series.c.series_instance_uid).where(schema.series.c.id.in_(ids))
        )
        return dict(found.all())

    def _rows(self, query: Select[Any]) -> list[Row[Any]]:
        return list(self._tx.execute(query).all())

    def _time(self, at: float | None) -> str | None:
        return (
            None if at is None else datetime.fromtimestamp(at).astimezone(self._zone).isoformat(timespec="milliseconds")
        )


def _chosen(wanted: str) -> Select[Any]:
    """The newest studies, or those of an accession number, a Patient ID or a UID, which may be a series'."""
    column = schema.study.c
    query = select(schema.study).order_by(column.last_received_at.desc(), column.id.desc())
    if not wanted:
        return query
    names = (column.accession_number, column.patient_id, column.study_instance_uid)
    of_series = exists().where(schema.series.c.study_id == column.id, schema.series.c.series_instance_uid == wanted)
    return query.where(or_(*(each == wanted for each in names), of_series))


def select_jobs(
    tx: Connection,
    ids: Sequence[str],
    *,
    states: Sequence[str],
    app: str = "",
    rule: str = "",
    state: str = "",
    since: float | None = None,
    destination: str = "",
) -> list[str]:
    """IDs of jobs by their beginnings, or by filters: only those in one of `states` whose images are here.

    Where images were taken back only who names a job means it.
    """
    column = schema.job.c
    standing = and_(column.state.in_(states), column.superseded_by == "", ~_images_gone())
    query = select(column.id).where(standing).order_by(column.created_at)
    for chosen, value in ((column.app, app), (column.rule, rule), (column.state, state)):
        query = query.where(chosen == value) if value else query
    if since is not None:
        query = query.where(column.created_at >= since)
    if destination:
        there = and_(schema.delivery.c.job_id == column.id, schema.delivery.c.destination == destination)
        query = query.where(exists().where(there))
    named = [column.id.startswith(each, autoescape=True) for each in ids]
    return list(tx.execute(query.where(or_(*named) if named else column.flag == "")).scalars())


def select_deliveries(
    tx: Connection,
    job_ids: Sequence[str],
    *,
    states: Sequence[str],
    destination: str = "",
    app: str = "",
    rule: str = "",
    since: float | None = None,
) -> list[int]:
    """IDs of deliveries by their jobs' beginnings, or by filters: only those in one of `states` that can be sent.

    Of cancelled ones these are what a person has cancelled. Where images were taken back only who names a job means it.
    """
    column, job = schema.delivery.c, schema.job.c
    wanted = or_(column.state != DeliveryState.CANCELLED.value, ~column.withdrawn)
    query = (
        select(column.id)
        .join(schema.job, job.id == column.job_id)
        .where(column.state.in_(states), wanted, job.superseded_by == "", ~job.purged)
        .order_by(column.id)
    )
    for chosen, value in ((column.destination, destination), (job.app, app), (job.rule, rule)):
        query = query.where(chosen == value) if value else query
    if since is not None:
        query = query.where(column.created_at >= since)
    named = [column.job_id.startswith(each, autoescape=True) for each in job_ids]
    return list(tx.execute(query.where(or_(*named) if named else job.flag == "")).scalars())


def purged_jobs(tx: Connection, ids: Sequence[str], *, images: bool) -> list[str]:
    """Of these IDs, by their beginnings, the jobs whose images, or results too, are gone."""
    column = schema.job.c
    named = or_(*(column.id.startswith(each, autoescape=True) for each in ids))
    gone = _images_gone() if images else or_(column.purged, _images_gone())
    return list(tx.execute(select(column.id).where(named, gone)).scalars())


def _images_gone() -> Any:
    taken = schema.job_input.c
    return exists().where(
        taken.job_id == schema.job.c.id, taken.instance_id == schema.instance.c.id, schema.instance.c.purged
    )


def _concerns_a_person(job: Row[Any]) -> bool:
    bad = job.state in _ATTENTION_JOBS or (job.state == DONE and job.flag)
    return bool(bad) and not job.superseded_by


def _series_state(row: Row[Any]) -> str:
    """`incomplete` also while it waits for what is missing."""
    return SeriesState.INCOMPLETE.value if row.missing else str(row.state)


def _study_state(
    study: Row[Any], series: Sequence[Row[Any]], jobs: Sequence[Row[Any]], deliveries: Sequence[Row[Any]], waiting: bool
) -> str:
    """`receiving`, `incomplete` where instances are known to be missing, `complete` while work or a wait is under
    way, then `done`; `attention` where a person can act."""
    if any(_concerns_a_person(each) for each in jobs) or any(
        each.state in ATTENTION_DELIVERIES for each in deliveries
    ):
        return "attention"
    if study.missing or any(each.missing for each in series):
        return SeriesState.INCOMPLETE.value
    if study.state == "receiving":
        return str(study.state)
    under_way = (
        waiting
        or any(each.state in _LIVE_JOBS for each in jobs)
        or any(each.state in LIVE_DELIVERIES for each in deliveries)
    )
    return "complete" if under_way else "done"


def _needs_attention() -> Any:
    job, delivery = schema.job.c, schema.delivery.c
    mine = job.study_id == schema.study.c.id
    bad = or_(job.state.in_(_ATTENTION_JOBS), and_(job.state == DONE, job.flag != ""))
    failed = exists().where(mine, bad, job.superseded_by == "")
    parked = exists().where(mine, delivery.job_id == job.id, delivery.state.in_(ATTENTION_DELIVERIES))
    lacking = exists().where(schema.series.c.study_id == schema.study.c.id, schema.series.c.missing > 0)
    return or_(schema.study.c.held != "", schema.study.c.missing > 0, failed, parked, lacking)
