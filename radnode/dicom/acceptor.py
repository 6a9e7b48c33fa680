"""The Storage SCP's side of one association, from the first byte to the last: a straight line over one blocking socket.

One thread runs one association. Data sets go from the socket through one reused buffer to a file: nothing holds a
whole one, and nothing decodes more of it than `headers.examine` does before `0x0000`. A bad instance costs that
instance, bad protocol costs the association (A-ABORT).
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from radnode.dicom import negotiation, services
from radnode.dicom.commitment import MAX_REQUEST, Reference, Report, read_report, read_request
from radnode.dicom.headers import FileMeta, Head, examine
from radnode.dicom.negotiation import (
    EXPLICIT_LE,
    INVALID_PARAMETER,
    UNEXPECTED_PDU,
    Context,
    MalformedError,
    Policy,
    Rejection,
)
from radnode.dicom.services import Command, Outcome
from radnode.dicom.wire import AbortedError, LostError, ReleasedError, Wire, wire_of
from radnode.domain.errors import NotDicomError

_PAUSE = 1.0
"""Seconds without a word from the peer after which a report may go out on its association."""


@dataclass(slots=True)
class Association:
    """One association that was accepted."""

    calling_aet: str
    called_aet: str
    peer: str
    user_identity: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    opened_at: float = field(default_factory=time.time)
    instances: int = 0


class Incoming(Protocol):
    """A file being written: File Meta first, then the data set's fragments as they arrive."""

    fd: int
    size: int

    def write(self, piece: memoryview) -> None: ...
    def keep(self) -> str:
        """Makes the file durable under its final name; returns its path within the spool."""

    def quarantine(self, reason: str) -> None: ...
    def discard(self) -> None:
        """Removes the file, unless it was kept or quarantined."""


class Stages(NamedTuple):
    """Seconds that one instance took: from its first byte to its last, its check, and until it was durable."""

    receive: float
    check: float
    keep: float


@dataclass(frozen=True, slots=True)
class Stored:
    """A data set that is durable and about to be acknowledged; `size` is that of its file, in bytes."""

    context: Context
    sop_instance_uid: str
    head: Head
    path: str
    size: int
    stages: Stages


class Promises(Protocol):
    """Storage Commitment, behind the association."""

    def record(self, association: Association, transaction_uid: str, references: Sequence[Reference]) -> Outcome:
        """Keeps what is asked for; success once it is durable."""

    def report(self, association: Association) -> Report | None:
        """A report for this association's peer that is ready to be sent."""

    def reported(self, association: Association, report: Report) -> None:
        """The peer has taken it."""
    def take(self, report: Report) -> Outcome:
        """A peer reports on what we asked it for; success once that is kept."""


class Node(Protocol):
    """What an association needs of the receiver around it."""

    def enter(self, association: Association) -> Rejection | None:
        """Takes a slot, or says why there is none."""

    def leave(self, association: Association, how: str) -> None: ...
    def rejected(self, calling_aet: str, peer: str, rejection: Rejection, detail: str = "") -> None: ...
    def open(self, head: bytes) -> Incoming: ...
    def busy(self) -> str:
        """Why instances cannot be taken for the moment; empty where they can."""

    def stored(self, association: Association, instance: Stored) -> None:
        """Before its `0x0000` is sent."""
    def counted(self, association: Association, instance: Stored) -> None:
        """After that: while its sender takes the answer there is time to count."""
    def refused(self, association: Association, outcome: Outcome) -> None: ...
    @property
    def promises(self) -> Promises | None:
        """None: Storage Commitment is not served."""


def serve(sock: socket.socket, address: str, policy: Policy, node: Node) -> None:
    """Runs one connection to its end and closes it. Raises nothing a peer could cause."""
    with sock:
        wire = wire_of(sock, policy.max_pdu, policy.idle_timeout)
        try:
            association, contexts, reply_pdu = _negotiate(wire, address, policy, node)
        except MalformedError as fault:
            wire.end(negotiation.abort(fault.reason))
            return
        except (LostError, AbortedError):
            return  # a probe that only opens and closes, or somebody who lost interest
        except _RejectedError as refusal:
            wire.end(refusal.rejection.encode())
            return
        how = "aborted"
        farewell = negotiation.abort(0)
        try:
            _Session(wire, association, contexts, reply_pdu, node, policy.idle_timeout).run()
        except ReleasedError:
            how, farewell = "released", negotiation.RELEASE_RP
        except AbortedError:
            farewell = b""
        except LostError:
            how = "lost"
        except MalformedError as fault:
            farewell = negotiation.abort(fault.reason)
        finally:
            node.leave(association, how)
            wire.end(farewell)


class _RejectedError(Exception):
    def __init__(self, rejection: Rejection) -> None:
        self.rejection = rejection


def _negotiate(wire: Wire, address: str, policy: Policy, node: Node) -> tuple[Association, dict[int, Context], int]:
    """Accepts the association, or raises why not. Returns it, its contexts, and the longest PDU the peer takes."""
    request = negotiation.decode(wire.request(policy.request_timeout))
    association = Association(request.calling, request.called, address, request.user_identity)
    accepted, refused = negotiation.choose(request, commits=node.promises is not None)
    answer = negotiation.accept(request, accepted, refused, policy.max_pdu)
    rejection = negotiation.judge(request, policy, address) or node.enter(association)
    if rejection:
        asked_for = repr(request.called) if rejection is negotiation.CALLED_UNKNOWN else ""
        node.rejected(request.calling, address, rejection, asked_for)
        raise _RejectedError(rejection)
    try:
        wire.send(answer)
    except LostError:
        node.leave(association, "lost")
        raise
    return association, accepted, request.max_pdu


class _Session:
    """The data phase of an association: requests one after the other, each answered before the next is read."""

    def __init__(
        self,
        wire: Wire,
        association: Association,
        contexts: dict[int, Context],
        reply_pdu: int,
        node: Node,
        idle_timeout: float,
    ) -> None:
        self._wire, self._association, self._contexts, self._node = wire, association, contexts, node
        self._reply_pdu, self._idle_timeout = reply_pdu, idle_timeout
        self._metas: dict[int, FileMeta] = {}
        self._promises: list[int] = []  # the presentation context of each commitment not yet reported here
        self._report: Report | None = None  # on its way to the peer, not yet answered
        self._fresh: Stored | None = None  # not counted yet
        self._messages = 0

    def run(self) -> None:
        """Ends only by an exception: ReleasedError, AbortedError, LostError or MalformedError."""
        while True:
            if self._promises and not self._report:
                self._report_in_a_pause()
            command, context = self._command()
            if command.field == services.C_CANCEL_RQ:
                continue  # nothing here lasts long enough to be cancelled, and a cancel has no response
            if command.field == services.N_EVENT_REPORT_RSP:
                self._take_answer(command, context)
                continue
            outcome = self._answer(command, context)
            if outcome.status != services.SUCCESS:
                self._node.refused(self._association, outcome)
            try:
                self._wire.send(services.respond(command, context.id, outcome, self._reply_pdu))
            finally:
                self._count()

    def _count(self) -> None:
        if self._fresh:
            self._node.counted(self._association, self._fresh)
            self._fresh = None

    def _answer(self, command: Command, context: Context) -> Outcome:
        match command.field:
            case services.C_STORE_RQ:
                return self._store(command, context)
            case services.C_ECHO_RQ:
                outcome = Outcome(services.SUCCESS)
            case services.N_ACTION_RQ:
                return self._commit(command, context)
            case services.N_EVENT_REPORT_RQ:
                return self._take_report(command, context)
            case _:
                outcome = Outcome(services.UNRECOGNIZED_OPERATION)
        if command.has_data_set:
            self._skip(self._data_set(context))
        return outcome

    def _command(self) -> tuple[Command, Context]:
        number, flags, length = self._wire.fragment()
        context = self._contexts.get(number)
        if context is None:
            raise MalformedError(INVALID_PARAMETER, f"presentation context {number} was not accepted")
        command = bytearray()
        while True:
            if not flags & 1 or number != context.id:
                raise MalformedError(UNEXPECTED_PDU, "a command was expected")
            if len(command) + length > services.MAX_COMMAND:
                raise MalformedError(INVALID_PARAMETER, "command set too long")
            for piece in self._wire.pieces(length):
                command += piece
            if flags & 2:
                return services.decode_command(bytes(command)), context
            number, flags, length = self._continued()

    def _data_set(self, context: Context) -> Iterator[memoryview]:
        """The data set's bytes, in pieces that are valid until the next one is asked for."""
        flags = 0
        while not flags & 2:
            number, flags, length = self._continued()
            if flags & 1 or number != context.id:
                raise MalformedError(UNEXPECTED_PDU, "the rest of a data set was expected")
            yield from self._wire.pieces(length)

    def _continued(self) -> tuple[int, int, int]:
        try:
            return self._wire.fragment()
        except ReleasedError:
            raise MalformedError(UNEXPECTED_PDU, "release in the middle of a message") from None

    @staticmethod
    def _skip(data: Iterator[memoryview]) -> None:
        for _ in data:
            pass

    def _commit(self, command: Command, context: Context) -> Outcome:
        """Storage Commitment is asked for (PS3.4 J.3.2)."""
        outcome, body = self._about_commitment(services.check_action(command, context), command, context)
        if outcome:
            return outcome
        try:
            request = read_request(body, explicit=context.transfer_syntax == EXPLICIT_LE)
        except NotDicomError as fault:
            return Outcome(services.INVALID_ARGUMENT, fault.message)
        assert self._node.promises is not None  # or the presentation context would not have been accepted
        outcome = self._node.promises.record(self._association, *request)
        if outcome.status == services.SUCCESS:
            self._promises.append(context.id)
        return outcome

    def _take_report(self, command: Command, context: Context) -> Outcome:
        """What we asked a peer for, it answers on an association of its own (PS3.4 J.3.3)."""
        outcome, body = self._about_commitment(services.check_report(command, context), command, context)
        if outcome:
            return outcome
        try:
            report = read_report(body, explicit=context.transfer_syntax == EXPLICIT_LE)
        except NotDicomError as fault:
            return Outcome(services.INVALID_ARGUMENT, fault.message)
        assert self._node.promises is not None  # or the presentation context would not have been accepted
        return self._node.promises.take(report)

    def _about_commitment(
        self, refusal: Outcome | None, command: Command, context: Context
    ) -> tuple[Outcome | None, bytes]:
        """The data set of a request, or why it is refused."""
        body = bytearray()
        for piece in self._data_set(context) if command.has_data_set else ():
            if len(body) + len(piece) > MAX_REQUEST:
                refusal = refusal or Outcome(services.RESOURCE_LIMITATION, "too many instances in one transaction")
            if not refusal:
                body += piece
        return refusal, bytes(body)

    def _report_in_a_pause(self) -> None:
        """Sends a report that is ready, but only to a peer that waits: others hear of it when they have gone."""
        assert self._node.promises is not None
        patience = time.monotonic() + self._idle_timeout
        while not self._wire.readable(_PAUSE) and time.monotonic() < patience:
            self._report = self._node.promises.report(self._association)
            if self._report:
                context = self._contexts[self._promises.pop()]
                data = self._report.encode(explicit=context.transfer_syntax == EXPLICIT_LE)
                self._messages = self._messages % 0xFFFF + 1
                kind = self._report.event_type
                self._wire.send(services.event_report(self._messages, kind, data, context.id, self._reply_pdu))
                return

    def _take_answer(self, command: Command, context: Context) -> None:
        if command.has_data_set:
            self._skip(self._data_set(context))
        if not self._report or command.message_id != self._messages:
            raise MalformedError(UNEXPECTED_PDU, "a response nobody waits for")
        if command.status == services.SUCCESS and self._node.promises:
            self._node.promises.reported(self._association, self._report)
        self._report = None

    def _store(self, command: Command, context: Context) -> Outcome:
        started = time.perf_counter()
        refusal = services.check_store(command, context) or self._busy()
        data = self._data_set(context)
        if refusal:
            if command.has_data_set:
                self._skip(data)
            return refusal
        uid = (command.sop_instance or b"").decode()
        incoming: Incoming | None = None
        try:
            head = self._meta(context).encode(uid)
            incoming = self._node.open(head)
            for piece in data:
                incoming.write(piece)
            return self._judge(incoming, len(head), context, uid, time.perf_counter() - started)
        except OSError as fault:  # of the disk: the wire's own are LostErrors
            self._skip(data)
            return Outcome(services.OUT_OF_RESOURCES, f"cannot be written: {fault.strerror}")
        finally:
            if incoming is not None:
                incoming.discard()

    def _judge(self, incoming: Incoming, start: int, context: Context, uid: str, receive: float) -> Outcome:
        """Keeps a whole data set, quarantines another."""
        began = time.perf_counter()
        try:
            head = examine(incoming.fd, start, incoming.size - start, context.transfer_syntax)
        except NotDicomError as fault:
            return self._refuse(incoming, Outcome(services.CANNOT_UNDERSTAND, fault.message))
        if head.sop_instance_uid not in ("", uid):
            return self._refuse(incoming, Outcome(services.DOES_NOT_MATCH, "SOP Instance UID differs", 0x00080018))
        if head.sop_class_uid not in ("", context.abstract_syntax):
            return self._refuse(incoming, Outcome(services.DOES_NOT_MATCH, "SOP Class UID differs", 0x00080016))
        checked = time.perf_counter()
        path = incoming.keep()
        self._association.instances += 1
        stages = Stages(receive, checked - began, time.perf_counter() - checked)
        self._fresh = Stored(context, uid, head, path, incoming.size, stages)
        self._node.stored(self._association, self._fresh)
        return services.STORED

    def _refuse(self, incoming: Incoming, outcome: Outcome) -> Outcome:
        sender = f"{self._association.calling_aet} at {self._association.peer}"
        incoming.quarantine(f"status {outcome.status:04X}H to {sender}: {outcome.comment}")
        return outcome

    def _busy(self) -> Outcome | None:
        reason = self._node.busy()
        return Outcome(services.OUT_OF_RESOURCES, reason) if reason else None

    def _meta(self, context: Context) -> FileMeta:
        meta = self._metas.get(context.id)
        if meta is None:
            calling, called = self._association.calling_aet, self._association.called_aet
            meta = FileMeta(context.abstract_syntax, context.transfer_syntax, calling, called)
            self._metas[context.id] = meta
        return meta
