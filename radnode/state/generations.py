"""Generations in the ledger: a rule's newer job on the same series, or study, takes the place of the older one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, exists, or_, select, update

from radnode.state import deliveries, jobs, schema
from radnode.state.jobs import CANCELLED, DONE, HELD, RUNNING, WAITING, NewJob
from radnode.state.ledger import take_turns

_job, _asked, _delivery = schema.job.c, schema.asked.c, schema.delivery.c


def standing(tx: Connection, study_id: int, series_id: int | None, rule: str) -> Sequence[Row[Any]]:
    """The jobs of a rule on a series (None: on the study) that no newer one has superseded, the newest first.

    Until its end this transaction is the only one that makes generations.
    """
    take_turns(tx, "jobs")
    mine = and_(_asked.study_id == study_id, _asked.series_id.is_not_distinct_from(series_id), _asked.rule == rule)
    query = select(schema.job).join(schema.asked, _asked.job_id == _job.id).where(mine, _asked.superseded_by == "")
    newest = query.order_by(_job.created_at.desc(), _job.id)
    return tx.execute(newest.with_for_update(of=schema.job)).all()


def same_work(tx: Connection, new: NewJob) -> Row[Any] | None:
    """A job of the study that does, or has done, the same work under the same identity, if it still stands."""
    same = and_(_job.study_id == new.study_id, _job.work == new.work, _job.identity == new.identity)
    query = select(schema.job).where(same, _job.app == new.app, _job.superseded_by == "")
    return tx.execute(query.order_by(_job.created_at.desc()).limit(1)).first()


def inputs_of(tx: Connection, job_id: str) -> set[str]:
    """SOP Instance UIDs that a job takes."""
    joined = schema.job_input.join(schema.instance, schema.instance.c.id == schema.job_input.c.instance_id)
    query = select(schema.instance.c.sop_instance_uid).select_from(joined)
    return set(tx.execute(query.where(schema.job_input.c.job_id == job_id)).scalars())


def seen(tx: Connection, job: Row[Any] | None) -> str:
    """The job whose results somebody may have seen: this one, or the nearest of its predecessors; or none."""
    while job is not None:
        if job.state == DONE and _was_seen(tx, job.id):
            return str(job.id)
        job = tx.execute(select(schema.job).where(_job.id == job.predecessor)).first()
    return ""


def _was_seen(tx: Connection, job_id: str) -> bool:
    mine = _delivery.job_id == job_id
    stored = exists().where(schema.sent.c.delivery_id == _delivery.id, schema.sent.c.stored)
    on_its_way = exists().where(mine, or_(_delivery.state.in_(("sending", "delivered")), stored))
    kept_here = ~exists().where(mine)
    has_results = exists().where(schema.result.c.job_id == job_id)
    return bool(tx.execute(select(and_(has_results, or_(on_its_way, kept_here)))).scalar())


def supersede(tx: Connection, old: Row[Any], rule: str, by: str) -> None:
    """The rule leaves a job for a newer one. When all have left it stops, and what is not sent yet stays unsent."""
    mine = and_(_asked.job_id == old.id, _asked.rule == rule)
    tx.execute(update(schema.asked).where(mine).values(superseded_by=by))
    left = tx.execute(select(_asked.send_to).where(_asked.job_id == old.id, _asked.superseded_by == "")).scalars().all()
    send_to = list(dict.fromkeys(name for names in left for name in names))
    if left:
        tx.execute(update(schema.job).where(_job.id == old.id).values(send_to=send_to))
    else:
        live = _job.state.in_((WAITING, RUNNING, HELD))
        ended = {
            "superseded_by": by,
            "state": case((live, CANCELLED), else_=_job.state),
            "owner": case((live, ""), else_=_job.owner),
            "finished_at": case((live, time.time()), else_=_job.finished_at),
        }
        tx.execute(update(schema.job).where(_job.id == old.id).values(ended))
    withdrawn = deliveries.withdraw(tx, old.id, keep=send_to)
    jobs.noted(tx, old, "superseded", rule=rule, by=by, withdrawn=withdrawn)


def release(tx: Connection, job_id: str, who: str) -> bool:
    """A person lets a held job run: it takes the place of what it was held beside."""
    take_turns(tx, "jobs")
    job = jobs.get(tx, job_id)
    if job.state != HELD or not jobs.retry(tx, job_id, who):
        return False
    for rule, series_id in tx.execute(select(_asked.rule, _asked.series_id).where(_asked.job_id == job_id)).all():
        for old in standing(tx, job.study_id, series_id, rule):
            if old.id != job_id:
                supersede(tx, old, rule, job_id)
    return True
