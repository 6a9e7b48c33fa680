"""Calling a peer: how an association is opened as requestor, tuned, and why it does not come about (PS3.8 9.3)."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from radnode.dicom.tls import client_context
from radnode.domain.errors import PeerError
from radnode.domain.routing.destinations import Destination, Tls

_config.LOG_HANDLER_LEVEL = "none"  # its handlers take a lock of the whole AE for each PDU

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: context ids are the odd numbers up to 255
MAX_PDU = 128 * 1024


@dataclass(frozen=True)
class Peer:
    """A DICOM peer as it is called: its AE title, and where it listens."""

    aet: str
    host: str
    port: int
    tls: Tls | None = None

    @classmethod
    def of(cls, place: Destination) -> Peer:
        return cls(place.aet, place.host, place.port, place.tls)

    def __str__(self) -> str:
        return f"{self.aet} at {self.host}:{self.port}"


@dataclass(frozen=True)
class Timeouts:
    """Seconds: for the TCP connection, for the answer to the association request, and for any later answer."""

    connect: float = 10.0
    association: float = 30.0
    response: float = 300.0


PATIENT = Timeouts()


def associate(
    peer: Peer,
    contexts: Sequence[tuple[str, str]],
    *,
    calling_aet: str = "RADNODE",
    timeouts: Timeouts = PATIENT,
    ext_neg: Sequence[Any] = (),
    on: Sequence[tuple[Any, Any]] = (),
) -> Association:
    """An association the peer accepted, if with none of the contexts: then it is ended already.

    Args:
        contexts: (abstract syntax, transfer syntax), at most MAX_CONTEXTS; one presentation context for each.
        ext_neg: items of extended negotiation, role selection among them, as pynetdicom makes them.
        on: (event of pynetdicom, handler), for requests that come the other way.

    Raises PeerError.
    """
    connected = threading.Event()
    try:
        ae = AE(ae_title=calling_aet)
        ae.connection_timeout = timeouts.connect
        ae.acse_timeout = timeouts.association
        ae.dimse_timeout = timeouts.response
        ae.network_timeout = None  # who keeps an association open releases it himself
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts=[build_context(*each) for each in contexts],
            ae_title=peer.aet,
            max_pdu=MAX_PDU,
            ext_neg=list(ext_neg),
            evt_handlers=[(evt.EVT_CONN_OPEN, _tune, [timeouts.response, connected]), *on],
            tls_args=None if peer.tls is None else (client_context(peer.tls), peer.host),
        )
    except OSError as error:
        raise unreachable(peer, error) from None
    except ValueError as error:
        raise PeerError(f"{peer}: {error}", remedy="correct its AE title, host or port", permanent=True) from None
    if not assoc.is_established and not _accepted_nothing(assoc):
        raise _failure(peer, assoc, connected.is_set())
    return assoc


def release(assoc: Association) -> None:
    """Ends the association in good order, if it is still there."""
    if assoc.is_established:
        assoc.release()


def echo(peer: Peer, *, calling_aet: str = "RADNODE", timeouts: Timeouts = PATIENT) -> float:
    """Seconds from connecting to the answer of a C-ECHO (PS3.7 9.1.5). Raises PeerError."""
    begun = time.perf_counter()
    contexts = [(str(Verification), IMPLICIT_VR_LITTLE_ENDIAN)]
    assoc = associate(peer, contexts, calling_aet=calling_aet, timeouts=timeouts)
    try:
        status = assoc.send_c_echo() if assoc.accepted_contexts else {}
        taken = time.perf_counter() - begun
    except RuntimeError:  # the association has ended
        status = {}
    finally:
        release(assoc)
    if status.get("Status") != 0x0000:
        raise PeerError(f"{peer} took the association but not the C-ECHO", remedy="is this port its storage SCP?")
    return taken


def acknowledge_soon(assoc: Association) -> None:
    """A peer with Nagle's algorithm holds half of its answer back until we acknowledge the other half: 40 ms each."""
    if hasattr(socket, "TCP_QUICKACK"):  # Linux; the kernel forgets it, hence once per message
        with contextlib.suppress(OSError, AttributeError):
            assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _tune(event: Any, seconds: float, connected: threading.Event) -> None:
    """Sets up the socket: without a time limit on sending, a peer that stops reading would hold us for ever."""
    connected.set()
    sock = event.assoc.dul.socket.socket
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    acknowledge_soon(event.assoc)


def _accepted_nothing(assoc: Association) -> bool:
    """Accepted, but without a context: pynetdicom aborts such an association by itself."""
    answer = assoc.acceptor.primitive
    return answer is not None and answer.result == 0x00 and not assoc.accepted_contexts


def _failure(peer: Peer, assoc: Association, connected: bool) -> PeerError:
    """Why there is no association."""
    if not connected:
        return unreachable(peer)
    answer = assoc.acceptor.primitive
    if assoc.is_rejected and answer is not None:
        return rejected(peer, answer.result, answer.result_source, answer.diagnostic)
    return no_answer(peer)


def unreachable(peer: Peer, error: OSError | None = None) -> PeerError:
    if isinstance(error, socket.gaierror):
        return PeerError(f"{peer}: {error}", remedy="does the host name exist?")
    return PeerError(f"{peer} cannot be reached", remedy="is it running, and does a firewall let us through?")


def rejected(peer: Peer, result: int, source: int, reason: int) -> PeerError:
    """What an A-ASSOCIATE-RJ says (PS3.8 table 9-21)."""
    permanent = result == _PERMANENT
    words = _REASONS.get((source, reason), f"source {source}, reason {reason}")
    return PeerError(
        f"{peer} rejected the association, {'permanently' if permanent else 'for now'}: {words}",
        remedy="does it know our AE title and address, and is this its own AE title?",
        permanent=permanent,
    )


def no_answer(peer: Peer) -> PeerError:
    return PeerError(f"{peer} connected but did not answer the association request", remedy="is this a DICOM port?")


_PERMANENT = 1
_REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given by its ACSE",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
"""Source and reason -> words."""
