"""Sending: C-STORE and C-ECHO as SCU (PS3.4 B.2.1, PS3.7 9.1.1 and 9.1.5), bit exact, over pynetdicom's AE.

One presentation context is proposed for each pair of SOP class and transfer syntax that is sent, and nothing is ever
converted: a file goes out as it lies there or not at all.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydicom.errors import InvalidDicomError
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.pdu_primitives import MaximumLengthNotification
from pynetdicom.sop_class import Verification

from radnode.domain.errors import NotDicomError, PeerError, SpoolError

_config.LOG_HANDLER_LEVEL = "none"  # its handlers take a lock of the whole AE for each PDU
_config.STORE_SEND_CHUNKED_DATASET = True  # paths are read in pieces and never decoded

MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: context ids are the odd numbers up to 255
CONTEXT_NOT_ACCEPTED = 0x0122  # PS3.7 annex C: SOP class not supported
_MEDIUM = 0  # PS3.7 9.3.1.1, Priority
_MAX_PDU = 128 * 1024
_MIN_PDU = 64  # less leaves no room for a fragment
_SLOWEST = 100_000  # bytes per second of a line that is slow but not dead


@dataclass(frozen=True)
class Peer:
    """A DICOM peer as it is called: its AE title, and where it listens."""

    aet: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.aet} at {self.host}:{self.port}"


@dataclass(frozen=True)
class Timeouts:
    """Seconds: for the TCP connection, the answer to the association request, and the answer to a C-STORE."""

    connect: float = 10.0
    association: float = 30.0
    response: float = 300.0


@dataclass(frozen=True)
class OutgoingFile:
    """A Part 10 file to send, and what its File Meta says."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def context(self) -> tuple[str, str]:
        return (self.sop_class_uid, self.transfer_syntax_uid)


class Answer(NamedTuple):
    """What became of one instance: the C-STORE status (None: the association ended without one) and its comment."""

    sop_instance_uid: str
    status: int | None
    comment: str


def read_outgoing(path: Path) -> OutgoingFile:
    """What is needed to send the file. Raises NotDicomError if it is no Part 10 file with a data set (PS3.10 7.1)."""
    remedy = "only DICOM Part 10 files can be sent"
    try:
        meta, offset = split_dataset(path)
        found = [
            str(meta[each].value)
            for each in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
        ]
        size = path.stat().st_size
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises anything on broken bytes
        raise NotDicomError(f"{path}: not a DICOM Part 10 file: {error}", remedy=remedy) from None
    if offset >= size or not all(1 <= len(uid) <= 64 for uid in found):
        raise NotDicomError(f"{path}: no data set, or a File Meta UID of impossible length", remedy=remedy)
    return OutgoingFile(path, *found)


def send(
    files: Sequence[OutgoingFile], peer: Peer, *, calling_aet: str = "RADNODE", timeouts: Timeouts = Timeouts()
) -> Iterator[Answer]:
    """Sends the files and yields an Answer for each as it comes. Raises as `Sender.store_all` does."""
    with Sender(peer, calling_aet=calling_aet, timeouts=timeouts) as sender:
        yield from sender.store_all(files)


def echo(peer: Peer, *, calling_aet: str = "RADNODE", timeouts: Timeouts = Timeouts()) -> float:
    """Seconds from connecting to the answer of a C-ECHO. Raises PeerError."""
    begun = time.perf_counter()
    assoc = _associate(peer, calling_aet, timeouts, [(Verification, "1.2.840.10008.1.2")])
    try:
        status = assoc.send_c_echo() if assoc.accepted_contexts else None
        taken = time.perf_counter() - begun
    except RuntimeError:
        status = None
    finally:
        _release(assoc)
    if status is None or status.get("Status") != 0x0000:
        raise PeerError(f"{peer} took the association but not the C-ECHO", remedy="is this port its storage SCP?")
    return taken


class Sender:
    """An association with one peer, opened when needed, kept for the next file, released after `idle` seconds.

    For one thread at a time.
    """

    def __init__(
        self, peer: Peer, *, calling_aet: str = "RADNODE", timeouts: Timeouts = Timeouts(), idle: float = 10.0
    ) -> None:
        self.peer = peer
        self._calling_aet = calling_aet
        self._timeouts = timeouts
        self._idle = idle
        self._lock = threading.RLock()
        self._assoc: Association | None = None
        self._proposed: list[tuple[str, str]] = []
        self._accepted: set[tuple[str, str]] = set()
        self._messages = 0
        self._used = 0.0
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def store(self, file: OutgoingFile) -> Answer:
        """Sends one file. Status None: the association ended before an answer; the next call opens a new one.

        Raises PeerError where no association comes about, SpoolError or NotDicomError where the file cannot be read.
        """
        with self._lock:
            self._open([file.context])
            return self._store(file)

    def store_all(self, files: Sequence[OutgoingFile]) -> Iterator[Answer]:
        """Sends the files over as few associations as their contexts allow, an Answer for each.

        Raises PeerError after an Answer without status, and as `store` does: what was not yielded was not sent.
        """
        for batch, contexts in _batches(files):
            for file in batch:
                with self._lock:
                    self._open(contexts)
                    answer = self._store(file)
                yield answer
                if answer.status is None:
                    raise PeerError(f"{self.peer} broke off: {answer.comment}", remedy="send the rest again")

    def release(self) -> None:
        """Ends the association, if one is open."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            assoc, self._assoc, self._timer = self._assoc, None, None
            if assoc:
                _release(assoc)

    def _open(self, contexts: Sequence[tuple[str, str]]) -> None:
        usable = self._assoc and (self._assoc.is_established or not self._accepted)
        if usable and set(contexts) <= set(self._proposed):
            return
        self.release()
        earlier = [each for each in self._proposed if each not in contexts]
        self._proposed = [*contexts, *earlier][:MAX_CONTEXTS]
        assoc = _associate(self.peer, self._calling_aet, self._timeouts, self._proposed)
        self._assoc, self._messages = assoc, 0
        self._accepted = {(str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in assoc.accepted_contexts}
        self._used = time.monotonic()
        self._release_later(self._idle)

    def _store(self, file: OutgoingFile) -> Answer:
        assert self._assoc is not None
        if file.context not in self._accepted:
            return Answer(file.sop_instance_uid, CONTEXT_NOT_ACCEPTED, "presentation context not accepted")
        self._messages = self._messages % 0xFFFF + 1
        try:
            size = file.path.stat().st_size
            self._assoc.dimse_timeout = self._timeouts.response + size / _SLOWEST  # it runs from the first byte sent
            answer = self._assoc.send_c_store(file.path, msg_id=self._messages, priority=_MEDIUM)
        except OSError as error:
            self._abort()
            raise SpoolError(f"{file.path} cannot be read: {error}") from None
        except (InvalidDicomError, AttributeError, ValueError) as error:
            self._abort()
            raise NotDicomError(f"{file.path} cannot be sent: {error}") from None
        except RuntimeError:  # the association ended since `_open` looked
            answer = {}
        self._used = time.monotonic()
        if "Status" not in answer:
            self._abort()
            return Answer(file.sop_instance_uid, None, "no answer before the association or its time ended")
        return Answer(file.sop_instance_uid, int(answer.Status), _comment(answer))

    def _abort(self) -> None:
        if self._assoc:
            self._assoc.abort()

    def _release_later(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._release_if_idle)
        self._timer.daemon = True
        self._timer.start()

    def _release_if_idle(self) -> None:
        with self._lock:
            if self._timer is not threading.current_thread():
                return
            left = self._used + self._idle - time.monotonic()
            if left > 0:
                self._release_later(left)
            else:
                self.release()


def _batches(files: Sequence[OutgoingFile]) -> Iterator[tuple[list[OutgoingFile], list[tuple[str, str]]]]:
    contexts = list(dict.fromkeys(each.context for each in files))
    for start in range(0, len(contexts), MAX_CONTEXTS):
        some = contexts[start : start + MAX_CONTEXTS]
        yield [each for each in files if each.context in some], some


def _associate(
    peer: Peer, calling_aet: str, timeouts: Timeouts, contexts: Sequence[tuple[str, str]]
) -> Association:
    """An association that was accepted, if with none of its contexts. Raises PeerError."""
    opened = threading.Event()
    try:
        ae = AE(ae_title=calling_aet)
        ae.connection_timeout = timeouts.connect
        ae.acse_timeout = timeouts.association
        ae.dimse_timeout = timeouts.response
        ae.network_timeout = None  # we release idle associations ourselves
        handlers = [(evt.EVT_CONN_OPEN, _tune, [timeouts.response, opened]), (evt.EVT_DATA_SENT, _acknowledge_soon)]
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts=[build_context(*each) for each in contexts],
            ae_title=peer.aet,
            max_pdu=_MAX_PDU,
            evt_handlers=handlers,
        )
    except OSError as error:
        raise PeerError(f"{peer}: {error}", remedy="does the host name exist?") from None
    except ValueError as error:
        raise PeerError(f"{peer}: {error}", remedy="correct its AE title, host or port", permanent=True) from None
    if not assoc.is_established and not _accepted_nothing(assoc):
        raise _failure(peer, assoc, opened.is_set())
    _bound_pdu(peer, assoc)
    return assoc


def _accepted_nothing(assoc: Association) -> bool:
    """Accepted, but without a context: pynetdicom aborts such an association by itself."""
    answer = assoc.acceptor.primitive
    return answer is not None and answer.result == 0x00 and not assoc.accepted_contexts


def _failure(peer: Peer, assoc: Association, connected: bool) -> PeerError:
    """Why there is no association (PS3.8 9.3.4 for what a rejection says)."""
    if not connected:
        return PeerError(f"{peer} cannot be reached", remedy="is it running, and does a firewall let us through?")
    answer = assoc.acceptor.primitive
    if assoc.is_rejected and answer is not None:
        return PeerError(
            f"{peer} rejected the association: {answer.result_str}, {answer.source_str}: {answer.reason_str}",
            remedy="does it know our AE title and address, and is this its own AE title?",
            permanent=answer.result == 0x01,
        )
    return PeerError(f"{peer} connected but did not answer the association request", remedy="is this a DICOM port?")


def _bound_pdu(peer: Peer, assoc: Association) -> None:
    """Caps the length a peer allows: 0 means no limit, and a file of any size would become one PDU in memory."""
    for item in assoc.acceptor.user_information:
        if isinstance(item, MaximumLengthNotification):
            allowed = item.maximum_length_received or _MAX_PDU
            if allowed < _MIN_PDU:
                assoc.abort()
                raise PeerError(f"{peer} takes PDUs of {allowed} bytes only", permanent=True)
            item.maximum_length_received = min(allowed, _MAX_PDU)


def _tune(event: Any, seconds: float, opened: threading.Event) -> None:
    """Sets up the socket: without a time limit on sending, a peer that stops reading would hold us for ever."""
    opened.set()
    sock = event.assoc.dul.socket.socket
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _acknowledge_soon(event)


def _acknowledge_soon(event: Any) -> None:
    """A peer with Nagle's algorithm holds half of its answer back until we acknowledge the other half: 40 ms each."""
    if hasattr(socket, "TCP_QUICKACK"):  # Linux; the kernel forgets it, hence after every PDU
        with contextlib.suppress(OSError, AttributeError):
            event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _release(assoc: Association) -> None:
    if assoc.is_established:
        assoc.release()


def _comment(answer: Any) -> str:
    """ErrorComment (0000,0902), LO: at most 64 characters, of which only the printable are kept."""
    text = str(answer.get("ErrorComment", "") or "")[:64]
    return "".join(each for each in text if each.isprintable())
