"""Association negotiation, seen from the acceptor: A-ASSOCIATE-RQ in, A-ASSOCIATE-AC, -RJ or A-ABORT out (PS3.8 9.3).

Written by hand over `struct`: what a peer sends here comes before anybody knows who it is, so every length is checked,
and an AE title or UID that breaks the rules costs that title or that context, not the association.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError  # noqa: N812 - the class it would be, were it not of C
from typing import Final

from pydicom.uid import UID_dictionary

from radnode.dicom.headers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model."""
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
_LOSSY = frozenset(f"1.2.840.10008.1.2.4.{each}" for each in ("50", "51", "81", "91", "93", "112", "203"))
_IMPLICIT_LE, _EXPLICIT_BE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_NO_STORAGE = frozenset({"1.2.840.10008.1.3.10", "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.2"})
"""Media Storage Directory and Storage Commitment: "storage" by name only."""
_PLAIN = (EXPLICIT_LE, _IMPLICIT_LE)

_PDU = Struct(">BxL")
_ITEM = Struct(">BxH")
_FIXED = Struct(">HH16s16s32s")
_U16, _U32 = Struct(">H"), Struct(">L")


class MalformedError(Exception):
    """What the peer sent is no PDU of this protocol: answered by an A-ABORT with this reason (PS3.8 9.3.8)."""

    def __init__(self, reason: int, what: str) -> None:
        super().__init__(what)
        self.reason = reason


UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 1, 2, 6


@dataclass(frozen=True)
class Policy:
    """What a receiver takes, and from whom.

    Attributes:
        aets: own AE titles; a called title that is none of them is refused.
        allowed: `(calling AE title, peer's address)` -> may it push here.
        max_associations: open at once, over all receivers.
        max_associations_per_peer: of these from one address; 0: no limit of its own.
        max_pdu: offered to the peer, and the largest P-DATA PDU taken, in bytes.
        request_timeout: seconds until A-ASSOCIATE-RQ has to be complete (ARTIM).
        idle_timeout: seconds without a byte from the peer, or in which it takes none.
        free_space_ok: False while the disk is too full to take more.
        tls: what the TLS port needs, where there is one.
        tls_match_aet: whether the peer's certificate has to name its AE title.
    """

    aets: tuple[str, ...]
    allowed: Callable[[str, str], bool]
    max_associations: int = 64
    max_associations_per_peer: int = 0
    max_pdu: int = 1 << 20
    request_timeout: float = 10.0
    idle_timeout: float = 60.0
    free_space_ok: Callable[[], bool] = lambda: True
    tls: ssl.SSLContext | None = None
    tls_match_aet: bool = False


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21), and the reason in words."""

    result: int
    source: int
    reason: int
    words: str

    def encode(self) -> bytes:
        return _PDU.pack(3, 4) + bytes((0, self.result, self.source, self.reason))


VERSION_UNKNOWN = Rejection(1, 2, 2, "protocol version not supported")
CONTEXT_UNKNOWN = Rejection(1, 1, 2, "application context not supported")
CALLING_UNKNOWN = Rejection(1, 1, 3, "calling AE title not recognized")
CALLED_UNKNOWN = Rejection(1, 1, 7, "called AE title not recognized")
NOTHING_TO_DO = Rejection(1, 1, 1, "nothing proposed that could be answered")
CONGESTION = Rejection(2, 3, 1, "arrivals cannot be recorded for the moment")
TOO_MANY = Rejection(2, 3, 2, "too many associations")
TOO_MANY_OF_PEER = Rejection(2, 3, 2, "too many associations of this peer")
DISK_FULL = Rejection(2, 3, 2, "disk nearly full")
HANDSHAKE_FAILED = Rejection(2, 2, 1, "TLS handshake failed")
"""Never sent: there is nobody to send it to."""
SHUTTING_DOWN = Rejection(2, 3, 1, "shutting down")


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(slots=True)
class Request:
    """A-ASSOCIATE-RQ. UIDs are as the peer wrote them; titles are stripped, and empty where they break PS3.5 6.2."""

    called: str
    calling: str
    version: int
    raw_titles: bytes
    application_context: str = ""
    contexts: dict[int, tuple[bytes, list[bytes]]] = field(default_factory=dict)
    max_pdu: int = 0
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)
    asynchronous: bool = False
    user_identity: str = ""
    identity_response: bool = False


def decode(body: bytes) -> Request:
    """Reads an A-ASSOCIATE-RQ without its PDU header. Raises MalformedError."""
    try:
        version, _, called, calling, _ = _FIXED.unpack_from(body)
        request = Request(_title(called), _title(calling), version, body[4:36])
        for kind, item in items(body, _FIXED.size):
            if kind == 0x10:
                request.application_context = _text(item)
            elif kind == 0x20:
                _add_context(request, item)
            elif kind == 0x50:
                for subkind, subitem in items(item, 0):
                    _add_user_information(request, subkind, subitem)
        return request
    except (StructError, IndexError):
        raise MalformedError(INVALID_PARAMETER, "A-ASSOCIATE-RQ cut short") from None


def items(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at < len(data):
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size + length
        if at > len(data):
            raise MalformedError(INVALID_PARAMETER, f"item {kind:02X}H longer than what holds it")
        yield kind, data[at - length : at]


def _add_context(request: Request, item: bytes) -> None:
    number = item[0]
    if number % 2 == 0 or number in request.contexts:
        raise MalformedError(INVALID_PARAMETER, f"presentation context ID {number} even or used twice")
    syntaxes = list(items(item, 4))
    abstract = next((value for kind, value in syntaxes if kind == 0x30), b"")
    request.contexts[number] = abstract, [value for kind, value in syntaxes if kind == 0x40]


def _add_user_information(request: Request, kind: int, item: bytes) -> None:
    match kind:
        case 0x51:
            request.max_pdu = _U32.unpack(item)[0]
        case 0x53:
            request.asynchronous = True
        case 0x54:
            length = _U16.unpack_from(item)[0]
            request.roles[_text(item[2 : 2 + length])] = item[2 + length], item[3 + length]
        case 0x58:
            length = _U16.unpack_from(item, 2)[0]
            if 4 + length > len(item):
                raise MalformedError(INVALID_PARAMETER, "user identity longer than its item")
            request.identity_response = bool(item[1])
            if item[0] in (1, 2):  # user name, with or without passcode; tickets and tokens are not for the record
                name = item[4 : 4 + length].decode("utf-8", "replace")
                request.user_identity = "".join(each for each in name if each.isprintable())[:256]


def _title(raw: bytes) -> str:
    """An AE title; Latin-1, since titles beyond ASCII exist and have to be told apart. Control characters: none."""
    title = raw.strip(b" \0").decode("latin-1")
    return title if title.isprintable() and "\\" not in title else ""


def _text(raw: bytes) -> str:
    return raw.rstrip(b" \0").decode("latin-1")


def judge(request: Request, policy: Policy, address: str) -> Rejection | None:
    """Why this request is refused, or None. Titles first: a stranger learns nothing about the node's state."""
    if not request.version & 1:
        return VERSION_UNKNOWN
    if request.application_context != APPLICATION_CONTEXT:
        return CONTEXT_UNKNOWN
    if request.called not in policy.aets:
        return CALLED_UNKNOWN
    if not request.calling or not policy.allowed(request.calling, address):
        return CALLING_UNKNOWN
    if not request.contexts or 0 < request.max_pdu < 8:
        return NOTHING_TO_DO
    return None if policy.free_space_ok() else DISK_FULL


def choose(request: Request, *, commits: bool = False) -> tuple[dict[int, Context], dict[int, int]]:
    """The accepted contexts, and the result (3 or 4, PS3.8 table 9-18) of each one refused, by ID."""
    accepted: dict[int, Context] = {}
    refused: dict[int, int] = {}
    for number, (abstract, transfers) in request.contexts.items():
        candidates = [_text(each) for each in transfers if is_uid(each.rstrip(b" \0"))]
        commitment = commits and _text(abstract) == STORAGE_COMMITMENT
        if commitment:
            candidates = [each for each in candidates if each in _PLAIN]
        if not commitment and not serves(abstract.rstrip(b" \0")):
            refused[number] = 3
        elif not candidates:
            refused[number] = 4
        else:
            accepted[number] = Context(number, _text(abstract), min(candidates, key=_rank))
    return accepted, refused


def serves(abstract_syntax: bytes) -> bool:
    """Verification and all of storage; a class nobody here has heard of is taken for storage, as private ones are."""
    if not is_uid(abstract_syntax):
        return False
    uid = abstract_syntax.decode()
    if uid in UID_dictionary:
        return uid == VERIFICATION or ("Storage" in UID_dictionary[uid][0] and uid not in _NO_STORAGE)
    return True


def _rank(transfer_syntax: str) -> int:
    """Explicit little endian; then what loses nothing, as proposed; then lossy; implicit and big endian last."""
    if transfer_syntax == EXPLICIT_LE:
        return 0
    if transfer_syntax in (_IMPLICIT_LE, _EXPLICIT_BE):
        return 3 + (transfer_syntax == _EXPLICIT_BE)
    return 1 + (transfer_syntax in _LOSSY)


def accept(request: Request, accepted: dict[int, Context], refused: dict[int, int], max_pdu: int) -> bytes:
    """A-ASSOCIATE-AC. Asynchronous operations are answered with a window of 1, extended negotiation with silence."""
    items = [_item(0x10, APPLICATION_CONTEXT.encode())]
    for number in request.contexts:
        context = accepted.get(number)
        syntax = context.transfer_syntax if context else _IMPLICIT_LE
        items.append(_item(0x21, bytes((number, 0, refused.get(number, 0), 0)) + _item(0x40, syntax.encode())))
    user = [_item(0x51, _U32.pack(max_pdu)), _item(0x52, IMPLEMENTATION_CLASS_UID.encode())]
    if request.asynchronous:
        user.append(_item(0x53, _U16.pack(1) * 2))
    classes = {context.abstract_syntax for context in accepted.values()}
    for uid, (scu, scp) in request.roles.items():
        if uid in classes:  # the peer may send; but for reports of Storage Commitment it is not asked for anything here
            reports = int(bool(scp) and uid == STORAGE_COMMITMENT)
            user.append(_item(0x54, _U16.pack(len(uid)) + uid.encode() + bytes((scu and 1, reports))))
    user.append(_item(0x55, IMPLEMENTATION_VERSION_NAME.encode()))
    if request.identity_response:
        user.append(_item(0x59, _U16.pack(0)))
    items.append(_item(0x50, b"".join(user)))
    body = _U16.pack(1) + bytes(2) + request.raw_titles + bytes(32) + b"".join(items)
    return _PDU.pack(2, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def abort(reason: int) -> bytes:
    """A-ABORT by the service provider (PS3.8 9.3.8)."""
    return _PDU.pack(7, 4) + bytes((0, 0, 2, reason))


RELEASE_RP: Final = _PDU.pack(6, 4) + bytes(4)
