"""Carries out deliveries: sends what a destination has not taken yet, and judges its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from radnode import metrics
from radnode.dicom.scu import CONTEXT_NOT_ACCEPTED, OutgoingFile
from radnode.domain.errors import PeerError, RadnodeError, ResultError
from radnode.domain.jobs import Outcome, judge
from radnode.domain.routing import Destination
from radnode.run.hands import Hands
from radnode.run.identity import Identities, Stale
from radnode.run.outlets import Consignment, Outlets
from radnode.run.receipts import Receipt, Receipts
from radnode.run.substitutes import Substitutes, when_refused, when_unwanted
from radnode.settings import Settings
from radnode.state import deliveries, intake, jobs, notices
from radnode.state.crash import point
from radnode.state.ledger import Ledger, Record, Transaction, Unavailable
from radnode.telemetry import log

_RECORD_EVERY = 50  # instances; what was answered before a crash is not sent again


@dataclass
class _Attempt:
    """One try at one delivery: what the destination answered, and what went wrong."""

    answers: list[tuple[str, int | None, str, bool]] = field(default_factory=list)
    stored: int = 0
    unknown: set[str] = field(default_factory=set)
    fault: str = ""
    transient: bool = False
    peer_down: bool = False
    interrupted: bool = False
    stale: Stale | None = None
    receipt: Receipt | None = None

    def failed(self, error: PeerError) -> None:
        self.fault, self.transient, self.peer_down = str(error), not error.permanent, True

    def take(self, uid: str, status: int | None, comment: str) -> None:
        outcome = judge(status)
        self.answers.append((uid, status, comment, outcome is Outcome.STORED))
        if outcome is Outcome.STORED:
            self.stored += 1
            return
        if status == CONTEXT_NOT_ACCEPTED:
            self.unknown.add(uid)
        shown = "no answer" if status is None else f"0x{status:04X}"
        if not self.fault or (self.transient and outcome is Outcome.PERMANENT):
            self.fault = f"{shown} {comment}".strip()
        self.transient = self.transient or outcome is Outcome.TRANSIENT


class Deliverer:
    """What a `deliver` ticket starts. One destination is served by as many threads at a time as it allows."""

    def __init__(self, settings: Settings, ledger: Ledger, owner: str, hands: Hands, stopping: threading.Event) -> None:
        self.settings = settings
        self.ledger = ledger
        self.owner = owner
        self.hands = hands
        self.stopping = stopping
        self.outlets = Outlets(settings, owner)
        self.substitutes = Substitutes(settings, ledger, owner)
        self.identities = Identities(settings)
        self.receipts = Receipts(settings, ledger)
        self.log = log()

    def drain(self) -> None:
        """Claims and carries out deliveries until there is none that may start now."""
        while not self.stopping.is_set():
            now = self.ledger.now()
            with self.ledger.begin("claim delivery") as tx:
                delivery = deliveries.claim(tx, self.owner, now)
            if delivery is None:
                return
            with self.hands.on(delivery):
                self._guarded(delivery)

    def _guarded(self, delivery: Record) -> None:
        """Whatever a stranger's answer brings about: the delivery is tried again later, and holds up no other."""
        try:
            self._deliver(delivery)
        except Unavailable:
            raise
        except ResultError as error:
            self._park(delivery, str(error), self.log.bind(job=delivery.job_id[:12], destination=delivery.destination))
        except Exception as error:
            logger = self.log.bind(job=delivery.job_id[:12], destination=delivery.destination)
            logger.exception("delivery broke the worker")
            fault = f"{type(error).__name__}: {error}"
            self._postpone(delivery, _Attempt(fault=fault, transient=True, peer_down=True), logger)

    def _deliver(self, delivery: Record) -> None:
        with self.ledger.read() as tx:
            place = destination(tx, delivery.destination)
            job, study = jobs.get(tx, delivery.job_id), jobs.study_of(tx, delivery.job_id)
        logger = self.log.bind(study=job.study_id, job=job.id[:12], destination=delivery.destination)
        if place is None:
            remedy = f"name it in routing.yaml again, then `radnode retry {delivery.job_id[:12]}`"
            self._park(delivery, f"destination {delivery.destination!r} is not in routing.yaml -> {remedy}", logger)
            return
        if delivery.expires_at is not None and time.time() > delivery.expires_at:
            with self.ledger.begin("expire delivery") as tx:
                deliveries.expire(tx, delivery)
            logger.warning("delivery expired")
            return
        pending = self._wanted(delivery, place)
        with metrics.delivery_seconds.labels(delivery.destination).time():
            attempt = self._send(delivery, place, self._consignment(job, study, pending))
            self._fall_back(delivery, place, pending, attempt)
            self._reissue(delivery, place, pending, attempt)
            if attempt.stored == len(pending):
                self._ask_for_receipt(delivery, place, attempt)
        self._settle(delivery, job, attempt, logger)

    def _wanted(self, delivery: Record, place: Destination) -> list[Record]:
        """What is still to be sent. What this destination is not to have goes in another form, or is left out."""
        pending = self._pending(delivery)
        unwanted = [each for each in pending if not place.takes(each.kind)]
        if not unwanted:
            return pending
        gone = self.substitutes.make(
            delivery, unwanted, partial(when_unwanted, place), "it is not for this destination"
        )
        if left := [each for each in unwanted if each not in gone]:
            with self.ledger.begin("leave out") as tx:
                reasons = {each.sop_instance_uid: f"{each.kind} is not for it" for each in left}
                deliveries.leave_out(tx, delivery, reasons)
        return self._pending(delivery)

    def _pending(self, delivery: Record) -> list[Record]:
        with self.ledger.read() as tx:
            return list(deliveries.pending(tx, delivery))

    def _fall_back(self, delivery: Record, place: Destination, pending: Sequence[Record], attempt: _Attempt) -> None:
        """What it does not know goes in another form, where there is one: at once, unless the peer is in trouble."""
        unknown = [each for each in pending if each.sop_instance_uid in attempt.unknown]
        why = "the destination does not take its SOP class"
        if self.substitutes.make(delivery, unknown, partial(when_refused, place), why) and not attempt.transient:
            attempt.interrupted = True

    def _consignment(self, job: Record, study: Record, pending: Sequence[Record]) -> Consignment:
        spool = self.settings.spool
        return Consignment(
            job_id=job.id,
            priority=job.priority,
            files=[
                OutgoingFile(spool / row.path, row.sop_class_uid, row.sop_instance_uid, row.transfer_syntax_uid)
                for row in pending
            ],
            about={
                "job": job.id,
                "rule": job.rule,
                "app": job.app,
                "app_version": job.app_version,
                "StudyInstanceUID": study.study_instance_uid,
                "AccessionNumber": study.accession_number,
                "PatientID": study.patient_id,
            },
        )

    def _send(self, delivery: Record, place: Destination, consignment: Consignment) -> _Attempt:
        """Sends what is pending; whatever happens, the answers that came are in the ledger afterwards."""
        attempt = _Attempt()
        if not consignment.files:
            return attempt
        try:
            attempt.stale = self.identities.stale(place, consignment.files[0].path, self._source(delivery))
            with self.outlets.to(place) as outlet:
                for uid, status, comment in () if attempt.stale else outlet.send(consignment):
                    attempt.take(uid, status, comment)
                    point("sent one")
                    if len(attempt.answers) >= _RECORD_EVERY:
                        self._record(delivery, attempt)
                        attempt.interrupted = self._gives_way(delivery)
                    if attempt.interrupted or self.stopping.is_set():
                        attempt.interrupted = True
                        break
        except PeerError as error:
            attempt.failed(error)
        except RadnodeError as error:  # a file that cannot be read
            attempt.fault, attempt.transient = str(error), False
        finally:
            self._record(delivery, attempt)
        return attempt

    def _source(self, delivery: Record) -> Path:
        """One of the images that the results were made from."""
        with self.ledger.read() as tx:
            return self.settings.spool / str(jobs.input_rows(tx, delivery.job_id)[0].path)

    def _reissue(self, delivery: Record, place: Destination, pending: Sequence[Record], attempt: _Attempt) -> None:
        """What is not sent yet gets the identity that the destination knows, and is sent at once."""
        if attempt.stale is None or place.identity != "reissue" or not attempt.stale.corrections:
            return
        try:
            self.substitutes.reissue(delivery, pending, attempt.stale.corrections, attempt.stale.reason)
        except ResultError as error:
            attempt.stale = Stale(f"{attempt.stale.reason}, and its results cannot be reissued: {error}", {})
        else:
            attempt.stale, attempt.interrupted = None, True

    def _ask_for_receipt(self, delivery: Record, place: Destination, attempt: _Attempt) -> None:
        try:
            attempt.receipt = self.receipts.of(delivery, place)
        except PeerError as error:
            attempt.failed(error)
        except RadnodeError as error:  # a file that cannot be read
            attempt.fault = str(error)

    def _gives_way(self, delivery: Record) -> bool:
        """Whether something more urgent waits for the same destination: thousands of instances do not hold it up."""
        with self.ledger.read() as tx:
            return deliveries.more_urgent_waits(tx, delivery, self.ledger.now())

    def _record(self, delivery: Record, attempt: _Attempt) -> None:
        with self.ledger.begin("record sent") as tx:
            deliveries.record_sent(tx, delivery, attempt.answers)
        metrics.instances_sent.labels(delivery.destination).inc(sum(stored for *_, stored in attempt.answers))
        attempt.answers.clear()

    def _settle(self, delivery: Record, job: Record, attempt: _Attempt, logger: Any) -> None:
        if attempt.receipt is Receipt.AWAITED:
            logger.info("stored, its receipt is awaited")
        elif attempt.receipt is Receipt.GIVEN:
            self._end(delivery, job, attempt, logger)
        elif attempt.stale:
            self._hold(delivery, attempt.stale.reason, logger)
        elif attempt.interrupted:
            with self.ledger.begin("interrupt delivery") as tx:
                deliveries.give_back(tx, delivery)
        elif attempt.transient:
            self._postpone(delivery, attempt, logger)
        else:
            self._park(delivery, attempt.fault, logger)

    def _end(self, delivery: Record, job: Record, attempt: _Attempt, logger: Any) -> None:
        with self.ledger.begin("delivered") as tx:
            done, notice = deliveries.delivered(tx, delivery), notices.is_one(tx, job)
        if not done:
            return
        metrics.delivery_attempts.labels(delivery.destination, "delivered").inc()
        if not notice:  # it says that there is no result: that is not what a radiologist waits for
            waited = max(time.time() - job.last_image_at, 0)
            metrics.last_image_to_delivered.labels(job.app or "forward").observe(waited)
        logger.info("delivered", instances=attempt.stored)

    def _postpone(self, delivery: Record, attempt: _Attempt, logger: Any) -> None:
        now = self.ledger.now()
        with self.ledger.begin("postpone delivery") as tx:
            deliveries.postpone(tx, delivery, attempt.fault, now, peer_down=attempt.peer_down)
        metrics.delivery_attempts.labels(delivery.destination, "retried").inc()
        logger.warning("delivery postponed", error=attempt.fault, failures=delivery.failures + 1)

    def _hold(self, delivery: Record, reason: str, logger: Any) -> None:
        """A result under a stale name is worse than none."""
        remedy = f"correct it there, or push the corrected study; `radnode retry {delivery.job_id[:12]}` looks again"
        with self.ledger.begin("hold delivery") as tx:
            deliveries.hold(tx, delivery, f"{reason} -> {remedy}")
        metrics.delivery_attempts.labels(delivery.destination, "held").inc()
        logger.error("delivery held", reason=reason, remedy=remedy)

    def _park(self, delivery: Record, error: str, logger: Any) -> None:
        with self.ledger.begin("park delivery") as tx:
            deliveries.park(tx, delivery, error)
        metrics.delivery_attempts.labels(delivery.destination, "parked").inc()
        logger.error("delivery parked", error=error, remedy=f"`radnode retry {delivery.job_id[:12]}` sends it again")

    def close(self) -> None:
        self.outlets.close()


def destination(tx: Transaction, name: str) -> Destination | None:
    """As the routing in force describes it; None where it names it no more."""
    routing = intake.routing_in_force(tx)
    kept = None if routing is None else routing.peers["destinations"].get(name)
    return None if kept is None else Destination.from_json(kept)
