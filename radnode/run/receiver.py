"""A receiver process: takes associations from a listener it shares with others, one thread each, and tells the ledger.

The flusher hands what arrived to the ledger in batches and then marks the barrier. Two orders hold the promise that a
passed barrier means something: an instance is pending before its `0x0000` is sent, and the barrier's number is read
before what is pending is taken.
"""

from __future__ import annotations

import contextlib
import gc
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from radnode.dicom import acceptor, negotiation, services, tls
from radnode.dicom.acceptor import Association, Promises, Stored
from radnode.dicom.negotiation import Policy, Rejection
from radnode.dicom.services import Outcome
from radnode.domain.jobs import backoff
from radnode.run.counting import Metrics, NoMetrics
from radnode.run.lifeline import SignalEvent
from radnode.run.live import LivePolicy
from radnode.settings import Settings
from radnode.state.arrivals import Arrival, AssociationEnd
from radnode.state.crash import point
from radnode.state.presence import Barrier, Presence, present
from radnode.state.slots import Slots
from radnode.state.spool import Incoming, Spool, Watermark

__all__ = ["Flusher", "NoMetrics", "Receiver", "accept", "drain", "receiver_alive", "serve"]

_log = structlog.get_logger("radnode.receiver")

FLUSH_EVERY = 0.25
"""Seconds between batches while no barrier is raised: recorded a few at a time, instances cost more than to receive."""
_BARRIER_EVERY = 0.02
PENDING_MOST = 100_000
DRAIN = 30.0
_LOOK_EVERY = 0.25
_COURTESY = 0.001
"""Seconds per open connection that a receiver lets others be faster: associations spread evenly, each on its core."""
_STRANGERS = 64

Record = Callable[[list[Arrival], list[AssociationEnd]], None]
"""The ledger's part: files a batch, or raises; the same batch may come again."""


def boot_clock() -> float:
    """Seconds on the host's boot-time clock, the same in all its processes; it goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Pending:
    """What the ledger has not been told yet, bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrivals: list[Arrival] = []
        self._ends: list[AssociationEnd] = []

    def add(self, arrival: Arrival) -> None:
        with self._lock:
            self._arrivals.append(arrival)

    def end(self, end: AssociationEnd) -> None:
        with self._lock:
            self._ends.append(end)

    @property
    def full(self) -> bool:
        return len(self._arrivals) >= PENDING_MOST

    def flush(self, record: Record) -> None:
        """Records all there is; what `record` refuses stays, in its order. Raises what `record` raises."""
        with self._lock:
            arrivals, ends = self._arrivals, self._ends
            self._arrivals, self._ends = [], []
        if not arrivals and not ends:
            return
        try:
            record(arrivals, ends)
        except BaseException:
            with self._lock:
                self._arrivals, self._ends = arrivals + self._arrivals, ends + self._ends
            raise


class Receiver:
    """The state the associations of one process share; `acceptor.Node` to them."""

    def __init__(
        self,
        spool: Spool,
        policy_of: Callable[[Watermark], Policy],
        metrics: Metrics,
        slots: Slots | None = None,
        promises: Promises | None = None,
    ) -> None:
        self.spool, self.metrics, self.promises = spool, metrics, promises
        self.watermark = Watermark(spool)
        self._policy_of = policy_of
        self.policy = policy_of(self.watermark)
        self.pending = Pending()
        self.sockets: set[socket.socket] = set()
        self.draining = False
        self._slots = slots or Slots()
        self._lock = threading.Lock()

    def look(self) -> None:
        """At the disk and at the settings, now and then."""
        self.watermark.look()
        self.policy = self._policy_of(self.watermark)

    def enter(self, association: Association) -> Rejection | None:
        if self.draining:
            return negotiation.SHUTTING_DOWN
        if self.pending.full:
            return negotiation.CONGESTION
        limits = self.policy.max_associations, self.policy.max_associations_per_peer
        try:
            taken = self._slots.take(association.peer, *limits)
        except OSError:  # a full disk, most likely
            return negotiation.CONGESTION
        if taken:
            return negotiation.TOO_MANY if taken == "all" else negotiation.TOO_MANY_OF_PEER
        self.metrics.open(1)
        self.metrics.association("accepted", "")
        return None

    def leave(self, association: Association, how: str) -> None:
        self._slots.free(association.peer)
        self.pending.end(AssociationEnd(
            association.id, how, association.calling_aet, association.called_aet, association.peer,
            association.instances, association.opened_at, time.time(), boot_clock(),
        ))  # fmt: skip
        self.metrics.open(-1)
        self.metrics.association(how, "")
        _log.info("association ended", how=how, calling_aet=association.calling_aet, peer=association.peer,
                  instances=association.instances, association=association.id)  # fmt: skip

    def rejected(self, calling_aet: str, peer: str, rejection: Rejection, detail: str = "") -> None:
        self.metrics.association("rejected", rejection.words)
        reason = f"{rejection.words}: {detail}" if detail else rejection.words
        _log.warning("association rejected", reason=reason, calling_aet=calling_aet, peer=peer)

    def busy(self) -> str:
        if not self.watermark.ok:
            return "disk nearly full"
        return "arrivals cannot be recorded for the moment" if self.pending.full else ""

    def open(self, head: bytes) -> Incoming:
        return self.spool.open(head)

    def stored(self, association: Association, instance: Stored) -> None:
        head, context = instance.head, instance.context
        self.pending.add(Arrival(
            path=instance.path,
            sop_instance_uid=instance.sop_instance_uid,
            sop_class_uid=context.abstract_syntax,
            series_uid=head.series_uid,
            study_uid=head.study_uid,
            transfer_syntax_uid=context.transfer_syntax,
            size=instance.size,
            received_at=time.time(),
            seen=boot_clock(),
            calling_aet=association.calling_aet,
            called_aet=association.called_aet,
            peer=association.peer,
            association=association.id,
            flaw=head.flaw,
            user_identity=association.user_identity,
        ))  # fmt: skip
        point("arrival")

    def counted(self, association: Association, instance: Stored) -> None:
        syntax = instance.context.abstract_syntax
        self.metrics.received(instance.size, instance.stages, syntax, association.calling_aet)
        if instance.head.flaw:
            self.metrics.flawed()

    def refused(self, association: Association, outcome: Outcome) -> None:
        if outcome.status in (services.CANNOT_UNDERSTAND, services.DOES_NOT_MATCH):
            self.metrics.flawed()
        if outcome.status == services.OUT_OF_RESOURCES:
            self.watermark.look()
        _log.warning("request refused", status=f"{outcome.status:04X}", reason=outcome.comment,
                     calling_aet=association.calling_aet, association=association.id)  # fmt: skip

    def connected(self, sock: socket.socket, address: str, *, secure: bool = False) -> None:
        """Starts the thread of a new connection; one too many is closed unheard."""
        with self._lock:
            if len(self.sockets) >= self.policy.max_associations + _STRANGERS:
                sock.close()
                return
            self.sockets.add(sock)
        how = tls.serve if secure else acceptor.serve
        threading.Thread(target=self._serve, args=(sock, address, how), name=f"from {address}", daemon=True).start()

    def _serve(self, sock: socket.socket, address: str, serve: Callable[..., None]) -> None:
        try:
            serve(sock, address, self.policy, self)
        except Exception:  # noqa: BLE001 - a fault of ours: it ends this association and no other
            _log.exception("association failed", peer=address)
        finally:
            with self._lock:
                self.sockets.discard(sock)

    def idle(self) -> bool:
        with self._lock:
            return not self.sockets

    def abort_all(self) -> None:
        """Ends every association: its thread reads the end of the stream, and sends A-ABORT."""
        with self._lock:
            for sock in self.sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RD)


class Flusher(threading.Thread):
    """Tells the ledger what arrived, and marks the barriers it has flushed past."""

    def __init__(self, receiver: Receiver, record: Record, presence: Presence, barrier: Barrier) -> None:
        super().__init__(name="flusher", daemon=True)
        self._receiver, self._record, self._presence, self._barrier = receiver, record, presence, barrier
        self._ended = threading.Event()
        self._marked = -1
        self._failures = 0
        self._looked = 0.0

    def run(self) -> None:
        due = 0.0
        while not self._ended.wait(_BARRIER_EVERY):
            now = time.monotonic()
            if now < due and (self._failures or self._barrier.read() == self._marked):
                continue
            due = now + (FLUSH_EVERY if self.flush() else backoff(self._failures, first=0.1, cap=5.0))
            if now - self._looked > _LOOK_EVERY:
                self._looked = now
                self._receiver.look()

    def flush(self) -> bool:
        """One round; False where the ledger did not take it."""
        number = self._barrier.read()
        try:
            self._receiver.pending.flush(self._record)
            self._presence.mark(number)  # its first one needs a block of the disk
            self._marked = number
        except Exception as fault:  # noqa: BLE001 - whatever it is: nothing is lost by trying again
            self._failures += 1
            if self._failures in (1, 10) or self._failures % 100 == 0:
                _log.error("arrivals cannot be recorded", fault=str(fault), failures=self._failures)
            return False
        self._failures = 0
        return True

    def finish(self) -> bool:
        """Stops, after a last round."""
        self._ended.set()
        self.join()
        return self.flush()


def serve(
    settings: Settings,
    listener: socket.socket | None,
    number: int,
    record: Record,
    *,
    allowed: Callable[[str, str], bool],
    metrics: Metrics | None = None,
    tls_listener: socket.socket | None = None,
    promises: Callable[[str], Promises] | None = None,
) -> None:
    """Runs receiver `number` of `settings.receivers` until SIGTERM or SIGINT, then drains it.

    Args:
        listener: bound and listening, shared with the other receivers; it is made non-blocking, and closed before the
            drain, so that the next receivers can have the port while associations of these end.
        record: hands a batch to the ledger; called by one thread.
        allowed: `(calling AE title, peer's address)` -> may it push.
        tls_listener: as `listener`, for TLS.
        promises: makes this receiver's part of Storage Commitment, by its name; None: it is not served.

    Raises SettingsError where the certificate cannot be used.
    """
    stop = _told_to_stop()
    spool = Spool(settings.spool, settings.durability)
    policy_of = LivePolicy(settings, allowed)
    presence = Presence(settings.run, f"receiver-{number}-{spool.incarnation}")
    slots = Slots(settings.run / "associations", presence.name)
    promised = promises and promises(presence.name)
    receiver = Receiver(spool, policy_of, metrics or NoMetrics(), slots, promised)
    flusher = Flusher(receiver, record, presence, Barrier(settings.run))
    flusher.start()
    gc.freeze()
    _log.info("receiver ready", number=number, incarnation=spool.incarnation)
    accept(listener, receiver, stop, tls_listener)
    for door in filter(None, (listener, tls_listener)):
        door.close()
    drain(receiver)
    slots.leave()
    if flusher.finish():
        presence.leave()
    else:  # the lock file stays: core takes this receiver for dead, and adopts what was not recorded from the spool
        _log.error("stopped with arrivals that could not be recorded", number=number)


def _told_to_stop() -> SignalEvent:
    """Set by SIGTERM or SIGINT; another one hurries nothing, so that every association has its time to end."""
    stop = SignalEvent()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    return stop


def accept(
    listener: socket.socket | None,
    receiver: Receiver,
    stop: threading.Event | SignalEvent,
    tls_listener: socket.socket | None = None,
) -> None:
    """Takes connections until `stop` is set."""
    doors = {each.fileno(): each for each in (listener, tls_listener) if each is not None}
    poll = select.poll()
    for each in doors.values():
        each.setblocking(False)
        poll.register(each, select.POLLIN)
    while not stop.is_set():
        for fd, _ in poll.poll(200):
            time.sleep(_COURTESY * min(len(receiver.sockets), 10))
            try:
                sock, address = doors[fd].accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue  # another receiver was faster, or the peer has gone
            except OSError as fault:  # no descriptor left, most likely: those in use come back
                _log.error("cannot accept", fault=fault.strerror)
                stop.wait(0.1)
                continue
            receiver.connected(sock, address[0].removeprefix("::ffff:"), secure=doors[fd] is tls_listener)


def drain(receiver: Receiver, patience: float = DRAIN) -> None:
    """Lets associations end by themselves for a while, then aborts them; new ones are rejected."""
    receiver.draining = True
    deadline = time.monotonic() + patience
    while not receiver.idle() and time.monotonic() < deadline:
        time.sleep(0.02)
    receiver.abort_all()
    while not receiver.idle() and time.monotonic() < deadline + 5:
        time.sleep(0.02)


def receiver_alive(folder: Path, incarnation: str) -> bool:
    """Whether the receiver that names its files so lives; for the spool's scan."""
    return any(each.alive and each.name.endswith(f"-{incarnation}") for each in present(folder, "receiver-"))
