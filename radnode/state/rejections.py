"""Images that a rejection note has taken back: out of their series, and out of the jobs that took them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, select, update

from radnode.state import deliveries, jobs, schema
from radnode.state.intake import RECEIVING
from radnode.state.jobs import CANCELLED, DONE, HELD, RUNNING, WAITING
from radnode.state.ledger import chunks, insert_new, note, take_turns

_job, _instance, _rejection = schema.job.c, schema.instance.c, schema.rejection.c


def rejected(tx: Connection, study_id: int, passing: str) -> dict[str, int | None]:
    """SOP Instance UID -> the note's row, before which copies are meant; None: all copies, also those still to come.

    Args:
        passing: code of the title that means only what came before the note.
    """
    uid = select(schema.study.c.study_instance_uid).where(schema.study.c.id == study_id).scalar_subquery()
    query = select(_rejection.sop_instance_uid, _rejection.code, _rejection.instance_id)
    found: dict[str, int | None] = {}
    for sop_uid, code, row in tx.execute(query.where(_rejection.study_instance_uid == uid).order_by("instance_id")):
        found[sop_uid] = row if code == passing and found.get(sop_uid, 0) is not None else None
    return found


def reject(
    tx: Connection, note_row: Row[Any], study_id: int, code: str, reason: str, uids: Collection[str], now: float
) -> None:
    """Takes images out: jobs that have not ended stop, results that went are flagged, the rest is judged anew.

    The same note again changes nothing.
    """
    take_turns(tx, "intake")
    uid = tx.execute(select(schema.study.c.study_instance_uid).where(schema.study.c.id == study_id)).scalar_one()
    rows = [
        {"study_instance_uid": uid, "sop_instance_uid": each, "instance_id": note_row.id, "code": code}
        for each in sorted(uids)
    ]
    if not rows or tx.execute(insert_new(tx, schema.rejection), rows[0]).rowcount != 1:
        return
    tx.execute(insert_new(tx, schema.rejection), rows)
    note(tx, "rejected", study_id=study_id, series_id=note_row.series_id, reason=reason, images=len(rows))
    for part in chunks(sorted(uids)):
        for job in _jobs_with(tx, study_id, part):
            _stop(tx, job, reason)
        _judge_again(tx, study_id, part, now)


def _jobs_with(tx: Connection, study_id: int, uids: Sequence[str]) -> Sequence[Row[Any]]:
    """Jobs of apps that take one of these images and still stand."""
    taken = schema.job_input.join(schema.instance, _instance.id == schema.job_input.c.instance_id)
    takes = (
        exists().select_from(taken).where(schema.job_input.c.job_id == _job.id, _instance.sop_instance_uid.in_(uids))
    )
    mine = and_(_job.study_id == study_id, _job.app != "", _job.superseded_by == "", _job.flag == "")
    return tx.execute(select(schema.job).where(mine, takes).with_for_update()).all()


def _stop(tx: Connection, job: Row[Any], reason: str) -> None:
    values: dict[str, Any] = {"flag": f"images it was made from were taken back: {reason}"}
    if job.state in (WAITING, RUNNING, HELD):
        values |= {"state": CANCELLED, "owner": "", "finished_at": time.time()}
    tx.execute(update(schema.job).where(_job.id == job.id).values(values))
    deliveries.withdraw(tx, job.id)
    jobs.noted(tx, job, "flagged" if job.state == DONE else "cancelled", reason=values["flag"])


def _judge_again(tx: Connection, study_id: int, uids: Sequence[str], now: float) -> None:
    """The series without these images is another one."""
    series, study = schema.series.c, schema.study.c
    touched = exists().where(_instance.series_id == series.id, _instance.sop_instance_uid.in_(uids))
    again = {"state": RECEIVING, "seen": now}
    mine = and_(series.study_id == study_id, touched)
    if tx.execute(update(schema.series).where(mine).values(changes=series.changes + 1, **again)).rowcount:
        tx.execute(update(schema.study).where(study.id == study_id).values(changes=study.changes + 1, **again))
