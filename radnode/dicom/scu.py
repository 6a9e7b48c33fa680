"""Sending: C-STORE as SCU (PS3.4 B.2.1, PS3.7 9.1.1), bit exact.

One presentation context is proposed for each pair of SOP class and transfer syntax that is sent, and nothing is ever
converted: a file goes out as it lies there or not at all. Requests are written straight to the socket, and answers are
read from it by the same thread, which takes a fraction of the time that pynetdicom's queues and copies would.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

from radnode.dicom.headers import read_file_meta
from radnode.dicom.peer import MAX_CONTEXTS, PATIENT, Peer, Timeouts, echo
from radnode.dicom.requestor import Requestor, Syntaxes
from radnode.domain.errors import NotDicomError, PeerError, SpoolError

__all__ = ["Answer", "OutgoingFile", "Peer", "Sender", "Timeouts", "echo", "read_outgoing", "send"]

CONTEXT_NOT_ACCEPTED: Final = 0x0122  # PS3.7 annex C: SOP class not supported
MEDIUM: Final = 0x0000  # PS3.7 9.3.1.1: high is 1, low is 2
_PIECE = 256 * 1024  # bytes written at once
_MIN_PDU = 64  # less leaves no room for a fragment
_COMMAND, _DATA, _LAST = 1, 0, 2  # PS3.8 E.2, message control header


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
    """What is needed to send the file. Raises NotDicomError if it is no Part 10 file with a data set (PS3.10 7.1).

    Raises SpoolError if it cannot be read at all.
    """
    return _read_meta(path)[0]


def send(
    files: Sequence[OutgoingFile], peer: Peer, *, calling_aet: str = "RADNODE", timeouts: Timeouts = PATIENT
) -> Iterator[Answer]:
    """Sends the files and yields an Answer for each as it comes. Raises as `Sender.send` does."""
    with Sender(peer, calling_aet=calling_aet, timeouts=timeouts) as sender:
        yield from sender.send(files)


class Sender:
    """An association with one peer, opened when needed, kept for the next file, released after `idle` seconds.

    For one thread at a time.
    """

    def __init__(
        self, peer: Peer, *, calling_aet: str = "RADNODE", timeouts: Timeouts = PATIENT, idle: float = 10.0
    ) -> None:
        self.peer = peer
        self._calling_aet = calling_aet
        self._timeouts = timeouts
        self._idle = idle
        self._lock = threading.RLock()
        self._assoc: Requestor | None = None
        self._proposed: list[Syntaxes] = []
        self._fragment = 0
        self._messages = 0
        self._used = 0.0
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def store(self, file: OutgoingFile, *, priority: int = MEDIUM) -> Answer:
        """Sends one file. Status None: the association ended before an answer; the next call opens a new one.

        Raises PeerError where no association comes about, SpoolError or NotDicomError where the file cannot be read.
        """
        with self._lock:
            return self._store(self._open([file.context]), file, priority)

    def send(self, files: Sequence[OutgoingFile], *, priority: int = MEDIUM) -> Iterator[Answer]:
        """Sends the files over as few associations as their contexts allow, an Answer for each.

        Raises PeerError after an Answer without status, and as `store` does: what was not yielded was not stored.
        """
        for batch, contexts in _batches(files):
            for file in batch:
                with self._lock:
                    answer = self._store(self._open(contexts), file, priority)
                yield answer
                if answer.status is None:
                    raise PeerError(f"{self.peer} broke off: {answer.comment}", remedy="send the rest again")

    def accepted(self, contexts: Sequence[Syntaxes]) -> set[Syntaxes]:
        """Which of these presentation contexts the peer takes. Raises PeerError."""
        taken: set[Syntaxes] = set()
        for start in range(0, len(contexts), MAX_CONTEXTS):
            some = contexts[start : start + MAX_CONTEXTS]
            with self._lock:
                taken |= set(some) & self._open(some).accepted.keys()
        return taken

    def release(self) -> None:
        """Ends the association, if one is open."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            assoc, self._assoc, self._timer = self._assoc, None, None
            if assoc:
                assoc.release()

    def _open(self, contexts: Sequence[Syntaxes]) -> Requestor:
        """An association on which these contexts were proposed. One with none accepted is ended by its peer: it tells
        as much as it ever will."""
        usable = self._assoc and (self._assoc.alive or not self._assoc.accepted)
        if self._assoc and usable and set(contexts) <= set(self._proposed):
            return self._assoc
        self.release()
        earlier = [each for each in self._proposed if each not in contexts]
        self._proposed = [*contexts, *earlier][:MAX_CONTEXTS]
        assoc = Requestor(self.peer, self._proposed, calling_aet=self._calling_aet, timeouts=self._timeouts)
        self._assoc, self._messages, self._used = assoc, 0, time.monotonic()
        self._fragment = self._fragment_length(assoc)
        self._release_later(self._idle)
        return assoc

    def _fragment_length(self, assoc: Requestor) -> int:
        """Bytes in one PDV: what the peer takes (0: no limit), bounded, even (PS3.8 D.1, E.1)."""
        allowed = assoc.max_pdu or _PIECE
        if allowed < _MIN_PDU:
            assoc.abort()
            raise PeerError(f"{self.peer} takes PDUs of {allowed} bytes only", permanent=True)
        return (min(allowed, _PIECE) - 6) & ~1

    def _store(self, assoc: Requestor, file: OutgoingFile, priority: int) -> Answer:
        if file.context not in assoc.accepted:
            return Answer(file.sop_instance_uid, CONTEXT_NOT_ACCEPTED, "presentation context not accepted")
        found, offset = _read_meta(file.path)
        if found.transfer_syntax_uid != file.transfer_syntax_uid:
            raise NotDicomError(f"{file.path} is in another transfer syntax than was said")
        self._messages = self._messages % 0xFFFF + 1
        command = _store_request(file, self._messages, priority)
        answer = assoc.exchange(_pdus(assoc.accepted[file.context], command, file.path, offset, self._fragment))
        self._used = time.monotonic()
        if answer is not None and answer.message_id == self._messages:
            return Answer(file.sop_instance_uid, answer.status, answer.comment)
        assoc.abort()
        return Answer(file.sop_instance_uid, None, "the association or the time ended without a valid answer")

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


def _read_meta(path: Path) -> tuple[OutgoingFile, int]:
    """What the File Meta says, and where the data set begins."""
    remedy = "only DICOM Part 10 files can be sent"
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
    except OSError as error:
        raise SpoolError(f"{path} cannot be read: {error.strerror}") from None
    try:
        *found, offset = read_file_meta(path)
    except NotDicomError as error:
        raise NotDicomError(f"{path}: not a DICOM Part 10 file: {error.message}", remedy=remedy) from None
    if offset >= size or not all(1 <= len(uid) <= 64 for uid in found):
        raise NotDicomError(f"{path}: no data set, or a File Meta UID of impossible length", remedy=remedy)
    return OutgoingFile(path, *found), offset


def _store_request(file: OutgoingFile, message_id: int, priority: int) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1), Implicit VR Little Endian as all of them."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHI", 0x0000, number, len(value)) + value

    def us(number: int, value: int) -> bytes:
        return element(number, struct.pack("<H", value))

    def ui(number: int, uid: str) -> bytes:
        return element(number, uid.encode("ascii", "replace") + b"\0" * (len(uid) % 2))

    command = (
        ui(0x0002, file.sop_class_uid)
        + us(0x0100, 0x0001)  # Command Field: C-STORE-RQ
        + us(0x0110, message_id)
        + us(0x0700, priority)
        + us(0x0800, 0x0001)  # Command Data Set Type: there is one
        + ui(0x1000, file.sop_instance_uid)
    )
    return element(0x0000, struct.pack("<I", len(command))) + command


def _pdus(context_id: int, command: bytes, path: Path, offset: int, fragment: int) -> Iterator[bytearray]:
    """P-DATA-TF PDUs of one PDV each (PS3.8 9.3.5), several in a piece. Raises SpoolError."""
    piece = _pack(context_id, command, fragment, _COMMAND, last=True)
    try:
        with path.open("rb", buffering=0) as file:
            left = file.seek(0, 2) - offset
            file.seek(offset)
            while left:
                block = _read(file, min(left, max(_PIECE // fragment, 1) * fragment))
                left -= len(block)
                piece += _pack(context_id, block, fragment, _DATA, last=not left)
                yield piece
                piece = bytearray()
    except OSError as error:
        raise SpoolError(f"{path} cannot be read: {error.strerror or error}") from None


def _read(file: BinaryIO, count: int) -> bytes:
    block = file.read(count)
    if len(block) != count:
        raise OSError("it became shorter while it was read")
    return block


def _pack(context_id: int, data: bytes, fragment: int, kind: int, *, last: bool) -> bytearray:
    packed = bytearray()
    for start in range(0, len(data), fragment):
        part = data[start : start + fragment]
        control = kind | (_LAST if last and start + fragment >= len(data) else 0)
        packed += struct.pack(">BxIIBB", 0x04, len(part) + 6, len(part) + 2, context_id, control)
        packed += part
    return packed
