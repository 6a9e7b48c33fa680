"""PDUs on a socket: one reused buffer, fragments of P-DATA-TF handed out as they arrive (PS3.8 9.3)."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Iterator
from struct import Struct

from radnode.dicom.negotiation import INVALID_PARAMETER, UNEXPECTED_PDU, UNRECOGNIZED_PDU, MalformedError

_PDU = Struct(">BxL")
_PDV = Struct(">LBB")
_TIMEVAL = Struct("ll")
_BUFFER = 256 * 1024
_LONGEST_REQUEST = 1 << 20
_FAREWELL = 2.0
_RQ, _AC, _RJ, _P_DATA, _RELEASE_RQ, _ABORT = 1, 2, 3, 4, 5, 7
_KNOWN = range(1, 8)
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class ReleasedError(Exception):
    """The peer asks for release."""


class AbortedError(Exception):
    """The peer aborted."""


class LostError(Exception):
    """The connection is gone, or nothing came, or nothing could be sent, for too long."""


class Wire:
    """One connection. `max_pdu` bounds the P-DATA-TF taken; `idle` is the time-out of both directions, in seconds."""

    def __init__(self, sock: socket.socket, max_pdu: int, idle: float) -> None:
        self._sock, self._max_pdu, self._idle = sock, max_pdu, idle
        self._view = memoryview(bytearray(_BUFFER))
        self._at = self._end = 0
        self._left = 0  # bytes of the present P-DATA-TF not yet handed out
        self._deadline = 0.0
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._timeout(socket.SO_SNDTIMEO, idle)

    def request(self, timeout: float) -> bytes:
        """The body of the A-ASSOCIATE-RQ, which has to be complete after `timeout` seconds."""
        return self._first((_RQ,), timeout)[1]

    def answer(self, timeout: float) -> tuple[int, bytes]:
        """Kind and body of what answers an A-ASSOCIATE-RQ of ours: A-ASSOCIATE-AC (2) or -RJ (3)."""
        return self._first((_AC, _RJ), timeout)

    def _first(self, wanted: tuple[int, ...], timeout: float) -> tuple[int, bytes]:
        self._deadline = time.monotonic() + timeout
        kind, length = self._header()
        if kind == _ABORT:
            raise AbortedError
        if kind not in wanted:
            raise MalformedError(UNEXPECTED_PDU if kind in _KNOWN else UNRECOGNIZED_PDU, f"PDU {kind:02X}H")
        if length > _LONGEST_REQUEST:
            raise MalformedError(INVALID_PARAMETER, f"PDU {kind:02X}H of {length} bytes")
        body = b"".join([bytes(piece) for piece in self.pieces(length)])
        self._deadline = 0.0
        self._timeout(socket.SO_RCVTIMEO, self._idle)
        return kind, body

    def fragment(self) -> tuple[int, int, int]:
        """The next presentation data value: context ID, control header (1 command, 2 last), and its length.

        Its bytes have to be taken by `pieces` before the next call. Raises ReleasedError and AbortedError.
        """
        if not self._left:
            self._left = self._data_pdu()
        if self._left < _PDV.size:
            raise MalformedError(INVALID_PARAMETER, "bytes after the last PDV")
        self._need(_PDV.size)
        length, context, flags = _PDV.unpack_from(self._view, self._at)
        if not 2 <= length <= self._left - 4:
            raise MalformedError(INVALID_PARAMETER, f"PDV of {length} bytes in a PDU with {self._left} left")
        self._at += _PDV.size
        self._left -= length + 4
        return context, flags, length - 2

    def pieces(self, length: int) -> Iterator[memoryview]:
        """The next `length` bytes, in pieces as long as the buffer allows, each valid until the next is asked for."""
        while length:
            have = self._end - self._at
            if have < length and (self._end < _BUFFER or not have):
                self._receive()
                continue
            piece = self._view[self._at : self._at + min(have, length)]
            self._at += len(piece)
            length -= len(piece)
            yield piece

    def readable(self, seconds: float) -> bool:
        """Whether something to read is there, or comes within so many seconds."""
        if self._end > self._at:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def send(self, data: bytes | bytearray) -> None:
        try:
            self._sock.sendall(data)
        except OSError as fault:
            raise LostError(f"sending: {fault.strerror}") from None

    def end(self, last: bytes) -> None:
        """Sends the last PDU and waits shortly for the peer to close: closing over unread bytes would take it back."""
        deadline = time.monotonic() + _FAREWELL
        with contextlib.suppress(OSError):
            self._timeout(socket.SO_SNDTIMEO, _FAREWELL)
            self._sock.sendall(last)
            self._half_close()
            while (left := deadline - time.monotonic()) > 0:
                self._timeout(socket.SO_RCVTIMEO, left)
                if not self._sock.recv_into(self._view):
                    break

    def _half_close(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def _data_pdu(self) -> int:
        kind, length = self._header()
        if kind == _P_DATA:
            if not 0 < length <= self._max_pdu:
                raise MalformedError(INVALID_PARAMETER, f"P-DATA-TF of {length} bytes")
            return length
        if kind == _ABORT:
            raise AbortedError
        if kind != _RELEASE_RQ:
            raise MalformedError(UNEXPECTED_PDU if kind in _KNOWN else UNRECOGNIZED_PDU, f"PDU {kind:02X}H")
        if length != 4:
            raise MalformedError(INVALID_PARAMETER, f"A-RELEASE-RQ of {length} bytes")
        self._need(length)
        raise ReleasedError

    def _header(self) -> tuple[int, int]:
        self._need(_PDU.size)
        kind, length = _PDU.unpack_from(self._view, self._at)
        self._at += _PDU.size
        return kind, length

    def _need(self, count: int) -> None:
        """Has the next few bytes in the buffer, in one piece."""
        while self._end - self._at < count:
            if self._end == _BUFFER:
                rest = bytes(self._view[self._at : self._end])
                self._view[: len(rest)] = rest
                self._at, self._end = 0, len(rest)
            self._receive()

    def _receive(self) -> None:
        if self._at == self._end:
            self._at = self._end = 0
        if self._deadline:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise LostError("the association was not opened in time")
            self._timeout(socket.SO_RCVTIMEO, left)
        try:
            if _QUICKACK is not None:  # the kernel forgets it, and a sender with Nagle on then waits 40 ms for an ACK
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            count = self._sock.recv_into(self._view[self._end :])
        except BlockingIOError:
            raise LostError(f"nothing received for {self._idle:g} s") from None
        except OSError as fault:
            raise LostError(f"receiving: {fault.strerror}") from None
        if not count:
            raise LostError("closed by the peer")
        self._end += count

    def _timeout(self, which: int, seconds: float) -> None:
        whole = int(seconds)
        micro = max(int((seconds - whole) * 1e6), 0 if whole else 1)  # zero would mean: wait for ever
        self._sock.setsockopt(socket.SOL_SOCKET, which, _TIMEVAL.pack(whole, micro))


class TlsWire(Wire):
    """The same over TLS: its time-outs are Python's own, since OpenSSL goes on reading after the system's."""

    _sock: ssl.SSLSocket

    def readable(self, seconds: float) -> bool:
        return self._sock.pending() > 0 or super().readable(seconds)

    def _half_close(self) -> None:
        with contextlib.suppress(OSError):  # the peer may still be sending
            self._sock.unwrap()

    def _timeout(self, which: int, seconds: float) -> None:
        self._sock.settimeout(seconds)


def wire_of(sock: socket.socket, max_pdu: int, idle: float) -> Wire:
    """The wire of a connection; over TLS its handshake has to be done."""
    return (TlsWire if isinstance(sock, ssl.SSLSocket) else Wire)(sock, max_pdu, idle)
