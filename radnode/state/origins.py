"""What the ledger knows of a job, as it lies beside the job's results: for a ledger that is lost, or an older copy.

A job that such a ledger does not know is put back from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, select

from radnode.domain.jobs import SeriesLabel
from radnode.state import deliveries, generations, jobs, schema
from radnode.state.jobs import RUNNING, WAITING, NewJob, ResultRow
from radnode.state.ledger import chunks, take_turns

Origin = Mapping[str, Any]
"""As JSON: the columns below, `StudyInstanceUID`, `inputs` (name -> paths in the spool), and who `asked` for it."""
_KEPT = (
    "id", "work", "revision", "identity", "predecessor", "supersedes", "reissues", "rule", "routing_version", "app",
    "app_version", "level", "options", "label", "send_to", "shadow", "expire", "notify", "mail_to", "queue", "priority",
    "created_at", "last_image_at",
)  # fmt: skip
_job, _asked, _series, _instance = schema.job.c, schema.asked.c, schema.series.c, schema.instance.c


def origin_of(tx: Connection, job_id: str) -> Origin:
    job = jobs.get(tx, job_id)
    asked = select(_asked.rule, _asked.send_to, _series.series_instance_uid.label("SeriesInstanceUID"))
    asked = asked.outerjoin(schema.series, _series.id == _asked.series_id)
    asked = asked.where(_asked.job_id == job_id, _asked.superseded_by == "")
    return {
        **{name: getattr(job, name) for name in _KEPT},
        "StudyInstanceUID": jobs.study_of(tx, job_id).study_instance_uid,
        "SeriesInstanceUID": _series_uid(tx, job.series_id),
        "inputs": jobs.inputs(tx, job_id),
        "asked": [dict(row) for row in tx.execute(asked).mappings()],
    }


def _series_uid(tx: Connection, series_id: int | None) -> str | None:
    return tx.execute(select(_series.series_instance_uid).where(_series.id == series_id)).scalar()


def unsettled(tx: Connection, job_ids: Collection[str]) -> set[str]:
    """Of jobs whose results are published: those that the ledger does not know, or not to have ended."""
    ended: set[str] = set()
    for some in chunks(job_ids):
        known = and_(_job.id.in_(some), _job.state.not_in((WAITING, RUNNING)))
        ended.update(tx.execute(select(_job.id).where(known)).scalars())
    return set(job_ids) - ended


@dataclass(frozen=True)
class Ended:
    """A job as it lies in the spool: `state` is that in which it ended, `reason` why where that is `declined`."""

    origin: Origin
    state: str
    reason: str
    results: Sequence[ResultRow]


def put_back(tx: Connection, study_uid: str, ended: Sequence[Ended], rejecting: str) -> int:
    """Makes jobs of a study as they had ended, in their order: each in the place of the one before it. What stands in
    the end is sent, unless the study is held: then not before it is released. Where something has come, and is not
    judged yet, that may take the images back, a person decides.

    Args:
        rejecting: the SOP class of what takes images back.

    Returns how many; without those whose study or images are all gone, and those the ledger knows.
    """
    take_turns(tx, "jobs")
    study = tx.execute(select(schema.study).where(schema.study.c.study_instance_uid == study_uid)).first()
    if study is None:
        return 0
    of_study = select(schema.series).where(_series.study_id == study.id)
    series = {row.series_instance_uid: row.id for row in tx.execute(of_study)}
    ids = [each.origin["id"] for each in ended if _put_back(tx, study, series, each)]
    may_be_taken_back = _has_unjudged(tx, rejecting, series.values())
    for each in () if study.held else ids:
        job = jobs.get(tx, each)
        if job.superseded_by == "":
            jobs.make_deliveries(tx, job)
            if may_be_taken_back:
                deliveries.hold_all(tx, job.id, "put back, and a key object came that may take its images back")
    return len(ids)


def _put_back(tx: Connection, study: Row[Any], series: Mapping[str, int], ended: Ended) -> bool:
    origin = ended.origin
    inputs = {name: ids for name, paths in origin["inputs"].items() if (ids := _ids(tx, paths))}
    new = _job_of(origin, study, series.get(origin["SeriesInstanceUID"]), inputs)
    if not inputs:
        return False
    made = jobs.create(tx, new, state=ended.state, error=ended.reason)
    jobs.add_results(tx, new.id, ended.results)
    if not made:
        return False
    for wish in origin["asked"]:
        send_to = () if study.held else tuple(wish["send_to"])
        mine = replace(new, rule=wish["rule"], series_id=series.get(wish["SeriesInstanceUID"]), send_to=send_to)
        jobs.ask(tx, mine)
        for old in generations.standing(tx, study.id, mine.series_id, mine.rule) if new.predecessor else ():
            if old.id != new.id:
                generations.supersede(tx, old, mine.rule, new.id)
    return True


def _has_unjudged(tx: Connection, sop_class_uid: str, series_ids: Collection[int]) -> bool:
    unjudged = and_(_instance.sop_class_uid == sop_class_uid, _instance.generation == 0, ~_instance.own)
    return bool(tx.execute(select(exists().where(_instance.series_id.in_(series_ids), unjudged))).scalar())


def _job_of(origin: Origin, study: Row[Any], series_id: int | None, inputs: dict[str, list[int]]) -> NewJob:
    values = {name: origin[name] for name in _KEPT if name != "created_at"}
    values |= {name: tuple(origin[name]) for name in ("notify", "mail_to", "send_to")}
    values |= {"label": SeriesLabel(**origin["label"])} | ({"send_to": ()} if study.held else {})
    return NewJob(
        **values,
        study_id=study.id,
        series_id=series_id,
        inputs=inputs,
        why="put back: the ledger was older than its results",
    )


def _ids(tx: Connection, paths: Sequence[str]) -> list[int]:
    found: list[int] = []
    for some in chunks(paths):
        found += tx.execute(select(_instance.id).where(_instance.path.in_(some))).scalars()
    return sorted(found)
