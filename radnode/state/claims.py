"""A job's claim in the ledger: taken by one worker at a time, and ended only under its fencing token, `attempt`."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, func, select, update

from radnode.domain.jobs import MAX_CRASHES, MAX_WORKERS_LOST
from radnode.state import hours, jobs, notices, notifications, schema
from radnode.state.jobs import DECLINED, DONE, FAILED, RUNNING, WAITING, ResultRow, noted
from radnode.state.ledger import note, take_turns

_job = schema.job.c
_ORDER = (_job.priority, _job.created_at)


def claim(
    tx: Connection,
    queue: str,
    owner: str,
    *,
    limits: Mapping[str, int] | None = None,
    too_big: Collection[str] = (),
) -> Row[Any] | None:
    """Takes the best waiting job of a queue: by priority, then age. `attempt` of the row is the fencing token.

    Args:
        limits: app -> how many of its jobs may run at once, on all workers together; others pass an app at its limit.
        too_big: apps for which this worker has no room now. Where the best job is of one of them nothing is taken, so
            that smaller jobs do not for ever take the room it waits for.
    """
    full = _at_their_limit(tx, limits or {})
    candidates = [_first(queue, each, full) for each in hours.open_now(tx)]
    best = select(_job.id).where(_job.id.in_(candidates)).order_by(*_ORDER).limit(1).scalar_subquery()
    taken = {"state": RUNNING, "owner": owner, "attempt": _job.attempt + 1, "started_at": time.time(), "progress": ""}
    fits = and_(_job.id == best, _job.app.not_in(too_big))
    job = tx.execute(update(schema.job).where(fits).values(taken).returning(schema.job)).first()
    if job is not None:
        note(
            tx,
            "running",
            study_id=job.study_id,
            series_id=job.series_id,
            job_id=job.id,
            attempt=job.attempt,
            worker=owner,
        )
    return job


def _first(queue: str, run_between: str, full: Collection[str]) -> Any:
    """The best job of those with the same hours: one step in the index, however many wait for other hours."""
    mine = and_(_job.queue == queue, _job.run_between == run_between, _able(), _job.app.not_in(full))
    first = select(_job.id).where(mine).order_by(*_ORDER).limit(1)
    return first.with_for_update(skip_locked=True, of=schema.job).scalar_subquery()


def _at_their_limit(tx: Connection, limits: Mapping[str, int]) -> list[str]:
    """Counted and claimed in one turn: two workers cannot both take an app's last place."""
    if not limits:
        return []
    take_turns(tx, "claim")
    running = select(_job.app, func.count()).where(_job.state == RUNNING, _job.app.in_(list(limits))).group_by(_job.app)
    return [app for app, count in tx.execute(running) if count >= limits[app]]


def finish(tx: Connection, job: Row[Any], results: Sequence[ResultRow], **details: Any) -> bool:
    """The job is done: its results, and a delivery for every destination. False if the claim is no longer ours."""
    if not _end(tx, job, DONE, ""):
        return False
    jobs.add_results(tx, job.id, results)
    note(tx, "done", study_id=job.study_id, series_id=job.series_id, job_id=job.id, results=len(results), **details)
    jobs.make_deliveries(tx, jobs.get(tx, job.id))
    notices.withdraw(tx, job.id)
    return True


def decline(tx: Connection, job: Row[Any], reason: str) -> bool:
    if not _end(tx, job, DECLINED, reason):
        return False
    notifications.because(tx, job.id, "declined", str(job.attempt), reason)
    return noted(tx, job, "declined", reason=reason)


def fail(tx: Connection, job: Row[Any], error: str) -> bool:
    if not _end(tx, job, FAILED, error):
        return False
    notifications.because(tx, job.id, "failed", str(job.attempt), error)
    return noted(tx, job, "failed", error=error)


def crashed(tx: Connection, job: Row[Any], how: str) -> bool:
    """The child died by a signal: run again until it is taken for poison."""
    if job.crashes + 1 >= MAX_CRASHES:
        tx.execute(update(schema.job).where(_ours(job)).values(crashes=_job.crashes + 1))
        return fail(tx, job, f"crashed {job.crashes + 1} times, last: {how}")
    values = {"state": WAITING, "owner": "", "crashes": _job.crashes + 1}
    ours = _ours(job)
    return tx.execute(update(schema.job).where(ours).values(values)).rowcount == 1 and noted(
        tx, job, "crashed", error=how
    )


def release_lost(tx: Connection, owner: str) -> list[Row[Any]]:
    """Gives back what a dead worker had in hand; returns the jobs as it had claimed them."""
    lost = claimed_by(tx, owner)
    for job in lost:
        lose(tx, job)
    return list(lost)


def lose(tx: Connection, job: Row[Any]) -> bool:
    """Its worker died, or the processes between that and the app: rarely the app's fault, so it is run again often."""
    if job.losses + 1 >= MAX_WORKERS_LOST:
        return fail(tx, job, f"its worker was lost {job.losses + 1} times")
    values = {"state": WAITING, "owner": "", "losses": _job.losses + 1}
    ours = _ours(job)
    return tx.execute(update(schema.job).where(ours).values(values)).rowcount == 1 and noted(
        tx, job, "worker lost", worker=job.owner
    )


def interrupt(tx: Connection, owner: str) -> None:
    """Gives back what a worker had in hand when it was told to stop."""
    for job in claimed_by(tx, owner):
        give_back(tx, job)


def claimed_by(tx: Connection, owner: str) -> Sequence[Row[Any]]:
    return tx.execute(select(schema.job).where(_job.state == RUNNING, _job.owner == owner)).all()


def give_back(tx: Connection, job: Row[Any]) -> bool:
    """A fault of the node came between: the job waits again, and nothing is counted against it."""
    if tx.execute(update(schema.job).where(_ours(job)).values(state=WAITING, owner="")).rowcount != 1:
        return False
    return noted(tx, job, "interrupted", worker=job.owner)


def owners(tx: Connection) -> set[str]:
    """Workers that have a job or a delivery in hand."""
    running = select(_job.owner).where(_job.state == RUNNING).distinct()
    sending = select(schema.delivery.c.owner).where(schema.delivery.c.state == "sending").distinct()
    return {*tx.execute(running).scalars(), *tx.execute(sending).scalars()}


def progress(tx: Connection, job: Row[Any], text: str) -> bool:
    """Notes what the app says of its progress; False if the claim is no longer ours."""
    return tx.execute(update(schema.job).where(_ours(job)).values(progress=text)).rowcount == 1


def is_ours(tx: Connection, job: Row[Any]) -> bool:
    """Whether the claim still stands: a cancelled or re-claimed job is not ours any more."""
    return bool(tx.execute(select(exists().where(_ours(job)))).scalar())


def runnable(tx: Connection) -> dict[str, int]:
    """Queue -> waiting jobs that may start now: what the reconciler tops tickets up to."""
    query = (
        select(_job.queue, func.count()).where(_able(), _job.run_between.in_(hours.open_now(tx))).group_by(_job.queue)
    )
    return dict(tx.execute(query).all())


def running(tx: Connection) -> list[tuple[str, float]]:
    """(app, since when, on the wall clock) of each job that a worker has in hand."""
    query = select(_job.app, func.coalesce(_job.started_at, 0.0)).where(_job.state == RUNNING)
    return [tuple(row) for row in tx.execute(query)]


def oldest_waiting(tx: Connection) -> float | None:
    """When the oldest job was made that could run, if a worker were free."""
    open_now = _job.run_between.in_(hours.open_now(tx))
    return tx.execute(select(func.min(_job.created_at)).where(_able(), open_now)).scalar()


def _able() -> Any:
    """Waiting, and not of an app that is paused."""
    paused = exists().where(schema.pause.c.kind == "app", schema.pause.c.name == _job.app)
    return and_(_job.state == WAITING, ~paused)


def _ours(job: Row[Any]) -> Any:
    return and_(_job.id == job.id, _job.state == RUNNING, _job.owner == job.owner, _job.attempt == job.attempt)


def _end(tx: Connection, job: Row[Any], state: str, error: str) -> bool:
    values = {"state": state, "error": error, "owner": "", "finished_at": time.time()}
    return tx.execute(update(schema.job).where(_ours(job)).values(values)).rowcount == 1
