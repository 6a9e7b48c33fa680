"""Arrivals into the ledger, and series and studies from receiving to complete."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, case, delete, exists, func, insert, select, update

from radnode.domain.jobs import SeriesState
from radnode.state import commitments, jobs, schema
from radnode.state.arrivals import Arrival, AssociationEnd
from radnode.state.ledger import chunks, insert_new, note, take_turns

RECEIVING, COMPLETE, INCOMPLETE = (
    each.value for each in (SeriesState.RECEIVING, SeriesState.COMPLETE, SeriesState.INCOMPLETE)
)


def record(
    tx: Connection, arrivals: Sequence[Arrival], ends: Sequence[AssociationEnd], *, clock_offset: float = 0.0
) -> None:
    """Files a batch of arrivals. Recording the same batch again changes nothing.

    Args:
        clock_offset: seconds to add to `Arrival.seen` to get the ledger's clock.
    """
    take_turns(tx, "intake")
    arrivals = _unknown(tx, arrivals)
    own = jobs.made_here(tx, [each.sop_instance_uid for each in arrivals if not each.flaw])
    by_series: defaultdict[tuple[str, str], list[Arrival]] = defaultdict(list)
    rows: list[dict[str, Any]] = []
    for each in arrivals:
        if each.flaw:
            rows.append(_instance_row(each, None, own=False))
        else:
            by_series[each.study_uid, each.series_uid].append(each)
    for (study_uid, series_uid), members in sorted(by_series.items()):
        theirs = [each for each in members if each.sop_instance_uid not in own]
        series_id = _touch(tx, study_uid, series_uid, members, bool(theirs), clock_offset)
        rows += [_instance_row(each, series_id, own=each.sop_instance_uid in own) for each in members]
    if rows:
        tx.execute(insert_new(tx, schema.instance), rows)
    for flawed in (each for each in arrivals if each.flaw):
        _note_flaw(tx, flawed)
    for end in ends:
        if tx.execute(insert_new(tx, schema.association), _association_row(end)).rowcount == 1 and end.instances:
            _interrupted(tx, end, clock_offset)
    if ends:
        commitments.let_go(tx, [each.association for each in ends])


def _note_flaw(tx: Connection, each: Arrival) -> None:
    """On the timeline of the study, if it names one that is here."""
    known = select(schema.study.c.id).where(schema.study.c.study_instance_uid == each.study_uid)
    study_id = tx.execute(known).scalar()
    note(
        tx, "flawed", at=each.received_at, study_id=study_id, path=each.path, flaw=each.flaw,
        association=each.association,
    )  # fmt: skip


def _interrupted(tx: Connection, end: AssociationEnd, offset: float) -> None:
    """An association broke off: its sender may come back, so the quiet time of what it carried starts anew."""
    if end.how == "released":
        return
    series = schema.series.c
    carried = exists().where(schema.instance.c.series_id == series.id, schema.instance.c.association == end.association)
    seen = end.seen + offset
    for row in tx.execute(select(series.id, series.study_id).where(series.state == RECEIVING, carried)).all():
        for table, identity in ((schema.study, row.study_id), (schema.series, row.id)):
            moved = {"changes": table.c.changes + 1, "seen": case((table.c.seen > seen, table.c.seen), else_=seen)}
            tx.execute(update(table).where(table.c.id == identity).values(moved))
        note(
            tx,
            "association broken off",
            at=end.closed_at,
            study_id=row.study_id,
            series_id=row.id,
            how=end.how,
            calling_aet=end.calling_aet,
            instances=end.instances,
            association=end.association,
        )


def _unknown(tx: Connection, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Those not recorded yet: a receiver that did not hear of its commit hands its batch over again."""
    column = schema.instance.c.path
    known: set[str] = set()
    for paths in chunks([each.path for each in arrivals]):
        known.update(tx.execute(select(column).where(column.in_(paths))).scalars())
    return [each for each in arrivals if each.path not in known]


def _touch(
    tx: Connection, study_uid: str, series_uid: str, members: Sequence[Arrival], news: bool, offset: float
) -> int:
    """Notes that a series received something and returns its id. Own results coming back leave its state alone."""
    first, last = members[0], members[-1]
    seen = last.seen + offset
    times = {"seen": seen, "first_received_at": first.received_at, "last_received_at": last.received_at}
    state = RECEIVING if news else COMPLETE
    tx.execute(insert_new(tx, schema.study), {"study_instance_uid": study_uid, "state": state, **times})
    study_id = int(
        tx.execute(select(schema.study.c.id).where(schema.study.c.study_instance_uid == study_uid)).scalar_one()
    )
    gone = and_(schema.study.c.id == study_id, schema.study.c.purge == "gone")
    tx.execute(update(schema.study).where(gone).values(purge=""))  # what comes anew is kept
    titles = {"calling_aet": first.calling_aet, "called_aet": first.called_aet, "peer": first.peer}
    row = {"study_id": study_id, "series_instance_uid": series_uid, "state": state, **times, **titles}
    new = tx.execute(insert_new(tx, schema.series), row).rowcount == 1
    mine = and_(schema.series.c.study_id == study_id, schema.series.c.series_instance_uid == series_uid)
    series_id = int(tx.execute(select(schema.series.c.id).where(mine)).scalar_one())
    if news:
        for table, identity in ((schema.study, study_id), (schema.series, series_id)):
            moved = {
                "state": RECEIVING,
                "changes": table.c.changes + 1,
                "last_received_at": last.received_at,
                "seen": case((table.c.seen > seen, table.c.seen), else_=seen),
            }
            tx.execute(update(table).where(table.c.id == identity).values(moved))
    if new and news:
        note(
            tx,
            "received",
            at=first.received_at,
            study_id=study_id,
            series_id=series_id,
            SeriesInstanceUID=series_uid,
            calling_aet=first.calling_aet,
            called_aet=first.called_aet,
            peer=first.peer,
            user_identity=first.user_identity,
            association=first.association,
        )
    return series_id


def _instance_row(each: Arrival, series_id: int | None, *, own: bool) -> dict[str, Any]:
    return {
        "series_id": series_id,
        "sop_instance_uid": each.sop_instance_uid,
        "sop_class_uid": each.sop_class_uid,
        "transfer_syntax_uid": each.transfer_syntax_uid,
        "path": each.path,
        "size": each.size,
        "received_at": each.received_at,
        "association": each.association,
        "flaw": each.flaw,
        "own": own,
        "generation": 0,
    }


def _association_row(each: AssociationEnd) -> dict[str, Any]:
    return {
        "id": each.association,
        "how": each.how,
        "calling_aet": each.calling_aet,
        "called_aet": each.called_aet,
        "peer": each.peer,
        "instances": each.instances,
        "opened_at": each.opened_at,
        "closed_at": each.closed_at,
    }


def restart_quiet_time(tx: Connection, now: float) -> None:
    """After a restart of core silence means nothing yet: every open series' quiet time starts anew."""
    take_turns(tx, "intake")
    for table in (schema.series, schema.study):
        tx.execute(update(table).where(table.c.state == RECEIVING).values(seen=now))


def anything_open(tx: Connection) -> bool:
    return bool(tx.execute(select(exists().where(schema.study.c.state == RECEIVING))).scalar())


def quiet_studies(tx: Connection, since: float, limit: int = 100) -> Sequence[Row[Any]]:
    """Studies still receiving, quiet since `since`, all of whose series are complete."""
    column = schema.study.c
    open_series = exists().where(schema.series.c.study_id == column.id, schema.series.c.state == RECEIVING)
    due = and_(column.state == RECEIVING, column.seen <= since, column.purge != "going", ~open_series)
    return tx.execute(select(schema.study).where(due).order_by(column.seen).limit(limit)).all()


def series_of(tx: Connection, study_id: int) -> Sequence[Row[Any]]:
    return tx.execute(
        select(schema.series).where(schema.series.c.study_id == study_id).order_by(schema.series.c.id)
    ).all()


def study_of(tx: Connection, study_id: int) -> Row[Any]:
    return tx.execute(select(schema.study).where(schema.study.c.id == study_id)).one()


def instances_of(tx: Connection, series_id: int) -> Sequence[Row[Any]]:
    """The series' instances that came from outside, oldest first; a re-sent one appears twice, a purged one too."""
    column = schema.instance.c
    wanted = and_(column.series_id == series_id, column.flaw == "", column.own.is_(False))
    return tx.execute(select(schema.instance).where(wanted).order_by(column.id)).all()


def complete_series(
    tx: Connection,
    series: Row[Any],
    *,
    generation: int,
    instance_ids: Collection[int],
    instances: int,
    headers: dict[str, Any],
    kept: dict[str, Any] | None = None,
    missing: int = 0,
) -> bool:
    """Completes a series unless something arrived since `series` was read; then False, and nothing is changed.

    Args:
        missing: instances known to exist that have not come.
    """
    take_turns(tx, "intake")
    column = schema.series.c
    unchanged = and_(column.id == series.id, column.changes == series.changes, column.state == RECEIVING)
    state = INCOMPLETE if missing else COMPLETE
    values = {"state": state, "generation": generation, "instances": instances, "missing": missing}
    values |= {"headers": headers, "kept": kept or {}}
    if tx.execute(update(schema.series).where(unchanged).values(values)).rowcount != 1:
        return False
    for some in chunks(instance_ids):
        tx.execute(update(schema.instance).where(schema.instance.c.id.in_(some)).values(generation=generation))
    return True


def missing(tx: Connection, series_ids: Collection[int], study_id: int | None = None) -> int:
    """Instances that these series, or their study as well, are known to lack: at least so many."""
    column = schema.series.c
    of_series = select(func.coalesce(func.sum(column.missing), 0)).where(column.id.in_(series_ids))
    of_study = select(schema.study.c.missing).where(schema.study.c.id == study_id)
    return max(int(tx.execute(of_series).scalar_one()), int(tx.execute(of_study).scalar() or 0))


def describe_study(
    tx: Connection, study_id: int, accession_number: str, patient_id: str, headers: dict[str, Any]
) -> None:
    values = {"accession_number": accession_number, "patient_id": patient_id, "headers": headers}
    tx.execute(update(schema.study).where(schema.study.c.id == study_id).values(values))


def complete_study(tx: Connection, study: Row[Any], missing: int = 0) -> bool:
    """Completes a study unless something arrived since `study` was read.

    Args:
        missing: instances known to exist, in series that have not come.
    """
    take_turns(tx, "intake")
    column = schema.study.c
    unchanged = and_(column.id == study.id, column.changes == study.changes, column.state == RECEIVING)
    return tx.execute(update(schema.study).where(unchanged).values(state=COMPLETE, missing=missing)).rowcount == 1


def drop_instances(tx: Connection, ids: Sequence[int]) -> None:
    """Forgets copies that are byte for byte what is kept already."""
    for some in chunks(ids):
        tx.execute(delete(schema.instance).where(schema.instance.c.id.in_(some)))


def note_differences(tx: Connection, series: Row[Any], found: Mapping[int, str]) -> None:
    """Keeps what copies differ in (instance id -> what), and says so once for each kind of difference."""
    for differs in sorted(set(found.values())):
        ids = [each for each, what in found.items() if what == differs]
        for some in chunks(ids):
            tx.execute(update(schema.instance).where(schema.instance.c.id.in_(some)).values(differs=differs))
        about = {"study_id": series.study_id, "series_id": series.id, "instances": len(ids)}
        note(tx, "differing copy", differs=differs, **about)


def known_paths(tx: Connection, prefix: str) -> set[str]:
    """Paths of all recorded instances in one bucket of the spool (`prefix` ends in a slash)."""
    column = schema.instance.c.path
    return set(tx.execute(select(column).where(column >= prefix, column < prefix[:-1] + "0")).scalars())


def sealed(tx: Connection) -> dict[str, int]:
    """Buckets of which every file was recorded when their folder had last been changed at that time (ns)."""
    return {row.name: row.changed_ns for row in tx.execute(select(schema.sealed_bucket))}


def seal(tx: Connection, buckets: Mapping[str, int]) -> None:
    """Scans leave these out for as long as their folders do not change; see `sealed`."""
    column = schema.sealed_bucket.c.name
    for name, changed_ns in buckets.items():
        tx.execute(delete(schema.sealed_bucket).where(column == name))
        tx.execute(insert(schema.sealed_bucket).values(name=name, changed_ns=changed_ns))


def counts(tx: Connection) -> dict[str, int]:
    """Open series, and those of them that are known to lack instances: for the metrics."""
    column = schema.series.c
    lacking = func.coalesce(func.sum(case((column.missing > 0, 1), else_=0)), 0)
    found = tx.execute(select(func.count(), lacking).where(column.state == RECEIVING)).one()
    return {"series_open": int(found[0]), "series_incomplete": int(found[1])}


def remember_routing(tx: Connection, version: str, text: str, peers: dict[str, Any]) -> None:
    """Keeps a routing that took effect: the one with the highest `number` is in force.

    Args:
        peers: its destinations and senders, for the parts that do not know the apps and so cannot read the text.
    """
    number = int(tx.execute(select(func.coalesce(func.max(schema.routing.c.number), 0))).scalar_one()) + 1
    row = {"version": version, "text": text, "peers": peers, "applied_at": time.time(), "number": number}
    if tx.execute(insert_new(tx, schema.routing), row).rowcount != 1:
        again = schema.routing.c.version == version
        tx.execute(update(schema.routing).where(again).values(number=number, peers=peers))


def routing_in_force(tx: Connection) -> Row[Any] | None:
    return tx.execute(select(schema.routing).order_by(schema.routing.c.number.desc()).limit(1)).first()
