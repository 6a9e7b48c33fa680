"""Series that are still coming in: what the ledger knows of them for the question whether they are all here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, and_, exists, func, select, update

from radnode.domain.assembly import Carrier
from radnode.state import schema
from radnode.state.intake import RECEIVING
from radnode.state.ledger import note, take_turns


def stirred(tx: Connection, after: float, until: float) -> Sequence[Row[Any]]:
    """Series still receiving whose last instance came between two moments (ledger clock), oldest first."""
    column = schema.series.c
    wanted = and_(column.state == RECEIVING, column.seen > after, column.seen <= until)
    return tx.execute(select(schema.series).where(wanted).order_by(column.seen)).all()


def quiet_series(tx: Connection, since: float, postponed: Mapping[int, int], in_hand: int = 0) -> set[int]:
    """Some series still receiving that have seen nothing after `since` (ledger clock), the longest quiet ones.

    Args:
        postponed: id -> changes of those that need not be judged yet, as long as nothing has come.
        in_hand: how many are being judged, so that these take no other's place.
    """
    column = schema.series.c
    due = and_(column.state == RECEIVING, column.seen <= since)
    query = select(column.id, column.changes).where(due).order_by(column.seen).limit(100 + len(postponed) + in_hand)
    return {row.id for row in tx.execute(query) if postponed.get(row.id) != row.changes}


def still_open(tx: Connection, ids: Collection[int]) -> Sequence[Row[Any]]:
    """Those of the series that are still receiving, and whose study is not being purged just now."""
    column = schema.series.c
    going = exists().where(schema.study.c.id == column.study_id, schema.study.c.purge == "going")
    return tx.execute(select(schema.series).where(column.id.in_(ids), column.state == RECEIVING, ~going)).all()


def receiving_studies(tx: Connection) -> set[int]:
    return set(tx.execute(select(schema.study.c.id).where(schema.study.c.state == RECEIVING)).scalars())


def whole_studies(tx: Connection, ids: Collection[int]) -> Sequence[Row[Any]]:
    """Those of the studies that are still receiving, though all their series are complete."""
    column, series = schema.study.c, schema.series.c
    open_series = exists().where(series.study_id == column.id, series.state == RECEIVING)
    wanted = and_(column.id.in_(ids), column.state == RECEIVING, column.purge != "going", ~open_series)
    return tx.execute(select(schema.study).where(wanted)).all()


def sound(tx: Connection, study_id: int) -> Sequence[Row[Any]]:
    """The series of a study of which something has come that can be filed, and is not radnode's own."""
    column = schema.series.c
    filed = exists().where(_ours(column.id))
    query = select(schema.series).where(column.study_id == study_id, filed)
    return tx.execute(query.order_by(column.id)).all()


def size(tx: Connection, series_id: int) -> int:
    """Files of a series: copies count too."""
    query = select(func.count()).select_from(schema.instance).where(schema.instance.c.series_id == series_id)
    return int(tx.execute(query).scalar_one())


def study_size(tx: Connection, study_id: int) -> int:
    """Files of a study."""
    mine = select(schema.series.c.id).where(schema.series.c.study_id == study_id)
    query = select(func.count()).select_from(schema.instance).where(schema.instance.c.series_id.in_(mine))
    return int(tx.execute(query).scalar_one())


def instances(tx: Connection, series_id: int) -> int:
    """Different instances of a series."""
    query = select(func.count(func.distinct(schema.instance.c.sop_instance_uid))).where(_ours(series_id))
    return int(tx.execute(query).scalar_one())


def uids(tx: Connection, series_id: int) -> frozenset[str]:
    return frozenset(tx.execute(select(schema.instance.c.sop_instance_uid).where(_ours(series_id))).scalars())


def kinds(tx: Connection, series_id: int) -> list[tuple[str, str]]:
    """(SOP class, transfer syntax) of what has come."""
    column = schema.instance.c
    found = tx.execute(select(column.sop_class_uid, column.transfer_syntax_uid).where(_ours(series_id)).distinct())
    return [(row.sop_class_uid, row.transfer_syntax_uid) for row in found]


def newest_path(tx: Connection, series_id: int) -> str | None:
    """Of one instance, relative to the spool."""
    column = schema.instance.c
    query = select(column.path).where(_ours(series_id)).order_by(column.id.desc()).limit(1)
    found = tx.execute(query).scalar()
    return None if found is None else str(found)


def carriers(tx: Connection, series_id: int) -> tuple[Carrier, ...]:
    """The associations that brought what is new of a series; what no association brought has one that never ends."""
    column, ended = schema.instance.c, schema.association.c
    came_by = select(column.association).where(_ours(series_id), column.generation == 0).distinct().subquery()
    query = select(ended.how, ended.instances, ended.opened_at, ended.closed_at)
    rows = tx.execute(query.select_from(came_by).outerjoin(schema.association, ended.id == came_by.c.association))
    return tuple(Carrier("") if row.how is None else Carrier(*row) for row in rows)


def found_missing(tx: Connection, series: Row[Any], missing: int, evidence: str) -> None:
    """Notes that a series is incomplete, unless that is known already, or something came since it was read."""
    if _lacks(tx, schema.series, series, missing):
        note(tx, "incomplete", study_id=series.study_id, series_id=series.id, missing=missing, evidence=evidence)


def study_found_missing(tx: Connection, study: Row[Any], missing: int, evidence: str) -> None:
    """The same of a study."""
    if _lacks(tx, schema.study, study, missing):
        note(tx, "study incomplete", study_id=study.id, missing=missing, evidence=evidence)


def _lacks(tx: Connection, table: Table, row: Row[Any], missing: int) -> bool:
    take_turns(tx, "intake")
    column = table.c
    unchanged = and_(column.id == row.id, column.changes == row.changes, column.state == RECEIVING)
    return tx.execute(update(table).where(unchanged, column.missing != missing).values(missing=missing)).rowcount == 1


def _ours(series_id: Any) -> Any:
    """What came from outside can be filed, and is here."""
    column = schema.instance.c
    return and_(column.series_id == series_id, column.flaw == "", column.own.is_(False), column.purged.is_(False))
