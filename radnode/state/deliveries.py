"""Deliveries in the ledger: one job's results on their way to one destination."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, delete, exists, func, or_, select, update

from radnode.domain.jobs import DeliveryState, backoff
from radnode.state import notifications, schema, substitutes
from radnode.state.ledger import insert_new, note, take_turns

WAITING, SENDING, DELIVERED = DeliveryState.WAITING.value, DeliveryState.SENDING.value, DeliveryState.DELIVERED.value
PARKED, EXPIRED, HELD = DeliveryState.PARKED.value, DeliveryState.EXPIRED.value, DeliveryState.HELD.value
CANCELLED = DeliveryState.CANCELLED.value
_UNSENT_STATES = (PARKED, HELD, EXPIRED, WAITING)
_delivery, _place = schema.delivery.c, schema.destination.c


def _unless_withdrawn(state: str) -> Any:
    return case((_delivery.withdrawn, CANCELLED), else_=state)


_UNSENT = _unless_withdrawn(WAITING)
"""What becomes of a delivery that was in hand and did not end: waiting, unless nobody wants it any more."""


def claim(tx: Connection, owner: str, now: float) -> Row[Any] | None:
    """Takes the best waiting delivery whose destination is neither paused, nor resting after a failure, nor busy."""
    take_turns(tx, "deliver")  # or two workers find the same destination free at once
    best = (
        select(_delivery.id)
        .where(_able(now))
        .order_by(_delivery.priority, _delivery.created_at)
        .limit(1)
        .with_for_update(skip_locked=True, of=schema.delivery)
        .scalar_subquery()
    )
    taken = {"state": SENDING, "owner": owner, "attempt": _delivery.attempt + 1}
    return tx.execute(
        update(schema.delivery).where(_delivery.id == best).values(taken).returning(schema.delivery)
    ).first()


def pending(tx: Connection, delivery: Row[Any]) -> Sequence[Row[Any]]:
    """The results this destination has not taken yet, as they are sent to it, in the order in which the job made them.

    Those it has refused before come last: one at which it always breaks off holds up no other.
    """
    answer = schema.sent.c
    mine = and_(answer.delivery_id == delivery.id, answer.sop_instance_uid == substitutes.SENT_UID)
    taken, refused = exists().where(mine, or_(answer.stored, answer.left_out)), exists().where(mine)
    query = substitutes.shipped(delivery).where(~taken).order_by(refused, schema.result.c.position)
    return tx.execute(query).all()


def record_sent(tx: Connection, delivery: Row[Any], answers: Sequence[tuple[str, int | None, str, bool]]) -> None:
    """Keeps what the destination answered: (SOP Instance UID, status, comment, stored)."""
    for uid, status, comment, stored in answers:
        row = {
            "delivery_id": delivery.id,
            "sop_instance_uid": uid,
            "status": status,
            "comment": comment,
            "stored": stored,
            "at": time.time(),
        }
        if tx.execute(insert_new(tx, schema.sent), row).rowcount != 1:
            mine = and_(schema.sent.c.delivery_id == delivery.id, schema.sent.c.sop_instance_uid == uid)
            tx.execute(update(schema.sent).where(mine, ~schema.sent.c.stored).values(row))


def leave_out(tx: Connection, delivery: Row[Any], reasons: Mapping[str, str]) -> None:
    """Instances that this destination is not to have: SOP Instance UID -> why."""
    record_sent(tx, delivery, [(uid, None, why, False) for uid, why in reasons.items()])
    mine = and_(schema.sent.c.delivery_id == delivery.id, schema.sent.c.sop_instance_uid.in_(reasons))
    tx.execute(update(schema.sent).where(mine, ~schema.sent.c.stored).values(left_out=True))
    for why in sorted(set(reasons.values())):
        noted(tx, delivery, "left out", instances=list(reasons.values()).count(why), reason=why)


def delivered(tx: Connection, delivery: Row[Any]) -> bool:
    if not _end(tx, delivery, DELIVERED, ""):
        return False
    _rest(tx, delivery.destination, 0, 0.0)
    notifications.because(tx, delivery.job_id, "delivered", delivery.destination)
    return noted(tx, delivery, "delivered", instances=_stored(tx, delivery), **_warned(tx, delivery))


def _there(delivery: Row[Any]) -> Any:
    return and_(schema.sent.c.delivery_id == delivery.id, schema.sent.c.stored)


def _stored(tx: Connection, delivery: Row[Any]) -> int:
    """How many instances the destination has taken."""
    return int(tx.execute(select(func.count()).select_from(schema.sent).where(_there(delivery))).scalar_one())


def _warned(tx: Connection, delivery: Row[Any]) -> dict[str, str]:
    """What the destination remarked upon while it stored them: it may have changed them."""
    answer = schema.sent.c
    query = select(answer.status, func.count(), func.min(answer.comment)).where(_there(delivery), answer.status != 0)
    said = [
        f"{count} with 0x{status:04X} {comment}".strip()
        for status, count, comment in tx.execute(query.group_by(answer.status).order_by(answer.status))
    ]
    return {"warnings": "; ".join(said)} if said else {}


def park(tx: Connection, delivery: Row[Any], error: str) -> bool:
    """Trying again cannot help: it waits for a person."""
    return _end(tx, delivery, _unless_withdrawn(PARKED), error) and noted(tx, delivery, "parked", error=error)


def hold(tx: Connection, delivery: Row[Any], reason: str) -> bool:
    """It would go under a name that is not the patient's any more: it waits for a person."""
    return _end(tx, delivery, _unless_withdrawn(HELD), reason) and noted(tx, delivery, "held", reason=reason)


def hold_all(tx: Connection, job_id: str, reason: str) -> None:
    """What waits of a job waits for a person."""
    mine = and_(_delivery.job_id == job_id, _delivery.state == WAITING)
    held = update(schema.delivery).where(mine).values(state=HELD, error=reason, finished_at=time.time())
    for delivery in tx.execute(held.returning(schema.delivery)).all():
        noted(tx, delivery, "held", reason=reason)


def expire(tx: Connection, delivery: Row[Any]) -> bool:
    return _end(tx, delivery, EXPIRED, "older than the rule's `expire`") and noted(tx, delivery, "expired")


def postpone(tx: Connection, delivery: Row[Any], error: str, now: float, *, peer_down: bool) -> bool:
    """Back to waiting, later. Where the peer itself is at fault every delivery to it rests."""
    failures = delivery.failures + 1
    wait = backoff(failures)
    values = {"state": _UNSENT, "owner": "", "failures": failures, "error": error, "not_before": now + wait}
    if tx.execute(update(schema.delivery).where(ours(delivery)).values(values)).rowcount != 1:
        return False
    if peer_down:
        _rest(tx, delivery.destination, failures, now + wait)
    if failures in (1, 2, 3) or failures % 10 == 0:  # a peer that is down for days does not fill the timeline
        noted(tx, delivery, "postponed", error=error, failures=failures, again_in=wait)
    return True


def release_lost(tx: Connection, owner: str) -> None:
    """Gives back what a dead worker was sending."""
    values = {"state": _UNSENT, "owner": ""}
    tx.execute(update(schema.delivery).where(_delivery.state == SENDING, _delivery.owner == owner).values(values))


def claimed_by(tx: Connection, owner: str) -> Sequence[Row[Any]]:
    return tx.execute(select(schema.delivery).where(_delivery.state == SENDING, _delivery.owner == owner)).all()


def give_back(tx: Connection, delivery: Row[Any]) -> bool:
    """A fault of the node came between: the delivery waits again."""
    values = {"state": _UNSENT, "owner": ""}
    return tx.execute(update(schema.delivery).where(ours(delivery)).values(values)).rowcount == 1


def retry(tx: Connection, delivery_id: int, who: str) -> bool:
    """A person sets a parked, held, expired, waiting or cancelled delivery on its way at once."""
    again = and_(_delivery.id == delivery_id, _delivery.state.in_((*_UNSENT_STATES, CANCELLED)))
    values = {"state": WAITING, "failures": 0, "error": "", "not_before": 0.0, "expires_at": None, "finished_at": None}
    values |= {"receipts_asked": 0, "receipt_since": None, "transaction_uid": "", "withdrawn": False}
    if tx.execute(update(schema.delivery).where(again).values(values)).rowcount != 1:
        return False
    delivery = tx.execute(select(schema.delivery).where(_delivery.id == delivery_id)).one()
    _rest(tx, delivery.destination, 0, 0.0)
    return noted(tx, delivery, "delivery retried", who=who)


def resend(tx: Connection, delivery_id: int, who: str) -> bool:
    """A person wants everything sent again, also what the destination once took (it may have lost it)."""
    finished = and_(_delivery.id == delivery_id, _delivery.state != SENDING)
    if tx.execute(update(schema.delivery).where(finished).values(state=PARKED)).rowcount != 1:
        return False
    tx.execute(delete(schema.sent).where(schema.sent.c.delivery_id == delivery_id))
    return retry(tx, delivery_id, who)


def cancel(tx: Connection, delivery_id: int, who: str) -> bool:
    """A person wants it no more. What is being sent may end; what is stored stays there, and the timeline counts it."""
    unsent = and_(_delivery.id == delivery_id, _delivery.state.in_(_UNSENT_STATES))
    values = {"state": CANCELLED, "finished_at": time.time()}
    delivery = tx.execute(update(schema.delivery).where(unsent).values(values).returning(schema.delivery)).first()
    return delivery is not None and noted(tx, delivery, "delivery cancelled", who=who, stored=_stored(tx, delivery))


def withdraw(tx: Connection, job_id: str, *, keep: Sequence[str] = ()) -> int:
    """Nobody wants what is not sent yet any more, but for the destinations to keep; what is being sent may end.

    Returns how many deliveries that concerns.
    """
    mine = and_(_delivery.job_id == job_id, _delivery.destination.not_in(keep))
    unsent = and_(mine, _delivery.state.not_in((DELIVERED, CANCELLED)), ~_awaits_receipt())
    in_hand = _delivery.state == SENDING
    values = {
        "withdrawn": True,
        "state": case((in_hand, SENDING), else_=CANCELLED),
        "finished_at": case((in_hand, None), else_=time.time()),
    }
    count = tx.execute(update(schema.delivery).where(unsent).values(values)).rowcount
    stopped = and_(mine, _delivery.state == CANCELLED)  # by a person, who cannot bring it back from now on
    tx.execute(update(schema.delivery).where(stopped).values(withdrawn=True))
    return count


def _awaits_receipt() -> Any:
    """It is there already, and only its receipt is not."""
    return and_(_delivery.state == WAITING, _delivery.receipt_since.is_not(None))


def wake_all(tx: Connection) -> None:
    """At the start of core: retry times of an earlier boot mean nothing on this clock, so nothing waits for them."""
    tx.execute(update(schema.delivery).where(_delivery.state == WAITING).values(not_before=0.0))
    tx.execute(update(schema.destination).values(not_before=0.0))


def runnable(tx: Connection, now: float) -> int:
    """Destinations with a delivery that may start now."""
    query = select(func.count(_delivery.destination.distinct())).where(_able(now))
    return int(tx.execute(query).scalar_one())


def _able(now: float) -> Any:
    mine = _delivery.destination
    resting = exists().where(_place.name == mine, _place.not_before > now)
    paused = exists().where(schema.pause.c.kind == "destination", schema.pause.c.name == mine)
    other = schema.delivery.alias()
    served = select(func.count()).where(other.c.destination == mine, other.c.state == SENDING).scalar_subquery()
    allowed = case((_place.failures > 0, 1), else_=_place.associations)  # one that has failed is tried by one alone
    room = func.coalesce(select(allowed).where(_place.name == mine).scalar_subquery(), 1)
    return and_(_delivery.state == WAITING, _delivery.not_before <= now, ~resting, ~paused, served < room)


def more_urgent_waits(tx: Connection, delivery: Row[Any], now: float) -> bool:
    """Whether a delivery to the same destination waits that should be sent before the rest of this one."""
    better = and_(
        _delivery.destination == delivery.destination,
        _delivery.state == WAITING,
        _delivery.not_before <= now,
        _delivery.priority < delivery.priority,
    )
    return bool(tx.execute(select(exists().where(better))).scalar())


def allow(tx: Connection, associations: Mapping[str, int]) -> None:
    """How many deliveries to each destination may be under way at once; 1 where nothing is said."""
    for name, count in associations.items():
        row = {"name": name, "associations": count}
        if tx.execute(insert_new(tx, schema.destination), row).rowcount != 1:
            tx.execute(update(schema.destination).where(_place.name == name).values(row))


def states(tx: Connection) -> Sequence[tuple[str, str, int, float]]:
    """(destination, state, count, oldest created_at) of deliveries that are not finished."""
    live = _delivery.state.in_((WAITING, SENDING, PARKED, HELD))
    query = select(_delivery.destination, _delivery.state, func.count(), func.min(_delivery.created_at)).where(live)
    return [tuple(row) for row in tx.execute(query.group_by(_delivery.destination, _delivery.state))]


def _rest(tx: Connection, name: str, failures: int, until: float) -> None:
    row = {"name": name, "failures": failures, "not_before": until}
    if tx.execute(insert_new(tx, schema.destination), row).rowcount != 1:
        tx.execute(update(schema.destination).where(_place.name == name).values(row))


def ours(delivery: Row[Any]) -> Any:
    return and_(
        _delivery.id == delivery.id,
        _delivery.state == SENDING,
        _delivery.owner == delivery.owner,
        _delivery.attempt == delivery.attempt,
    )


def _end(tx: Connection, delivery: Row[Any], state: Any, error: str) -> bool:
    values = {"state": state, "error": error, "owner": "", "finished_at": time.time()}
    return tx.execute(update(schema.delivery).where(ours(delivery)).values(values)).rowcount == 1


def noted(tx: Connection, delivery: Row[Any], kind: str, **data: Any) -> bool:
    job = tx.execute(
        select(schema.job.c.study_id, schema.job.c.series_id).where(schema.job.c.id == delivery.job_id)
    ).one()
    note(
        tx,
        kind,
        study_id=job.study_id,
        series_id=job.series_id,
        job_id=delivery.job_id,
        delivery_id=delivery.id,
        destination=delivery.destination,
        **data,
    )
    return True
