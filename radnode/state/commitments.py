"""Storage Commitment in the ledger: what was asked, by whom, and what became of it.

    received ─► waiting ─► sending ─► reported
                   ▲          └─► waiting (later), parked

Core moves a transaction on to `waiting` once all that was acknowledged before it lies in the ledger. As long as the
association it was asked on is open (`association`), its receiver reports it there, and no worker claims it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, func, select, update

from radnode.domain.jobs import backoff
from radnode.state import schema
from radnode.state.ledger import CHUNK, chunks, insert_new, note, take_turns

RECEIVED, WAITING, SENDING, REPORTED, PARKED = "received", "waiting", "sending", "reported", "parked"
_column = schema.commitment.c
MOST_OF_PEER = 1000
"""Transactions of one AE title that are kept unreported."""
_LEASE = 600.0  # seconds after which a claim that a fault came between may be taken over
_SLOWEST = 600.0  # seconds between two attempts, at most


def record(
    tx: Connection,
    transaction_uid: str,
    references: Sequence[tuple[str, str]],
    *,
    calling_aet: str,
    called_aet: str,
    peer: str,
    association: str,
    owner: str,
) -> bool:
    """Keeps a request; one that comes again starts anew. False where the peer has too many that are not reported yet.

    Args:
        references: (SOP Class UID, SOP Instance UID) each.
        owner: the receiver that holds the association.
    """
    waiting = and_(_column.calling_aet == calling_aet, _column.state != REPORTED)
    if tx.execute(select(func.count()).select_from(schema.commitment).where(waiting)).scalar_one() >= MOST_OF_PEER:
        return False
    row = {
        "transaction_uid": transaction_uid,
        "calling_aet": calling_aet,
        "called_aet": called_aet,
        "peer": peer,
        "refs": [list(each) for each in references],
        "state": RECEIVED,
        "association": association,
        "owner": owner,
        "created_at": time.time(),
    }
    if tx.execute(insert_new(tx, schema.commitment), row).rowcount != 1:
        same = and_(_column.calling_aet == calling_aet, _column.transaction_uid == transaction_uid)
        again = row | {"attempts": 0, "not_before": 0.0, "error": "", "finished_at": None}
        tx.execute(update(schema.commitment).where(same).values(again))
    return True


def received(tx: Connection) -> list[int]:
    """IDs of those just recorded, or of the first few hundred."""
    return list(tx.execute(select(_column.id).where(_column.state == RECEIVED).limit(CHUNK)).scalars())


def flushed(tx: Connection, ids: Sequence[int]) -> None:
    """What was acknowledged before these were asked lies in the ledger now."""
    fresh = and_(_column.id.in_(ids), _column.state == RECEIVED)
    tx.execute(update(schema.commitment).where(fresh).values(state=WAITING))


def on_association(tx: Connection, association: str) -> Row[Any] | None:
    """One that can be reported on the association it was asked on."""
    ready = and_(_column.state == WAITING, _column.association == association)
    return tx.execute(select(schema.commitment).where(ready).order_by(_column.id).limit(1)).first()


def let_go(tx: Connection, associations: Collection[str]) -> None:
    """These associations have ended: what was not reported there is for the workers."""
    ended = and_(_column.state.in_((RECEIVED, WAITING)), _column.association.in_(associations))
    tx.execute(update(schema.commitment).where(ended).values(association="", owner=""))


def release_lost(tx: Connection, owner: str) -> None:
    """Gives back what a dead receiver or worker had in hand."""
    held = and_(_column.owner == owner, _column.state.in_((RECEIVED, WAITING, SENDING)))
    tx.execute(update(schema.commitment).where(held, _column.state == SENDING).values(state=WAITING, not_before=0.0))
    tx.execute(update(schema.commitment).where(held).values(association="", owner=""))


def owners(tx: Connection) -> set[str]:
    """Workers that have one in hand."""
    return set(tx.execute(select(_column.owner).where(_column.state == SENDING).distinct()).scalars())


def claim(tx: Connection, owner: str, now: float) -> Row[Any] | None:
    """Takes the oldest one due whose peer is not being told of another one just now."""
    take_turns(tx, "deliver")
    oldest = select(_column.id).where(_able(now)).order_by(_column.id).limit(1).scalar_subquery()
    taken = {"state": SENDING, "owner": owner, "attempts": _column.attempts + 1, "not_before": now + _LEASE}
    return tx.execute(
        update(schema.commitment).where(_column.id == oldest).values(taken).returning(schema.commitment)
    ).first()


def runnable(tx: Connection, now: float) -> int:
    """Peers to which a report may go out now."""
    return int(tx.execute(select(func.count(_column.calling_aet.distinct())).where(_able(now))).scalar_one())


def _able(now: float) -> Any:
    other = schema.commitment.alias()
    busy = and_(other.c.state == SENDING, other.c.not_before > now)
    served = exists().where(other.c.calling_aet == _column.calling_aet, busy)
    due = and_(_column.state.in_((WAITING, SENDING)), _column.not_before <= now)
    return and_(due, _column.association == "", ~served)


def reported(tx: Connection, row: Row[Any], committed: Sequence[str], failed: Sequence[str]) -> bool:
    """The peer has taken the report. False where the transaction is not ours any more."""
    ended = {"state": REPORTED, "finished_at": time.time(), "error": "", "association": "", "owner": "", "refs": []}
    if tx.execute(update(schema.commitment).where(_ours(row)).values(ended)).rowcount != 1:
        return False
    said = {"calling_aet": row.calling_aet, "TransactionUID": row.transaction_uid}
    for study_id, uids in _by_study(tx, committed).items():
        note(tx, "committed", study_id=study_id, instances=len(uids), **said)
    for study_id, uids in _by_study(tx, failed).items():
        note(tx, "commitment refused", study_id=study_id, instances=len(uids), **said)
    return True


def postpone(tx: Connection, row: Row[Any], error: str, now: float) -> None:
    """Back to waiting, later; so are the others of this peer."""
    again = {"state": WAITING, "owner": "", "error": error, "not_before": now + backoff(row.attempts, cap=_SLOWEST)}
    if tx.execute(update(schema.commitment).where(_ours(row)).values(again)).rowcount == 1:
        others = and_(_column.calling_aet == row.calling_aet, _column.state == WAITING, _column.association == "")
        tx.execute(update(schema.commitment).where(others).values(not_before=again["not_before"]))


def park(tx: Connection, row: Row[Any], error: str) -> None:
    """The report cannot be sent until something is changed; `wake_all` tries again."""
    if tx.execute(
        update(schema.commitment).where(_ours(row)).values(state=PARKED, owner="", error=error)
    ).rowcount:
        for study_id, uids in _by_study(tx, [uid for _, uid in row.refs]).items():
            note(tx, "commitment parked", study_id=study_id, instances=len(uids), error=error,
                 calling_aet=row.calling_aet, TransactionUID=row.transaction_uid)  # fmt: skip


def wake_all(tx: Connection) -> None:
    """At the start of core, and when a routing takes effect: everything unreported is due now."""
    late = _column.state.in_((WAITING, PARKED))
    tx.execute(update(schema.commitment).where(late).values(state=WAITING, not_before=0.0))


def states(tx: Connection) -> dict[str, int]:
    """How many are not reported yet, by state."""
    query = select(_column.state, func.count()).where(_column.state != REPORTED).group_by(_column.state)
    return dict(tx.execute(query).all())


def copies(tx: Connection, uids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    """SOP Instance UID -> its rows, the newest first; without what was purged."""
    found: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    instance = schema.instance
    for some in chunks(uids):
        named = instance.c.sop_instance_uid.in_(some)
        for row in tx.execute(select(instance).where(named, ~instance.c.purged).order_by(instance.c.id.desc())):
            found[row.sop_instance_uid].append(row)
    return found


def _by_study(tx: Connection, uids: Sequence[str]) -> dict[int, set[str]]:
    found: defaultdict[int, set[str]] = defaultdict(set)
    instance, series = schema.instance.c, schema.series.c
    for some in chunks(uids):
        query = select(series.study_id, instance.sop_instance_uid).join(
            schema.series, series.id == instance.series_id
        )
        for study_id, uid in tx.execute(query.where(instance.sop_instance_uid.in_(some))):
            found[study_id].add(uid)
    return found


def _ours(row: Row[Any]) -> Any:
    """The claim still stands, or the association the row was read for is still open."""
    mine = and_(_column.state == row.state, _column.owner == row.owner, _column.attempts == row.attempts)
    return and_(_column.id == row.id, mine, _column.association == row.association)
