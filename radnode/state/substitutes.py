"""What a delivery sends in place of results, in the ledger: see `schema.substitute`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, delete, func, select, update

from radnode.state import schema
from radnode.state.jobs import ResultRow
from radnode.state.ledger import insert_new

_result, _substitute, _sent = schema.result.c, schema.substitute.c, schema.sent.c


def _instead(column: str) -> Any:
    return func.coalesce(_substitute[column], _result[column]).label(column)


SENT_UID = func.coalesce(_substitute.sop_instance_uid, _result.sop_instance_uid)
"""Under which a result is sent, in a query of `shipped`."""


def shipped(delivery: Row[Any]) -> Select[Any]:
    """A job's results as this delivery sends them, each with the `original_uid` of what the job made."""
    mine = and_(_substitute.delivery_id == delivery.id, _substitute.original_uid == _result.sop_instance_uid)
    columns = map(_instead, ("sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "kind", "path", "size"))
    joined = schema.result.outerjoin(schema.substitute, mine)
    query = select(_result.sop_instance_uid.label("original_uid"), _result.position, *columns).select_from(joined)
    return query.where(_result.job_id == delivery.job_id)


def record(tx: Connection, delivery: Row[Any], made: Sequence[tuple[Row[Any], ResultRow]]) -> None:
    """From now on the delivery sends these in place of those, whose refusals are forgotten."""
    for shipped_so_far, each in made:
        row = {"delivery_id": delivery.id, "original_uid": shipped_so_far.original_uid, **vars(each)}
        if tx.execute(insert_new(tx, schema.substitute), row).rowcount != 1:
            same = and_(_substitute.delivery_id == delivery.id, _substitute.original_uid == row["original_uid"])
            tx.execute(update(schema.substitute).where(same).values(row))
        refused = and_(_sent.delivery_id == delivery.id, _sent.sop_instance_uid == shipped_so_far.sop_instance_uid)
        tx.execute(delete(schema.sent).where(refused))
