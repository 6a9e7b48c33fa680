"""Notifications in the ledger: who wanted to hear of a job's end, and whether they have.

A row is made in the transaction that ends the job or delivery, so that none is lost and none doubled. Claiming is a
lease: what a worker that died was sending is sent again, under the same id.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, select, update

from radnode.domain.jobs import backoff
from radnode.state import schema
from radnode.state.ledger import insert_new, note

WEBHOOK, MAIL = "webhook", "mail"
WAITING, SENT, PARKED = "waiting", "sent", "parked"
_LEASE = 120.0
_GIVE_UP = 3 * 86400.0
_column = schema.notification.c


def because(tx: Connection, job_id: str, event: str, detail: str, reason: str = "") -> None:
    """Makes a row for each channel if the job's rule wants to be heard of this event.

    `detail` tells repeated events apart.
    """
    job = tx.execute(select(schema.job).where(schema.job.c.id == job_id)).one()
    if event not in job.notify or job.shadow:
        return
    for channel in (WEBHOOK, MAIL) if job.mail_to else (WEBHOOK,):
        row = {"job_id": job_id, "channel": channel, "event": event, "detail": detail, "reason": reason}
        tx.execute(insert_new(tx, schema.notification), {**row, "state": WAITING, "created_at": time.time()})


def claim(tx: Connection, now: float) -> Row[Any] | None:
    best = (
        select(_column.id)
        .where(_able(now))
        .order_by(_column.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    taken = {"attempt": _column.attempt + 1, "not_before": now + _LEASE}
    return tx.execute(
        update(schema.notification).where(_column.id == best).values(taken).returning(schema.notification)
    ).first()


def drop(tx: Connection, row: Row[Any]) -> None:
    """Nobody is to be told this way."""
    tx.execute(delete(schema.notification).where(_ours(row)))


def sent(tx: Connection, row: Row[Any]) -> bool:
    return _end(tx, row, SENT, "")


def failed(tx: Connection, row: Row[Any], error: str, now: float, *, permanent: bool) -> str:
    """Later again, or never: returns its state."""
    if permanent or time.time() - row.created_at > _GIVE_UP:
        _end(tx, row, PARKED, error)
        job = tx.execute(select(schema.job).where(schema.job.c.id == row.job_id)).one()
        said = {"about": row.event, "channel": row.channel, "error": error}
        note(tx, "notification parked", study_id=job.study_id, job_id=job.id, **said)
        return PARKED
    values = {"error": error, "not_before": now + backoff(row.attempt, cap=600.0)}
    tx.execute(update(schema.notification).where(_ours(row)).values(values))
    return WAITING


def wake_all(tx: Connection) -> None:
    """At the start of core: times of an earlier boot mean nothing on this clock."""
    tx.execute(update(schema.notification).where(_column.state == WAITING).values(not_before=0.0))


def runnable(tx: Connection, now: float) -> int:
    return min(int(tx.execute(select(func.count()).select_from(schema.notification).where(_able(now))).scalar_one()), 1)


def _able(now: float) -> Any:
    return and_(_column.state == WAITING, _column.not_before <= now)


def _ours(row: Row[Any]) -> Any:
    return and_(_column.id == row.id, _column.state == WAITING, _column.attempt == row.attempt)


def _end(tx: Connection, row: Row[Any], state: str, error: str) -> bool:
    values = {"state": state, "error": error, "finished_at": time.time()}
    return tx.execute(update(schema.notification).where(_ours(row)).values(values)).rowcount == 1
