"""Jobs in the ledger: made once, joined by whoever wants the same work, and what a person can do about them.

How a worker takes and ends one is in `claims.py`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, and_, case, exists, func, insert, or_, select, update

from radnode.domain.jobs import JobState, SeriesLabel
from radnode.state import hours, schema
from radnode.state.ledger import chunks, insert_new, note

WAITING, RUNNING, DONE = JobState.WAITING.value, JobState.RUNNING.value, JobState.DONE.value
FAILED, DECLINED, CANCELLED = JobState.FAILED.value, JobState.DECLINED.value, JobState.CANCELLED.value
HELD = JobState.HELD.value
FORWARD = "original"
"""The kind of a result that is no result of ours: a rule without an app sends what came."""
_job = schema.job.c


@dataclass(frozen=True)
class NewJob:
    """A match frozen: everything the job will ever know of `routing.yaml`.

    Attributes:
        inputs: input name -> ids of instances in the ledger.
        run_between: the hours in which it may start; see `hours`.
        work, revision, identity, predecessor, supersedes, reissues: see `schema.job`.
        why: what brought it about, for the timeline.
        shadow: its results are kept, and sent nowhere.
    """

    id: str
    study_id: int
    series_id: int | None
    rule: str
    routing_version: str
    app: str
    app_version: str
    level: str
    options: dict[str, Any]
    send_to: tuple[str, ...]
    queue: str
    priority: int
    last_image_at: float
    inputs: dict[str, list[int]]
    label: SeriesLabel = field(default_factory=SeriesLabel)
    expire: float | None = None
    notify: tuple[str, ...] = ()
    run_between: str = hours.ALWAYS
    mail_to: tuple[str, ...] = ()
    work: str = ""
    revision: int = 0
    identity: int = 0
    predecessor: str = ""
    supersedes: str = ""
    reissues: str = ""
    why: str = ""
    shadow: bool = False


def create(tx: Connection, new: NewJob, *, state: str = WAITING, error: str = "") -> bool:
    """Makes the job, or joins the one that does the same work already: highest priority, union of destinations,
    no hours to wait for where one of them has none.

    Args:
        error: why it is held, where it is.

    Returns True where the job is new.
    """
    row = {
        "id": new.id,
        "work": new.work or new.id,
        "revision": new.revision,
        "identity": new.identity,
        "predecessor": new.predecessor,
        "supersedes": new.supersedes,
        "reissues": new.reissues,
        "study_id": new.study_id,
        "series_id": new.series_id,
        "rule": new.rule,
        "routing_version": new.routing_version,
        "app": new.app,
        "app_version": new.app_version,
        "level": new.level,
        "options": new.options,
        "label": _label(new.label),
        "send_to": list(new.send_to),
        "shadow": new.shadow,
        "expire": new.expire,
        "notify": list(new.notify),
        "mail_to": list(new.mail_to),
        "queue": new.queue,
        "priority": new.priority,
        "state": state,
        "error": error,
        "run_between": new.run_between,
        "created_at": time.time(),
        "last_image_at": new.last_image_at,
    }
    if tx.execute(insert_new(tx, schema.job), row).rowcount != 1:
        join(tx, new)
        return False
    hours.remember(tx, new.run_between)
    ask(tx, new)
    _add_inputs(tx, new)
    note(
        tx,
        "job",
        study_id=new.study_id,
        series_id=new.series_id,
        job_id=new.id,
        rule=new.rule,
        app=new.app,
        app_version=new.app_version,
        routing_version=new.routing_version,
        why=new.why,
        supersedes=new.supersedes,
        **({"shadow": True} if new.shadow else {}),
    )
    return True


def _label(label: SeriesLabel) -> dict[str, Any]:
    """As versions that know no `missing` read it, where none is."""
    return {key: value for key, value in vars(label).items() if value or key != "missing"}


def _add_inputs(tx: Connection, new: NewJob) -> None:
    rows = [{"job_id": new.id, "name": name, "instance_id": each} for name, ids in new.inputs.items() for each in ids]
    tx.execute(insert(schema.job_input), rows)


def join(tx: Connection, new: NewJob) -> None:
    """Somebody wants the work of a job that there is already."""
    higher = and_(_job.id == new.id, _job.priority > new.priority)
    tx.execute(update(schema.job).where(higher).values(priority=new.priority))
    if new.run_between == hours.ALWAYS:
        tx.execute(update(schema.job).where(_job.id == new.id).values(run_between=hours.ALWAYS))
    slower = and_(schema.delivery.c.job_id == new.id, schema.delivery.c.priority > new.priority)
    tx.execute(update(schema.delivery).where(slower).values(priority=new.priority))
    if not new.shadow:
        _promote(tx, new.id, {"send_to": list(new.send_to), "rule": new.rule, "expire": new.expire})
    more = not new.shadow and add_destinations(tx, new.id, new.send_to)
    if ask(tx, new) or more:
        note(tx, "same work", study_id=new.study_id, series_id=new.series_id, job_id=new.id, rule=new.rule)


def ask(tx: Connection, new: NewJob) -> bool:
    """Remembers that the rule wants the job, also where it had left it; False where it did already."""
    row = {"job_id": new.id, "rule": new.rule, "study_id": new.study_id, "series_id": new.series_id}
    send_to = [] if new.shadow else list(new.send_to)
    if tx.execute(insert_new(tx, schema.asked), {**row, "send_to": send_to}).rowcount == 1:
        return True
    mine = and_(schema.asked.c.job_id == new.id, schema.asked.c.rule == new.rule)
    tx.execute(update(schema.asked).where(mine).values(send_to=send_to, superseded_by=""))
    return False


def promote(tx: Connection, job_id: str, who: str) -> bool:
    """A person has a shadow job's results sent, now or when it is done. False where it is no shadow job."""
    return _promote(tx, job_id, {}) and noted(tx, get(tx, job_id), "promoted", who=who)


def _promote(tx: Connection, job_id: str, changed: dict[str, Any]) -> bool:
    shadow = and_(_job.id == job_id, _job.shadow)
    job = tx.execute(update(schema.job).where(shadow).values(shadow=False, **changed).returning(schema.job)).first()
    if job is not None and job.state == DONE:
        make_deliveries(tx, job)
    return job is not None


def shadows(tx: Connection, rule: str, since: float | None) -> list[str]:
    """IDs of a rule's shadow jobs whose results are here, and whose place and images nobody has taken, oldest first."""
    standing = and_(_job.rule == rule, _job.shadow, _job.superseded_by == "", _job.flag == "", ~_job.purged)
    query = select(_job.id).where(standing).order_by(_job.created_at)
    return list(tx.execute(query if since is None else query.where(_job.created_at >= since)).scalars())


def forwarded(tx: Connection, study_id: int) -> dict[str, set[int]]:
    """Destination -> instances of the study that rules without an app have sent there, or are sending."""
    query = (
        select(_job.send_to, schema.job_input.c.instance_id)
        .join(schema.job_input, _job.id == schema.job_input.c.job_id)
        .where(_job.study_id == study_id, _job.app == "")
    )
    found: dict[str, set[int]] = {}
    for send_to, instance_id in tx.execute(query):
        for name in send_to:
            found.setdefault(name, set()).add(instance_id)
    return found


def add_destinations(tx: Connection, job_id: str, send_to: Sequence[str]) -> bool:
    """Sends the job's results, when it has finished, to these destinations too; False where all get them already."""
    job = tx.execute(select(schema.job).where(_job.id == job_id).with_for_update()).one()
    union = [*job.send_to, *(name for name in send_to if name not in job.send_to)]
    if union != job.send_to:
        tx.execute(update(schema.job).where(_job.id == job_id).values(send_to=union))
        if job.state == DONE:
            make_deliveries(tx, get(tx, job_id))
    return bool(union != job.send_to)


def get(tx: Connection, job_id: str) -> Row[Any]:
    return tx.execute(select(schema.job).where(_job.id == job_id)).one()


def study_of(tx: Connection, job_id: str) -> Row[Any]:
    mine = select(_job.study_id).where(_job.id == job_id).scalar_subquery()
    return tx.execute(select(schema.study).where(schema.study.c.id == mine)).one()


def input_rows(tx: Connection, job_id: str) -> Sequence[Row[Any]]:
    """The instances a job takes, each with the `name` of its input."""
    query = select(schema.instance, schema.job_input.c.name).join(schema.job_input)
    return tx.execute(query.where(schema.job_input.c.job_id == job_id).order_by(schema.instance.c.id)).all()


def inputs(tx: Connection, job_id: str) -> dict[str, list[str]]:
    """Input name -> paths relative to the spool, in the order in which the instances arrived."""
    query = (
        select(schema.job_input.c.name, schema.instance.c.path)
        .join(schema.instance, schema.instance.c.id == schema.job_input.c.instance_id)
        .where(schema.job_input.c.job_id == job_id)
        .order_by(schema.job_input.c.name, schema.instance.c.id)
    )
    named: dict[str, list[str]] = {}
    for name, path in tx.execute(query):
        named.setdefault(name, []).append(path)
    return named


@dataclass(frozen=True)
class ResultRow:
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    kind: str
    path: str
    size: int


def add_results(tx: Connection, job_id: str, results: Sequence[ResultRow]) -> None:
    rows = [{"job_id": job_id, "position": n, **vars(each)} for n, each in enumerate(results)]
    if rows:
        tx.execute(insert_new(tx, schema.result), rows)
    recognize(tx, [each.sop_instance_uid for each in results if each.kind != FORWARD])


def recognize(tx: Connection, sop_instance_uids: Collection[str]) -> None:
    """These were made here. Some may have come back before this ledger knew, being a copy older than the spool."""
    column = schema.instance.c
    for some in chunks(sop_instance_uids):
        stranger = and_(column.sop_instance_uid.in_(some), column.own.is_(False))
        tx.execute(update(schema.instance).where(stranger).values(own=True))


def results(tx: Connection, job_id: str) -> Sequence[Row[Any]]:
    """What the job made, in its order."""
    mine = schema.result.c.job_id == job_id
    return tx.execute(select(schema.result).where(mine).order_by(schema.result.c.position)).all()


def mailed(job_id: str) -> str:
    """The folder of the page of a job's report that goes with mails."""
    return f"{job_id}.mail"


def made_here(tx: Connection, sop_instance_uids: Collection[str]) -> set[str]:
    """Which of these are results of this node."""
    found = set[str]()
    for some in chunks(sop_instance_uids):
        for made in (schema.result.c, schema.substitute.c):
            named = and_(made.sop_instance_uid.in_(some), made.kind != FORWARD)
            found.update(tx.execute(select(made.sop_instance_uid).where(named)).scalars())
    return found


def kept_results(tx: Connection, job_id: str) -> Sequence[Row[Any]]:
    """What the job made, if it is still here."""
    purged = exists().where(_job.id == job_id, _job.purged)
    return [] if tx.execute(select(purged)).scalar() else results(tx, job_id)


def make_deliveries(tx: Connection, job: Row[Any]) -> None:
    """A delivery to every destination of the job that has none yet; none where there is nothing to send."""
    if job.shadow:
        return
    if not tx.execute(select(exists().where(schema.result.c.job_id == job.id))).scalar():
        return
    expires = None if job.expire is None else job.last_image_at + job.expire
    for name in job.send_to:
        row = {
            "job_id": job.id,
            "destination": name,
            "priority": job.priority,
            "state": "waiting",
            "created_at": time.time(),
            "expires_at": expires,
        }
        if tx.execute(insert_new(tx, schema.delivery), row).rowcount != 1:
            mine = and_(schema.delivery.c.job_id == job.id, schema.delivery.c.destination == name)
            state = schema.delivery.c.state  # what is in hand goes on, and is tried again if that fails
            wanted = {"state": case((state == "cancelled", "waiting"), else_=state), "withdrawn": False}
            tx.execute(update(schema.delivery).where(mine, schema.delivery.c.withdrawn).values(wanted))


def retry(tx: Connection, job_id: str, who: str) -> bool:
    """A person sets a failed, cancelled or held job waiting again; not one whose place a newer one has taken."""
    again = and_(_job.id == job_id, _job.state.in_((FAILED, CANCELLED, HELD)), _job.superseded_by == "")
    values = {"state": WAITING, "owner": "", "crashes": 0, "losses": 0, "error": "", "finished_at": None}
    values["purged"] = False
    if tx.execute(update(schema.job).where(again).values(values)).rowcount != 1:
        return False
    return noted(tx, get(tx, job_id), "retried", who=who)


def cancel(tx: Connection, job_id: str, who: str) -> bool:
    """A person stops a waiting, running or held job; its worker sees that the claim is gone and kills the child."""
    live = and_(_job.id == job_id, _job.state.in_((WAITING, RUNNING, HELD)))
    values = {"state": CANCELLED, "owner": "", "finished_at": time.time()}
    if tx.execute(update(schema.job).where(live).values(values)).rowcount != 1:
        return False
    return noted(tx, get(tx, job_id), "cancelled", who=who)


def replace_held(tx: Connection, study_id: int, rule: str) -> None:
    """What a study rule was held back for has come: a job with everything takes the held one's place."""
    held = and_(_job.study_id == study_id, _job.rule == rule, _job.state == HELD, _job.level == "study")
    values = {"state": CANCELLED, "finished_at": time.time()}
    for job in tx.execute(update(schema.job).where(held).values(values).returning(schema.job)).all():
        noted(tx, job, "cancelled", reason="what was missing has come")


def states(tx: Connection) -> dict[str, int]:
    """State -> jobs, of the states that are not final."""
    live = or_(_job.state == WAITING, _job.state == RUNNING, _job.state == FAILED, _job.state == HELD)
    query = select(_job.state, func.count()).where(live, _job.superseded_by == "").group_by(_job.state)
    return dict(tx.execute(query).all())


def noted(tx: Connection, job: Row[Any], kind: str, **data: Any) -> bool:
    note(tx, kind, study_id=job.study_id, series_id=job.series_id, job_id=job.id, **data)
    return True
