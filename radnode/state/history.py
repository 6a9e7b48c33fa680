"""What came before: studies with the attributes that were kept of them, and what their rules said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from radnode.state import schema
from radnode.state.intake import COMPLETE


def studies_since(tx: Connection, since: float) -> Sequence[Row[Any]]:
    """Studies of which something came after `since` (seconds since the epoch), oldest first."""
    column = schema.study.c
    return tx.execute(select(schema.study).where(column.last_received_at >= since).order_by(column.id)).all()


def complete_series_of(tx: Connection, study_id: int) -> Sequence[Row[Any]]:
    column = schema.series.c
    query = select(schema.series).where(column.study_id == study_id, column.state == COMPLETE, column.instances > 0)
    return tx.execute(query.order_by(column.id)).all()


def paths_of(tx: Connection, series_id: int) -> list[str]:
    column = schema.instance.c
    wanted = (column.series_id == series_id) & (column.flaw == "") & column.own.is_(False)
    return list(tx.execute(select(column.path).where(wanted).order_by(column.id)).scalars())


def matches_of(tx: Connection, study_id: int) -> frozenset[tuple[str, str]]:
    """(Rule, Series Instance UID, or empty at study level) of what matched when the study last completed."""
    event = schema.event.c
    query = (
        select(event.kind, schema.series.c.series_instance_uid, event.data)
        .outerjoin(schema.series, schema.series.c.id == event.series_id)
        .where(event.study_id == study_id, event.kind.in_(("complete", "study complete")))
        .order_by(event.id)
    )
    last = {(kind, uid or ""): data for kind, uid, data in tx.execute(query)}
    return frozenset(
        (rule["rule"], uid) for (_, uid), data in last.items() for rule in data.get("rules", []) if rule["matched"]
    )
