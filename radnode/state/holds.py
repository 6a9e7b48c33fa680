"""What waits for a person besides jobs: studies held back as a whole, and results whose images were rejected."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, or_, select, update

from radnode.state import schema
from radnode.state.intake import RECEIVING
from radnode.state.ledger import note, take_turns

_study, _job = schema.study.c, schema.job.c


def hold_all(tx: Connection, why: str) -> None:
    """Nothing is made of the studies there are until a person releases them."""
    tx.execute(update(schema.study).where(_study.held == "").values(held=why))


def studies(tx: Connection, wanted: Sequence[str] = ()) -> Sequence[str]:
    """Study Instance UIDs of held studies, of these UIDs, accession numbers or Patient IDs; without: of all."""
    query = select(_study.study_instance_uid).where(_study.held != "").order_by(_study.id)
    if wanted:
        columns = _study.study_instance_uid, _study.accession_number, _study.patient_id
        query = query.where(or_(*(each.in_(wanted) for each in columns)))
    return tx.execute(query).scalars().all()


def release(tx: Connection, uid: str, who: str) -> bool:
    """The study is judged as if it had come now."""
    take_turns(tx, "intake")
    held = and_(_study.study_instance_uid == uid, _study.held != "")
    values = {"held": "", "state": RECEIVING, "changes": _study.changes + 1}
    row = tx.execute(update(schema.study).where(held).values(values).returning(_study.id)).first()
    if row is None:
        return False
    series = schema.series.c
    again = {"state": RECEIVING, "changes": series.changes + 1}
    tx.execute(update(schema.series).where(series.study_id == row.id).values(again))
    note(tx, "released", study_id=row.id, who=who)
    return True


def flagged(tx: Connection, ids: Sequence[str]) -> Sequence[str]:
    """IDs of flagged jobs, by their beginnings."""
    named = or_(*(_job.id.startswith(each, autoescape=True) for each in ids))
    return tx.execute(select(_job.id).where(named, _job.flag != "")).scalars().all()


def unflag(tx: Connection, job_id: str, who: str) -> bool:
    """A person has seen to the results."""
    flag = and_(_job.id == job_id, _job.flag != "")
    job = tx.execute(update(schema.job).where(flag).values(flag="").returning(schema.job)).first()
    if job is not None:
        note(tx, "seen to", study_id=job.study_id, series_id=job.series_id, job_id=job_id, who=who)
    return job is not None
