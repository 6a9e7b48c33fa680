"""What waits for a person: studies held back as a whole, results whose images were rejected, failed jobs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, exists, or_, select, update

from radnode.state import schema
from radnode.state.intake import RECEIVING
from radnode.state.jobs import CANCELLED, FAILED
from radnode.state.ledger import insert_new, note, take_turns

_study, _job, _node = schema.study.c, schema.job.c, schema.node.c
_LOSS, _MAYBE, _FOUND, _KNOWN = "ledger_lost", "maybe", "found", "known"


def watch_for_loss(tx: Connection) -> None:
    """At the start of core: a ledger that no core has used before may be new because another one was lost."""
    used = bool(tx.execute(select(exists(select(_study.id)))).scalar())
    first = {"key": _LOSS, "value": _KNOWN if used else _MAYBE}
    if tx.execute(insert_new(tx, schema.node), first).rowcount != 1 and used:
        _say(tx, _MAYBE, _KNOWN)


def adopting(tx: Connection) -> None:
    """Instances lie in the spool that the ledger does not know: if it is new, another one was lost."""
    _say(tx, _MAYBE, _FOUND)


def loss(tx: Connection) -> int:
    """After adoption: holds the studies of a ledger that was lost, and returns how many those are."""
    lost = _say(tx, _FOUND, _KNOWN)
    _say(tx, _MAYBE, _KNOWN)
    if not lost:
        return 0
    why = "the ledger was lost: what was made and sent of it before is not known"
    return tx.execute(update(schema.study).where(_study.held == "").values(held=why)).rowcount


def _say(tx: Connection, before: str, now: str) -> bool:
    known = and_(_node.key == _LOSS, _node.value == before)
    return tx.execute(update(schema.node).where(known).values(value=now)).rowcount == 1


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


def settle(tx: Connection, job_id: str, who: str) -> bool:
    """A person has seen that a job failed, and leaves it at that."""
    failed = and_(_job.id == job_id, _job.state == FAILED)
    job = tx.execute(update(schema.job).where(failed).values(state=CANCELLED).returning(schema.job)).first()
    if job is not None:
        note(tx, "cancelled", study_id=job.study_id, series_id=job.series_id, job_id=job_id, who=who)
    return job is not None
