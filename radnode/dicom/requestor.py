"""An association we open, as a straight line over one socket: no thread, no queue, plain or TLS (PS3.8 9.3).

What a peer answers is read with the acceptor's own `Wire`, which bounds every length.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812 - the class it would be, were it not of C
from typing import NamedTuple

from radnode.dicom import negotiation, tls
from radnode.dicom.headers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from radnode.dicom.negotiation import APPLICATION_CONTEXT, MalformedError
from radnode.dicom.peer import MAX_CONTEXTS, MAX_PDU, Peer, Timeouts, no_answer, rejected, unreachable
from radnode.dicom.wire import AbortedError, LostError, ReleasedError, Wire, wire_of
from radnode.domain.errors import PeerError

_AC, _RJ, _ABORT = 2, 3, 7
_PDU, _ITEM, _FIXED, _U16, _U32 = Struct(">BxL"), Struct(">BxH"), Struct(">HH16s16s32s"), Struct(">H"), Struct(">L")
_ELEMENT, _US = Struct("<HHL"), Struct("<H")
_LONGEST_RESPONSE = 65536
_FAREWELL = 2.0
_RELEASE_RQ, _ABORT_RQ = _PDU.pack(5, 4) + bytes(4), _PDU.pack(7, 4) + bytes(4)

Syntaxes = tuple[str, str]
"""Abstract and transfer syntax of a presentation context."""


class Response(NamedTuple):
    """What a peer says of one request (PS3.7 annex C, E)."""

    message_id: int
    status: int
    comment: str


class Requestor:
    """An association the peer accepted, if with none of the contexts. For one thread at a time.

    Attributes:
        accepted: presentation context -> its ID.
        max_pdu: the longest P-DATA-TF the peer takes, in bytes; 0: any length.
    """

    def __init__(
        self, peer: Peer, contexts: Sequence[Syntaxes], *, calling_aet: str, timeouts: Timeouts
    ) -> None:
        """Opens it, with one presentation context for each pair, at most MAX_CONTEXTS. Raises PeerError."""
        assert len(contexts) <= MAX_CONTEXTS
        self.peer, self.accepted, self.max_pdu = peer, dict[Syntaxes, int](), 0
        self._sock = _connect(peer, timeouts)
        try:
            self._wire: Wire = wire_of(self._sock, 1 << 20, timeouts.response)
            self._wire.send(_request(peer.aet, calling_aet, contexts))
            kind, body = self._wire.answer(timeouts.association)
            self._judge(kind, body, contexts)
        except (LostError, AbortedError, ReleasedError, MalformedError, StructError, IndexError):
            self._sock.close()
            raise no_answer(peer) from None
        except BaseException:
            self._sock.close()
            raise

    @property
    def open(self) -> bool:
        return self._sock.fileno() >= 0

    @property
    def alive(self) -> bool:
        """Whether it can be used: a peer that says something unasked has aborted it, or gone."""
        return self.open and not self._wire.readable(0)

    def exchange(self, pieces: Iterable[bytes | bytearray]) -> Response | None:
        """Writes a request and waits for its answer; None: the association has ended without one."""
        try:
            for piece in pieces:
                self._wire.send(piece)
            return self._response()
        except (LostError, AbortedError, ReleasedError, MalformedError, StructError):
            self.abort()
            return None
        except BaseException:  # half of it is sent, and there is no way back
            self.abort()
            raise

    def release(self) -> None:
        """Ends it in good order, as far as the peer lets us."""
        if not self.open:
            return
        with self._sock, contextlib.suppress(OSError, LostError):
            self._wire.send(_RELEASE_RQ)
            if self._wire.readable(_FAREWELL):  # A-RELEASE-RP, most likely: whatever it is, it was the last
                self._sock.recv(4096)

    def abort(self) -> None:
        if self.open:
            with self._sock:
                self._wire.end(_ABORT_RQ)

    def _judge(self, kind: int, body: bytes, contexts: Sequence[Syntaxes]) -> None:
        if kind == _RJ:
            raise rejected(self.peer, *body[1:4])
        if kind != _AC:
            raise no_answer(self.peer)
        for what, item in negotiation.items(body, _FIXED.size):
            if what == 0x21 and item[2] == 0 and item[0] % 2 and item[0] // 2 < len(contexts):
                self.accepted[contexts[item[0] // 2]] = item[0]
            elif what == 0x50:
                for number, value in negotiation.items(item, 0):
                    if number == 0x51:
                        self.max_pdu = _U32.unpack(value)[0]

    def _response(self) -> Response:
        command, last = bytearray(), 0
        while not last:
            _, flags, length = self._wire.fragment()
            if not flags & 1 or len(command) + length > _LONGEST_RESPONSE:
                raise MalformedError(negotiation.UNEXPECTED_PDU, "a response was expected")
            for piece in self._wire.pieces(length):
                command += piece
            last = flags & 2
        return _decode(bytes(command))


def _connect(peer: Peer, timeouts: Timeouts) -> socket.socket:
    try:
        sock = socket.create_connection((peer.host, peer.port), timeouts.connect)
    except OSError as error:
        raise unreachable(peer, error) from None
    if peer.tls is None:
        return sock
    try:
        sock.settimeout(timeouts.association)
        return tls.client_context(peer.tls).wrap_socket(sock, server_hostname=peer.host)
    except (OSError, ssl.SSLError) as error:
        sock.close()
        remedy = "do the certificates fit: `tls` in routing.yaml?"
        raise PeerError(f"{peer}: the TLS handshake failed: {tls.words(error)}", remedy=remedy) from None
    except BaseException:
        sock.close()
        raise


def _request(called: str, calling: str, contexts: Sequence[Syntaxes]) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    proposed = [
        _item(0x20, bytes((2 * number + 1, 0, 0, 0)) + _item(0x30, abstract.encode()) + _item(0x40, transfer.encode()))
        for number, (abstract, transfer) in enumerate(contexts)
    ]
    user = (
        _item(0x51, _U32.pack(MAX_PDU))
        + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
        + _item(0x55, IMPLEMENTATION_VERSION_NAME.encode())
    )
    titles = called.encode("ascii", "replace").ljust(16), calling.encode("ascii", "replace").ljust(16)
    body = _FIXED.pack(1, 0, *titles, bytes(32)) + _item(0x10, APPLICATION_CONTEXT.encode())
    body += b"".join(proposed) + _item(0x50, user)
    return _PDU.pack(1, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _decode(command: bytes) -> Response:
    """A response's command set. Raises MalformedError where it is none."""
    found = dict(_elements(command))
    try:
        field, message_id, status = (_US.unpack(found[each])[0] for each in (0x0100, 0x0120, 0x0900))
    except (KeyError, StructError):
        raise MalformedError(negotiation.INVALID_PARAMETER, "no response") from None
    if not field & 0x8000 or found.get(0x0800) != _US.pack(0x0101):
        raise MalformedError(negotiation.UNEXPECTED_PDU, "no response, or one with a data set")
    return Response(message_id, status, _printable(found.get(0x0902, b"")))


def _elements(command: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ELEMENT.size <= len(command):
        _, element, length = _ELEMENT.unpack_from(command, at)
        at += _ELEMENT.size + length
        yield element, command[at - length : at]


def _printable(comment: bytes) -> str:
    """ErrorComment (0000,0902), LO: at most 64 characters, of which only the printable are kept."""
    return "".join(each for each in comment.decode("latin-1")[:64] if each.isprintable()).strip()
