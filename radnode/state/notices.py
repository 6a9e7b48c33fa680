"""Notices in the ledger: jobs whose rule wants a page in the study when no result came in time.

Core starts the time (`start`); who claims a notice that is due has a lease on it; `send` makes a job of it, with its
own delivery to each destination, in the transaction that takes it out of here: so it is sent once, or not at all.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, func, insert, select, update

from radnode.domain.notice import notice_id
from radnode.state import deliveries, jobs, schema
from radnode.state.jobs import ResultRow
from radnode.state.ledger import insert_new, note

_LEASE = 10.0  # seconds; two that make the same page make the same bytes, and one of them sends it
_notice, _job, _input = schema.notice.c, schema.job.c, schema.job_input.c


def expect(tx: Connection, job_id: str, seconds: float) -> None:
    tx.execute(insert_new(tx, schema.notice), {"job_id": job_id, "seconds": seconds})


def start(tx: Connection, now: float) -> None:
    """The time of new ones begins. `now` is on the ledger's clock."""
    tx.execute(update(schema.notice).where(_notice.until.is_(None)).values(until=now + _notice.seconds))


def any_new(tx: Connection) -> bool:
    return bool(tx.execute(select(exists().where(_notice.until.is_(None)))).scalar())


def after_restart(tx: Connection, now: float) -> None:
    """The ledger's clock starts anew with the host: a notice then waits its whole time again, and no longer."""
    tx.execute(update(schema.notice).where(_notice.until > now + _notice.seconds).values(until=now + _notice.seconds))


def runnable(tx: Connection, now: float) -> int:
    return min(tx.execute(select(func.count()).select_from(schema.notice).where(_notice.until <= now)).scalar_one(), 1)


def claim(tx: Connection, now: float) -> Row[Any] | None:
    """Takes one that is due, and leaves it due again for the case that its worker dies."""
    due = select(_notice.job_id).where(_notice.until <= now).order_by(_notice.until).limit(1)
    best = due.with_for_update(skip_locked=True).scalar_subquery()
    taken = update(schema.notice).where(_notice.job_id == best).values(until=now + _LEASE)
    return tx.execute(taken.returning(schema.notice)).first()


def needed(job: Row[Any]) -> bool:
    """Whether nobody will have seen a result of the job, and somebody waits for one."""
    return job.state not in (jobs.DONE, jobs.CANCELLED) and not job.superseded_by and not job.shadow


def is_one(tx: Connection, job: Row[Any]) -> bool:
    """Whether a job is no work of an app, but stands for a notice."""
    of_study = select(_job.id).where(_job.study_id == job.study_id)
    return any(job.id == notice_id(each) for each in tx.execute(of_study).scalars())


def end(tx: Connection, job_id: str) -> bool:
    return tx.execute(delete(schema.notice).where(_notice.job_id == job_id)).rowcount == 1


def send(tx: Connection, job_id: str, reason: str, made: list[ResultRow]) -> bool:
    """Makes the notice a job that is done; the job it stands in for supersedes it. False where it came too late."""
    job = tx.execute(select(schema.job).where(_job.id == job_id).with_for_update()).one()
    if not end(tx, job_id) or not needed(job):
        return False
    row = dict(job._mapping)  # labelled, routed and sent as its results would be
    row |= {"id": notice_id(job_id), "work": notice_id(job_id), "notify": [], "mail_to": [], "expire": None}
    row |= {"state": jobs.DONE, "error": f"notice: {reason}", "owner": "", "predecessor": "", "supersedes": ""}
    row |= {"reissues": "", "attempt": 0, "created_at": time.time(), "finished_at": time.time(), "priority": 0}
    if tx.execute(insert_new(tx, schema.job), row).rowcount != 1:  # one was sent, and the work was asked for again
        return False
    inputs = select(_input.name, _input.instance_id).where(_input.job_id == job_id)
    tx.execute(insert(schema.job_input), [{"job_id": row["id"], **each._mapping} for each in tx.execute(inputs)])
    jobs.add_results(tx, row["id"], made)
    jobs.make_deliveries(tx, jobs.get(tx, row["id"]))
    if not job.supersedes:
        tx.execute(update(schema.job).where(_job.id == job_id).values(supersedes=row["id"]))
    note(tx, "notice", study_id=job.study_id, series_id=job.series_id, job_id=job_id, reason=reason)
    return True


def withdraw(tx: Connection, job_id: str) -> None:
    """The result has come: what is not sent of its notice is not sent any more."""
    end(tx, job_id)
    mine = _job.id == notice_id(job_id)
    if tx.execute(update(schema.job).where(mine).values(superseded_by=job_id)).rowcount:
        deliveries.withdraw(tx, notice_id(job_id))
