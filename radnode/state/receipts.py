"""Receipts in the ledger: what a destination has stored by its status, but not yet shown, or committed to.

A delivery that waits for its receipt is `waiting`, with nothing left to send; it holds up no other one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, exists, select, update

from radnode.state import schema, substitutes
from radnode.state.deliveries import WAITING, noted, ours

_delivery, _sent = schema.delivery.c, schema.sent.c


def unconfirmed(tx: Connection, delivery: Row[Any]) -> Sequence[Row[Any]]:
    """Results the destination has stored and given no receipt for."""
    mine = and_(_sent.delivery_id == delivery.id, _sent.sop_instance_uid == substitutes.SENT_UID)
    without = exists().where(mine, _sent.stored, ~_sent.confirmed)
    return tx.execute(substitutes.shipped(delivery).where(without).order_by(schema.result.c.position)).all()


def confirm(tx: Connection, delivery_id: int, uids: Collection[str]) -> None:
    mine = and_(_sent.delivery_id == delivery_id, _sent.sop_instance_uid.in_(uids))
    tx.execute(update(schema.sent).where(mine).values(confirmed=True))


def wait(tx: Connection, delivery: Row[Any], why: str, until: float) -> bool:
    """Lets the delivery wait until it is asked again. `until` is on the ledger's clock."""
    values = {"receipts_asked": delivery.receipts_asked + 1, "receipt_since": delivery.receipt_since or time.time()}
    return _wait(tx, delivery, why, {**values, "not_before": until}, first=delivery.receipts_asked == 0)


def ask(tx: Connection, delivery: Row[Any], transaction_uid: str) -> bool:
    """Before the destination is asked to commit: whatever happens next, its report finds the delivery."""
    values = {"transaction_uid": transaction_uid, "receipt_since": time.time()}
    values["receipts_asked"] = delivery.receipts_asked + 1
    return tx.execute(update(schema.delivery).where(ours(delivery)).values(values)).rowcount == 1


def forget(tx: Connection, delivery: Row[Any]) -> None:
    """It could not be asked: the attempt does not count."""
    values = {"transaction_uid": "", "receipts_asked": delivery.receipts_asked}
    tx.execute(update(schema.delivery).where(ours(delivery)).values(values))


def wait_for_report(tx: Connection, delivery: Row[Any], until: float) -> bool:
    """Lets the delivery wait for its report; not at all, where that has come meanwhile."""
    still = case((_delivery.transaction_uid != "", until), else_=0.0)
    why = "stored; it has not yet committed to it"
    return _wait(tx, delivery, why, {"not_before": still}, first=delivery.receipts_asked == 0)


def _wait(tx: Connection, delivery: Row[Any], why: str, values: dict[str, Any], *, first: bool) -> bool:
    values = {**values, "state": WAITING, "owner": "", "error": why}
    if tx.execute(update(schema.delivery).where(ours(delivery)).values(values)).rowcount != 1:
        return False
    return not first or noted(tx, delivery, "stored", waits_for=why)


def reported(tx: Connection, transaction_uid: str, committed: Collection[str], failed: Mapping[str, int]) -> bool:
    """A report on one of our transactions; what it did not commit to is sent again. False: it is none of ours."""
    mine = and_(_delivery.transaction_uid == transaction_uid, _delivery.transaction_uid != "")
    delivery = tx.execute(select(schema.delivery).where(mine).with_for_update()).first()
    if delivery is None:
        return False
    confirm(tx, delivery.id, committed)
    for uid, reason in failed.items():
        one = and_(_sent.delivery_id == delivery.id, _sent.sop_instance_uid == uid)
        lost = {"stored": False, "status": reason, "comment": "stored, then not committed to"}
        tx.execute(update(schema.sent).where(one).values(lost))
    tx.execute(update(schema.delivery).where(_delivery.id == delivery.id).values(transaction_uid="", not_before=0.0))
    return noted(tx, delivery, "receipt", committed=len(committed), failed=len(failed))
