"""Storage Commitment as SCP: what is asked is recorded, then checked against ledger and spool, then reported."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from radnode import metrics
from radnode.dicom.acceptor import Association
from radnode.dicom.commitment import (
    CLASS_CONFLICT,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    Reference,
    Report,
)
from radnode.dicom.headers import summarize
from radnode.dicom.peer import Peer
from radnode.dicom.report import send_report
from radnode.dicom.services import RESOURCE_LIMITATION, STORED, Outcome
from radnode.domain.errors import NotDicomError, PeerError
from radnode.domain.routing import Destination
from radnode.run.broker import Tickets
from radnode.settings import Settings
from radnode.state import commitments, intake, receipts
from radnode.state.crash import point
from radnode.state.ledger import Ledger, Record, Unavailable
from radnode.state.presence import Barrier, present
from radnode.telemetry import log

_GIVE_UP = 7 * 86400.0


def verify(ledger: Ledger, spool: Path, row: Record) -> Report:
    """Looks each instance of a transaction up in the ledger, and at its file."""
    references: list[Reference] = [(sop_class, uid) for sop_class, uid in row.refs]
    with ledger.read() as tx:
        copies = commitments.copies(tx, [uid for _, uid in references])
    reasons = [(each, _reason(spool, each, copies.get(each[1], ()))) for each in references]
    return Report(
        row.transaction_uid,
        committed=tuple(each for each, reason in reasons if not reason),
        failed=tuple((*each, reason) for each, reason in reasons if reason),
    )


def _reason(spool: Path, reference: Reference, copies: Sequence[Record]) -> int:
    """Why an instance cannot be committed to; 0 where it can: one whole copy is enough."""
    if not copies:
        return NO_SUCH_INSTANCE
    of_class = [each for each in copies if each.sop_class_uid == reference[0]]
    if not of_class:
        return CLASS_CONFLICT
    return 0 if any(_is_whole(spool / each.path, each) for each in of_class) else PROCESSING_FAILURE


def _is_whole(path: Path, row: Record) -> bool:
    try:
        found = summarize(path)
        size = path.stat().st_size
    except (NotDicomError, OSError):
        return False
    return (found.sop_class_uid, found.sop_instance_uid, size) == (row.sop_class_uid, row.sop_instance_uid, row.size)


def take_report(ledger: Ledger, report: Report) -> bool:
    """Keeps what a destination says it commits to, for the delivery that waits for it; False where none does."""
    committed = [uid for _, uid in report.committed]
    failed = {uid: reason for _, uid, reason in report.failed}
    with ledger.begin("report taken") as tx:
        return receipts.reported(tx, report.transaction_uid, committed, failed)


class Promises:
    """A receiver's hand on the transactions it was asked for; for all its associations."""

    def __init__(self, ledger: Ledger, spool: Path, owner: str) -> None:
        self._ledger, self._spool, self._owner = ledger, spool, owner

    def record(self, association: Association, transaction_uid: str, references: Sequence[Reference]) -> Outcome:
        """Success once it is durable."""
        try:
            with self._ledger.begin("record commitment") as tx:
                kept = commitments.record(
                    tx,
                    transaction_uid,
                    references,
                    calling_aet=association.calling_aet,
                    called_aet=association.called_aet,
                    peer=association.peer,
                    association=association.id,
                    owner=self._owner,
                )
        except Unavailable as error:
            log().error("commitment cannot be recorded", error=str(error.orig), calling_aet=association.calling_aet)
            return Outcome(PROCESSING_FAILURE, "cannot be recorded for the moment")
        if not kept:
            return Outcome(RESOURCE_LIMITATION, "too many transactions wait for their report")
        log().info("commitment asked for", calling_aet=association.calling_aet, instances=len(references))
        return STORED

    def report(self, association: Association) -> Report | None:
        """The oldest that is ready to be sent on the association itself."""
        try:
            row = self._oldest(association)
            return None if row is None else verify(self._ledger, self._spool, row)
        except Unavailable:  # a worker reports it later, if this does not
            return None

    def reported(self, association: Association, report: Report) -> None:
        """Where the ledger does not take it, the peer hears it a second time."""
        with contextlib.suppress(*Unavailable):
            row = self._oldest(association)
            if row is not None and row.transaction_uid == report.transaction_uid:
                _settle(self._ledger, row, report)

    def take(self, report: Report) -> Outcome:
        """What a destination says of what it was asked to commit to, for the delivery that waits for it."""
        try:
            known = take_report(self._ledger, report)
        except Unavailable as error:
            log().error("report cannot be recorded", error=str(error.orig))
            return Outcome(PROCESSING_FAILURE, "cannot be recorded for the moment")
        return STORED if known else Outcome(NO_SUCH_INSTANCE, "no transaction of ours")

    def _oldest(self, association: Association) -> Record | None:
        with self._ledger.read() as tx:
            return commitments.on_association(tx, association.id)


class Reporter:
    """Reports on associations of our own, to peers that have gone. Part of what a `deliver` ticket starts."""

    def __init__(self, settings: Settings, ledger: Ledger, owner: str, stopping: threading.Event) -> None:
        self._settings, self._ledger, self._owner, self._stopping = settings, ledger, owner, stopping

    def drain(self) -> None:
        """Until there is none that may be reported now."""
        while not self._stopping.is_set():
            with self._ledger.begin("claim commitment") as tx:
                row = commitments.claim(tx, self._owner, self._ledger.now())
            if row is None:
                return
            self._report(row)

    def _report(self, row: Record) -> None:
        peer = self._peer(row)
        if peer is None:
            self._park(row, "no destination has that AE title -> name it in routing.yaml, with its port")
            return
        if time.time() - row.created_at > _GIVE_UP:
            self._park(row, f"not reported for a week: {row.error}")
            return
        report = verify(self._ledger, self._settings.spool, row)
        calling_aet = row.called_aet if row.called_aet in self._settings.aet else self._settings.aet[0]
        try:
            send_report(report, peer, calling_aet=calling_aet)
            point("commitment told")
        except PeerError as error:
            with self._ledger.begin("postpone commitment") as tx:
                commitments.postpone(tx, row, error.message, self._ledger.now())
            metrics.commitment_reports.labels("retried").inc()
            log().warning("commitment not reported yet", error=error.message, attempts=row.attempts)
        else:
            _settle(self._ledger, row, report)

    def _park(self, row: Record, error: str) -> None:
        with self._ledger.begin("park commitment") as tx:
            commitments.park(tx, row, error)
        metrics.commitment_reports.labels("parked").inc()
        log().error("commitment parked", calling_aet=row.calling_aet, error=error)

    def _peer(self, row: Record) -> Peer | None:
        """Where the requester listens: the destination of that AE title, best on the host it called from."""
        with self._ledger.read() as tx:
            routing = intake.routing_in_force(tx)
        places = [] if routing is None else map(Destination.from_json, routing.peers["destinations"].values())
        named = [each for each in places if each.aet == row.calling_aet]
        here = [each for each in named if each.host == row.peer]
        return next((Peer.of(each) for each in (*here, *named)), None)


def _settle(ledger: Ledger, row: Record, report: Report) -> None:
    committed, failed = [uid for _, uid in report.committed], [uid for _, uid, _ in report.failed]
    with ledger.begin("settle commitment") as tx:
        ours = commitments.reported(tx, row, committed, failed)
    if ours:
        metrics.commitment_reports.labels("refused" if failed else "committed").inc()
        log().info("commitment reported", calling_aet=row.calling_aet, committed=len(committed), failed=len(failed))


class Gate:
    """Core's part: lets a transaction on once every receiver has told the ledger what it acknowledged before."""

    def __init__(self, ledger: Ledger, barrier: Barrier, folder: Path, tickets: Tickets) -> None:
        self._ledger, self._barrier, self._folder, self._tickets = ledger, barrier, folder, tickets
        self._ids: list[int] = []
        self._number = 0

    def advance(self) -> None:
        if not self._ids:
            with self._ledger.read() as tx:
                self._ids = commitments.received(tx)
            self._number = self._barrier.raise_() if self._ids else 0
        elif all(each.mark >= self._number for each in present(self._folder, "receiver-")):
            with self._ledger.begin("commitments flushed") as tx:
                commitments.flushed(tx, self._ids)
            self._ids = []
            self._tickets.send("deliver")
