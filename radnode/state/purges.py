"""What retention takes: files of studies that are finished, while the ledger goes on telling what became of them.

    kept ("") ─► going ─► gone      (`study.purge`); what comes anew of a study that is gone makes it kept again

All of a study is marked first: from then on nobody looks for its files, no scan adopts them, and nothing new of it is
judged. Then they are removed, then it is `gone`. What died in between is finished by the next purge.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, delete, exists, func, insert, or_, select, update

from radnode.state import jobs, schema, waits
from radnode.state.intake import COMPLETE, study_of
from radnode.state.jobs import CANCELLED, DONE, FAILED, HELD, RUNNING, WAITING, ResultRow
from radnode.state.ledger import CHUNK, note, take_turns
from radnode.state.views import ATTENTION_DELIVERIES, LIVE_DELIVERIES

KEPT, GOING, GONE = "", "going", "gone"
_study, _series, _instance = schema.study.c, schema.series.c, schema.instance.c
_job, _delivery = schema.job.c, schema.delivery.c


# ---- what may go -----------------------------------------------------------------------------------------------------


def oldest(tx: Connection, before: float, after: Row[Any] | None = None, limit: int = 100) -> Sequence[Row[Any]]:
    """Studies that nothing has come of since `before` (seconds since the epoch), the oldest first, `after` one."""
    query = select(schema.study).where(_study.purge == KEPT, _study.last_received_at <= before)
    if after is not None:
        at = after.last_received_at
        query = query.where(
            or_(_study.last_received_at > at, and_(_study.last_received_at == at, _study.id > after.id))
        )
    return tx.execute(query.order_by(_study.last_received_at, _study.id).limit(limit)).all()


def younger(tx: Connection, than: float) -> int:
    """How many kept studies something has come of since then."""
    query = select(func.count()).where(_study.purge == KEPT, _study.last_received_at > than)
    return int(tx.execute(query).scalar_one())


def first_kept(tx: Connection) -> float | None:
    """When the last of the oldest study that is kept came."""
    return tx.execute(select(func.min(_study.last_received_at)).where(_study.purge == KEPT)).scalar()


def named(tx: Connection, wanted: str) -> Sequence[Row[Any]]:
    """Kept studies of an accession number, a Patient ID or a Study Instance UID."""
    names = or_(*(each == wanted for each in (_study.study_instance_uid, _study.accession_number, _study.patient_id)))
    return tx.execute(select(schema.study).where(names, _study.purge == KEPT).order_by(_study.id)).all()


def why_kept(tx: Connection, study: Row[Any], *, decided: bool = False) -> str:
    """What of a study is not finished; empty: its files may go.

    Args:
        decided: a person has, of what waits for one.
    """
    found = [*_under_way(tx, study), *([] if decided else _for_a_person(tx, study))]
    return found[0] if found else ""


def _under_way(tx: Connection, study: Row[Any]) -> Iterator[str]:
    mine, column = _job.study_id == study.id, (_series.study_id == study.id, _series.state == "receiving")
    if study.state != COMPLETE or tx.execute(select(exists().where(*column))).scalar():
        yield "it is still receiving"
    for each in waits.of_study(tx, study.id):
        yield f"rule {each.rule} waits for {', '.join(each.missing)}"
    for job_id, state in tx.execute(select(_job.id, _job.state).where(mine, _job.state.in_((WAITING, RUNNING)))):
        yield f"job {job_id[:12]} is {state}"
    for destination, state in tx.execute(_deliveries(study.id).where(_delivery.state.in_(LIVE_DELIVERIES))):
        yield f"the delivery to {destination} is {state}"


def _for_a_person(tx: Connection, study: Row[Any]) -> Iterator[str]:
    if study.held:
        yield f"it is held: {study.held}"
    mine = and_(_job.study_id == study.id, _job.superseded_by == "")
    bad = or_(_job.state.in_((FAILED, HELD)), and_(_job.state == DONE, _job.flag != ""))
    for job_id, state in tx.execute(select(_job.id, _job.state).where(mine, bad)):
        yield f"job {job_id[:12]} is {'flagged' if state == DONE else state}"
    for destination, state in tx.execute(_deliveries(study.id).where(_delivery.state.in_(ATTENTION_DELIVERIES))):
        yield f"the delivery to {destination} is {state}"
    missing = select(func.coalesce(func.sum(_series.missing), 0)).where(_series.study_id == study.id)
    if number := study.missing + tx.execute(missing).scalar_one():
        yield f"{number} of its images are missing"


def _deliveries(study_id: int) -> Any:
    return select(_delivery.destination, _delivery.state).join(schema.job).where(_job.study_id == study_id)


def rested_at(tx: Connection, study: Row[Any]) -> float:
    """When the last thing happened to a study: something came, a job or a delivery ended."""
    of_jobs = select(func.max(_job.finished_at)).where(_job.study_id == study.id)
    of_deliveries = select(func.max(_delivery.finished_at)).join(schema.job).where(_job.study_id == study.id)
    ends = [tx.execute(each).scalar() for each in (of_jobs, of_deliveries)]
    return float(max(study.last_received_at, *(each or 0.0 for each in ends)))


def size(tx: Connection, study_id: int) -> tuple[int, int]:
    """Instances, and bytes of these and of what jobs have made of them, that are still here."""
    here = and_(_instance.series_id.in_(_series_of(study_id)), ~_instance.purged)
    count, received = tx.execute(select(func.count(), func.coalesce(func.sum(_instance.size), 0)).where(here)).one()
    made = select(func.coalesce(func.sum(schema.result.c.size), 0)).join(schema.job)
    own = tx.execute(made.where(_job.study_id == study_id, _job.app != "", ~_job.purged)).scalar_one()
    return int(count), int(received) + int(own)


def _series_of(study_id: int) -> Any:
    return select(_series.id).where(_series.study_id == study_id)


# ---- its way out -----------------------------------------------------------------------------------------------------


def unfinished(tx: Connection) -> Sequence[int]:
    """Studies that are marked, and whose files may not all be removed."""
    return tx.execute(select(_study.id).where(_study.purge == GOING).order_by(_study.id)).scalars().all()


def without_fingerprint(tx: Connection, study_id: int) -> dict[int, str]:
    """Some of a study's instances whose fingerprints are to be remembered before they go: ID -> path."""
    mine = and_(_instance.series_id.in_(_series_of(study_id)), _instance.fingerprint == "")
    return dict(tx.execute(select(_instance.id, _instance.path).where(mine, ~_instance.purged).limit(CHUNK)).all())


def remember(tx: Connection, fingerprints: Mapping[int, str]) -> None:
    for instance_id, fingerprint in fingerprints.items():
        tx.execute(update(schema.instance).where(_instance.id == instance_id).values(fingerprint=fingerprint))


def mark(tx: Connection, study_id: int, rested: float, *, why: str, who: str = "") -> bool:
    """Nobody looks for a study's files from now on.

    False where it may not go, because something has happened to it since `rested` (seconds since the epoch).

    Args:
        who: a person decides also of what waits for one: it is cancelled.
    """
    take_turns(tx, "intake")
    take_turns(tx, "jobs")
    study = study_of(tx, study_id)
    if study.purge != KEPT or rested_at(tx, study) > rested or why_kept(tx, study, decided=bool(who)):
        return False
    instances, freed = size(tx, study_id)
    if who:
        _settle(tx, study_id)
    tx.execute(update(schema.study).where(_study.id == study_id).values(purge=GOING, purged_at=time.time()))
    tx.execute(update(schema.instance).where(_instance.series_id.in_(_series_of(study_id))).values(purged=True))
    tx.execute(update(schema.job).where(_job.study_id == study_id).values(purged=True))
    note(tx, "purged", study_id=study_id, instances=instances, bytes=freed, why=why, who=who)
    return True


def _settle(tx: Connection, study_id: int) -> None:
    """What waited for a person waits no more."""
    mine, now = _job.study_id == study_id, time.time()
    waited = case((_job.state.in_((FAILED, HELD)), CANCELLED), else_=_job.state)
    tx.execute(update(schema.job).where(mine).values(state=waited, flag=""))
    unsent = and_(_delivery.job_id.in_(select(_job.id).where(mine)), _delivery.state.in_(ATTENTION_DELIVERIES))
    tx.execute(update(schema.delivery).where(unsent).values(state=CANCELLED, finished_at=now))
    tx.execute(update(schema.study).where(_study.id == study_id).values(held="", missing=0))
    tx.execute(update(schema.series).where(_series.study_id == study_id).values(missing=0))


def paths(tx: Connection, study_id: int) -> Sequence[str]:
    """Where the files of a study's purged instances lay."""
    mine = and_(_instance.series_id.in_(_series_of(study_id)), _instance.purged)
    return tx.execute(select(_instance.path).where(mine)).scalars().all()


def attempts(tx: Connection, study_id: int) -> dict[str, int]:
    """A study's purged jobs: ID -> attempts, each of which may have left a log."""
    return dict(tx.execute(select(_job.id, _job.attempt).where(_job.study_id == study_id, _job.purged)).all())


def finish(tx: Connection, study_id: int) -> None:
    """Its files are removed. What has come of it meanwhile is kept."""
    take_turns(tx, "intake")
    anew = exists().where(_instance.series_id.in_(_series_of(study_id)), ~_instance.purged)
    going = and_(_study.id == study_id, _study.purge == GOING)
    tx.execute(update(schema.study).where(going).values(purge=case((anew, KEPT), else_=GONE)))


# ---- what comes again ------------------------------------------------------------------------------------------------


def bring_back(tx: Connection, pairs: Sequence[tuple[Row[Any], Row[Any]]]) -> None:
    """Instances that were purged have come again, byte for byte: (the purged, the new) each. They are the old ones."""
    for old, new in pairs:
        tx.execute(delete(schema.instance).where(_instance.id == new.id))
        here = {"path": new.path, "size": new.size, "association": new.association, "purged": False}
        tx.execute(update(schema.instance).where(_instance.id == old.id).values(here))


def lacking(tx: Connection, study_id: int, series_id: int | None) -> int:
    """How many instances of a series (None: of a study) are purged and have not come again; its series say so."""
    other = schema.instance.alias().c
    same = and_(other.series_id == _instance.series_id, other.sop_instance_uid == _instance.sop_instance_uid)
    again = exists().where(same, ~other.purged)
    of = _instance.series_id.in_(_series_of(study_id)) if series_id is None else _instance.series_id == series_id
    gone = select(_instance.series_id, func.count(_instance.sop_instance_uid.distinct())).where(
        of, _instance.purged, ~_instance.own, ~again
    )
    found: dict[int, int] = dict(tx.execute(gone.group_by(_instance.series_id)).all())
    for each, missing in found.items():
        tx.execute(update(schema.series).where(_series.id == each).values(missing=missing))
    return sum(found.values())


def revive(tx: Connection, job: Row[Any], inputs: Mapping[str, Sequence[int]], send_to: Sequence[str]) -> Row[Any]:
    """The images of a purged job are here again. Where a destination has had nothing of it yet, it makes its results
    again: the same, under the same UIDs. Returns the job as it is now."""
    tx.execute(delete(schema.job_input).where(schema.job_input.c.job_id == job.id))
    rows = [{"job_id": job.id, "name": name, "instance_id": each} for name, ids in inputs.items() for each in ids]
    tx.execute(insert(schema.job_input), rows)
    served = and_(_delivery.job_id == job.id, ~_delivery.withdrawn)
    if job.state == DONE and set(send_to) - set(tx.execute(select(_delivery.destination).where(served)).scalars()):
        again = {"state": WAITING, "purged": False, "crashes": 0, "losses": 0, "finished_at": None}
        tx.execute(update(schema.job).where(_job.id == job.id).values(again))
        jobs.noted(tx, job, "made again", why="its results were purged")
    return jobs.get(tx, job.id)


def refill(tx: Connection, job_id: str, results: Sequence[ResultRow]) -> None:
    """The originals that a purged job forwarded are here again, at other places."""
    purged = and_(_job.id == job_id, _job.purged)
    if tx.execute(update(schema.job).where(purged).values(purged=False)).rowcount == 1:
        tx.execute(delete(schema.result).where(schema.result.c.job_id == job_id))
        jobs.add_results(tx, job_id, results)
