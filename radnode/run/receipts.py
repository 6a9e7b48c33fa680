"""Receipts: asks a destination for what it has stored, until it shows it (`find`) or commits to it (`commitment`)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from enum import Enum
from functools import partial

from radnode.dicom.ask_commitment import ask
from radnode.dicom.headers import read_attributes
from radnode.dicom.peer import Peer
from radnode.domain.errors import PeerError
from radnode.domain.jobs import backoff
from radnode.domain.routing import Destination
from radnode.run import queries
from radnode.run.commitment import take_report
from radnode.settings import Settings
from radnode.state import receipts
from radnode.state.ledger import Ledger, Record

_ASKED_MOST = 3
_FIRST = 0.5  # seconds until a destination is queried again


class Receipt(Enum):
    GIVEN = "given"
    AWAITED = "awaited"


class Receipts:
    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings, self._ledger = settings, ledger
        self._take = partial(take_report, ledger)

    def of(self, delivery: Record, place: Destination) -> Receipt:
        """Whether all is there; where it is not yet, the delivery waits. Raises PeerError."""
        with self._ledger.read() as tx:
            rows = receipts.unconfirmed(tx, delivery)
        if place.receipt == "status" or not rows:
            return Receipt.GIVEN
        return self._found(delivery, place, rows) if place.receipt == "find" else self._promised(delivery, place, rows)

    def _found(self, delivery: Record, place: Destination, rows: Sequence[Record]) -> Receipt:
        shown = self._shown(place, rows)
        there = [each.sop_instance_uid for each in rows if each.sop_instance_uid in shown]
        with self._ledger.begin("confirm found") as tx:
            receipts.confirm(tx, delivery.id, there)
        if len(there) == len(rows):
            return Receipt.GIVEN
        lacking = f"{len(rows) - len(there)} of {len(rows)} instances it has stored"
        if _over(delivery, place):
            raise PeerError(f"{place} does not show {lacking}", remedy="look for them there", permanent=True)
        until = self._ledger.now() + backoff(delivery.receipts_asked + 1, first=_FIRST)
        with self._ledger.begin("await found") as tx:
            receipts.wait(tx, delivery, f"a query does not show {lacking} yet", until)
        return Receipt.AWAITED

    def _shown(self, place: Destination, rows: Sequence[Record]) -> set[str]:
        names = ("StudyInstanceUID", "SeriesInstanceUID")
        series: dict[tuple[str, ...], None] = {}
        for row in rows:
            read = read_attributes(self._settings.spool / row.path, frozenset(names))
            series[tuple(str((read.get(each) or ("",))[0]) for each in names)] = None
        shown = (queries.instances(place, study, one, self._settings.aet[0]) for study, one in series)
        return set().union(*shown)

    def _promised(self, delivery: Record, place: Destination, rows: Sequence[Record]) -> Receipt:
        if delivery.transaction_uid and not _over(delivery, place):
            return self._await_report(delivery, place)
        if delivery.receipts_asked >= _ASKED_MOST:
            raise PeerError(
                f"{place} did not commit to what it stored, asked {_ASKED_MOST} times",
                remedy="does it know our port for its report, and do `senders` admit it?",
                permanent=True,
            )
        transaction = f"2.25.{uuid.uuid4().int}"
        with self._ledger.begin("ask for commitment") as tx:
            receipts.ask(tx, delivery, transaction)
        references = [(row.sop_class_uid, row.sop_instance_uid) for row in rows]
        try:
            ask(Peer.of(place), transaction, references, self._take, calling_aet=self._settings.aet[0])
        except PeerError:
            with self._ledger.begin("not asked") as tx:
                receipts.forget(tx, delivery)
            raise
        return self._await_report(delivery, place)

    def _await_report(self, delivery: Record, place: Destination) -> Receipt:
        """It is woken by the report; that may have come already."""
        with self._ledger.begin("await report") as tx:
            receipts.wait_for_report(tx, delivery, self._ledger.now() + place.receipt_within)
        return Receipt.AWAITED


def _over(delivery: Record, place: Destination) -> bool:
    return delivery.receipt_since is not None and time.time() - delivery.receipt_since > place.receipt_within
