"""Study rules that wait for an input which has not come: in the ledger, so that a wait outlives every process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, select, update

from radnode.state import schema
from radnode.state.intake import COMPLETE
from radnode.state.ledger import insert_new, note

_wait = schema.wait.c


def begin(tx: Connection, study_id: int, rule: str, missing: Sequence[str], seconds: float, now: float) -> None:
    """Lets a rule wait, unless it does already: what comes in between does not prolong it.

    Args:
        now: on the ledger's clock.
    """
    row = {
        "study_id": study_id,
        "rule": rule,
        "missing": list(missing),
        "seconds": seconds,
        "until": now + seconds,
        "began_at": time.time(),
    }
    if tx.execute(insert_new(tx, schema.wait), row).rowcount == 1:
        note(tx, "waiting for inputs", study_id=study_id, rule=rule, missing=list(missing), seconds=seconds)


def over(tx: Connection, now: float) -> Sequence[Row[Any]]:
    """Waits that have ended, of studies that receive nothing just now: `id`, `state` … of the study, and the rule."""
    query = select(schema.study, _wait.rule).join(schema.wait, _wait.study_id == schema.study.c.id)
    return tx.execute(query.where(_wait.until <= now, schema.study.c.state == COMPLETE)).all()


def end(tx: Connection, study_id: int, rule: str) -> bool:
    """False where the rule did not wait."""
    mine = (_wait.study_id == study_id) & (_wait.rule == rule)
    return tx.execute(delete(schema.wait).where(mine)).rowcount == 1


def any_left(tx: Connection) -> bool:
    return bool(tx.execute(select(exists().where(_wait.study_id.is_not(None)))).scalar())


def of_study(tx: Connection, study_id: int) -> Sequence[Row[Any]]:
    return tx.execute(select(schema.wait).where(_wait.study_id == study_id).order_by(_wait.rule)).all()


def after_restart(tx: Connection, now: float) -> None:
    """The ledger's clock starts anew with the host: a wait then takes its whole time again, and no longer."""
    tx.execute(update(schema.wait).where(_wait.until > now + _wait.seconds).values(until=now + _wait.seconds))
