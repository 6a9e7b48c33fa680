"""Generations in the ledger: a rule's newer job on the same series, or study, takes the place of the older one."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, and_, case, exists, or_, select, update

from radnode.domain.jobs import JobInput, SeriesLabel, successor_id
from radnode.domain.jobs import job_id as identify
from radnode.state import deliveries, jobs, notices, schema
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


def take_over(
    tx: Connection, study_id: int, series_id: int | None, rule: str, app: str, rules: Collection[str]
) -> bool:
    """A rule for which no job stands here gets those of a rule with its app that there is no more: it was renamed.

    Args:
        rules: the names of all there are. Where several are gone nobody can tell which one it was.
    """
    here = and_(_asked.study_id == study_id, _asked.series_id.is_not_distinct_from(series_id))
    query = select(schema.job, _asked.rule.label("was")).join(schema.asked, _asked.job_id == _job.id)
    asked = tx.execute(query.where(here, _asked.superseded_by == "", _job.app == app)).all()
    left = [each for each in asked if each.was not in rules]
    if len({each.was for each in left}) != 1:
        return False
    for each in left:
        mine = and_(_asked.job_id == each.id, _asked.rule == each.was)
        tx.execute(update(schema.asked).where(mine).values(rule=rule))
        jobs.noted(tx, each, "taken over", rule=rule, was=each.was)
    return True


def same_work(tx: Connection, new: NewJob) -> Row[Any] | None:
    """A job of the study that does, or has done, the same work under the same identity, if it still stands."""
    same = and_(_job.study_id == new.study_id, _job.work == new.work, _job.identity == new.identity)
    query = select(schema.job).where(same, _job.app == new.app, _job.superseded_by == "", _job.flag == "")
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
        if job.state != DONE and job.supersedes:  # what it was to take the place of, a notice perhaps
            return str(job.supersedes)
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
        notices.withdraw(tx, old.id)
    withdrawn = deliveries.withdraw(tx, old.id, keep=send_to)
    jobs.noted(tx, old, "superseded", rule=rule, by=by, withdrawn=withdrawn)


def again(tx: Connection, job_id: str, who: str) -> bool:
    """A person lets a failed, cancelled or held job run; a held one takes the place of what it was held beside."""
    take_turns(tx, "jobs")
    job = jobs.get(tx, job_id)
    if not jobs.retry(tx, job_id, who):
        return False
    for rule, series_id in _rules_of(tx, job_id) if job.state == HELD else ():
        for old in standing(tx, job.study_id, series_id, rule):
            if old.id != job_id:
                supersede(tx, old, rule, job_id)
    return True


def rerun(tx: Connection, job_id: str, who: str, app_version: str) -> str:
    """A person wants a job's work done again, by this version of its app; returns the new job's ID.

    The new job takes the old one's place, for all rules that want it.
    """
    take_turns(tx, "jobs")
    old = tx.execute(select(schema.job).where(_job.id == job_id).with_for_update()).one()
    inputs = _named_inputs(tx, job_id)
    names = [JobInput(name, "", tuple(by_uid), ()) for name, by_uid in inputs.items()]
    work = identify(old.app, app_version, old.options, names, revision=old.revision)
    rules = _rules_of(tx, job_id)
    new = NewJob(
        id=successor_id(work, old.identity, old.id),
        work=work,
        revision=old.revision,
        identity=old.identity,
        predecessor=old.id,
        supersedes=seen(tx, old),
        why=f"{who} wants it again",
        study_id=old.study_id,
        series_id=old.series_id,
        rule=old.rule,
        routing_version=old.routing_version,
        app=old.app,
        app_version=app_version,
        level=old.level,
        options=old.options,
        send_to=tuple(old.send_to),
        queue=old.queue,
        priority=old.priority,
        last_image_at=old.last_image_at,
        inputs={name: list(by_uid.values()) for name, by_uid in inputs.items()},
        label=SeriesLabel(**old.label),
    )
    jobs.create(tx, new)
    for rule, series_id in rules:
        jobs.join(tx, replace(new, rule=rule, series_id=series_id))
        supersede(tx, old, rule, new.id)
    return new.id


def _rules_of(tx: Connection, job_id: str) -> Sequence[tuple[str, int | None]]:
    """Rules that still want a job, each with the series it wants it for."""
    query = select(_asked.rule, _asked.series_id).where(_asked.job_id == job_id, _asked.superseded_by == "")
    return [(rule, series_id) for rule, series_id in tx.execute(query)]


def _named_inputs(tx: Connection, job_id: str) -> dict[str, dict[str, int]]:
    """Input name -> SOP Instance UID -> id of the instance."""
    joined = schema.job_input.join(schema.instance, schema.instance.c.id == schema.job_input.c.instance_id)
    columns = schema.job_input.c.name, schema.instance.c.sop_instance_uid, schema.instance.c.id
    named: dict[str, dict[str, int]] = {}
    for name, uid, instance_id in tx.execute(
        select(*columns).select_from(joined).where(schema.job_input.c.job_id == job_id).order_by(schema.instance.c.id)
    ):
        named.setdefault(name, {})[uid] = instance_id
    return named
