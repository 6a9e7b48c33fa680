"""A receiver in this process, and peers that say to it exactly the bytes a test wants said."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid

from radnode.dicom.acceptor import Promises
from radnode.dicom.negotiation import Policy
from radnode.run.receiver import Flusher, NoMetrics, Receiver, accept, drain
from radnode.state.arrivals import Arrival, AssociationEnd
from radnode.state.presence import Barrier, Presence
from radnode.state.spool import Spool, Watermark

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
AC, RJ, RELEASE_RP, ABORT = 2, 3, 6, 7
NO_DATA_SET = 0x0101


@dataclass
class Running:
    receiver: Receiver
    spool: Spool
    port: int
    barrier: Barrier
    arrivals: list[Arrival] = field(default_factory=list)
    ends: list[AssociationEnd] = field(default_factory=list)
    ledger_down: bool = False

    def record(self, arrivals: list[Arrival], ends: list[AssociationEnd]) -> None:
        if self.ledger_down:
            raise OSError("the ledger is away")
        self.arrivals += arrivals
        self.ends += ends

    def parts(self) -> list[Path]:
        return list(self.spool.root.rglob("*.part"))

    def reasons(self) -> list[str]:
        """What the quarantine says."""
        return [path.read_text() for path in sorted(self.spool.quarantine.glob("*.txt"))]

    def stored(self, count: int = 1) -> list[Arrival]:
        wait_for(lambda: len(self.arrivals) >= count)
        assert len(self.arrivals) == count
        return self.arrivals

    def ended(self, count: int = 1) -> list[str]:
        """How the associations ended, but for the one of the `undisturbed` sender."""
        wait_for(lambda: len(self.ends) >= count)
        return [each.how for each in self.ends if each.calling_aet != "GOOD"]


@contextmanager
def running(home: Path, promises: Promises | None = None, **policy: object) -> Iterator[Running]:
    """A receiver with threads in this process; leaves nothing behind."""
    spool = Spool(home / "spool")
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    given = Policy(aets=("RADNODE", "SECOND"), allowed=lambda _aet, _address: True)

    def policy_of(watermark: Watermark) -> Policy:
        return replace(given, free_space_ok=lambda: watermark.ok, **policy)

    receiver = Receiver(spool, policy_of, NoMetrics(), promises=promises)
    node = Running(receiver, spool, listener.getsockname()[1], Barrier(home / "run"))
    presence = Presence(home / "run", f"receiver-0-{spool.incarnation}")
    flusher = Flusher(receiver, node.record, presence, node.barrier)
    stop = threading.Event()
    accepting = threading.Thread(target=accept, args=(listener, receiver, stop))
    accepting.start()
    flusher.start()
    try:
        yield node
    finally:
        stop.set()
        accepting.join()
        drain(receiver, 5)
        node.ledger_down = False
        flusher.finish()
        presence.leave()
        listener.close()


def wait_for(condition: Callable[[], object], patience: float = 20.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@cache
def _template() -> pydicom.Dataset:
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    return ds


def data_set(uid: str, syntax: str = EXPLICIT, **changes: object) -> bytes:
    """A CT image as it goes over the wire; a change to None removes the attribute."""
    ds = pydicom.Dataset()
    ds.update(_template())
    ds.SOPInstanceUID = uid
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return encode(ds, syntax)


def encode(ds: pydicom.Dataset, syntax: str = EXPLICIT) -> bytes:
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian = syntax != BIG
    buffer.is_implicit_VR = syntax == IMPLICIT
    write_dataset(buffer, ds)
    return buffer.getvalue()


def deflate(data: bytes, zeros: int = 0) -> bytes:
    """A deflate stream of the data and that many zeros after it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [packer.compress(data)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(zeros >> 20)]
    packed = b"".join([*parts, packer.flush()])
    return packed + b"\0" * (len(packed) % 2)


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def context(number: int, abstract: bytes | str, *transfers: bytes | str) -> bytes:
    def raw(uid: bytes | str) -> bytes:
        return uid if isinstance(uid, bytes) else uid.encode()

    syntaxes = b"".join(item(0x40, raw(each)) for each in transfers)
    return item(0x20, bytes((number, 0, 0, 0)) + item(0x30, raw(abstract)) + syntaxes)


CT_CONTEXT = context(1, CT, EXPLICIT)


def request(
    *contexts: bytes,
    called: bytes = b"RADNODE",
    calling: bytes = b"PACS",
    version: int = 1,
    application: bytes = b"1.2.840.10008.3.1.1.1",
    max_pdu: int = 65536,
    user: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ."""
    information = item(0x51, struct.pack(">L", max_pdu)) + item(0x52, b"1.2.3") + user
    body = struct.pack(">HH16s16s32x", version, 0, called.ljust(16), calling.ljust(16))
    body += item(0x10, application) + b"".join(contexts or (CT_CONTEXT,)) + item(0x50, information)
    return pdu(1, body)


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(body)) + body


def pdv(number: int, flags: int, value: bytes) -> bytes:
    return struct.pack(">LBB", len(value) + 2, number, flags) + value


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def uint16(number: int) -> bytes:
    return struct.pack("<H", number)


def command(
    uid: bytes | str | None = "1.2.3",
    sop_class: bytes | str | None = CT,
    field: int = 1,
    message: int | None = 7,
    data: int | None = 0,
    group_length: int | None = None,
) -> bytes:
    """The command set of a C-STORE-RQ, or with what a test leaves out or puts wrong."""

    def padded(value: bytes | str) -> bytes:
        value = value.encode() if isinstance(value, str) else value
        return value + b"\0" * (len(value) % 2)

    parts = [element(0x0002, padded(sop_class))] if sop_class is not None else []
    parts.append(element(0x0100, uint16(field)))
    parts += [element(0x0110, uint16(message))] if message is not None else []
    parts += [element(0x0700, uint16(0))]
    parts += [element(0x0800, uint16(data))] if data is not None else []
    parts += [element(0x1000, padded(uid))] if uid is not None else []
    body = b"".join(parts)
    return element(0, struct.pack("<L", len(body) if group_length is None else group_length)) + body


def store(uid: str, data: bytes, number: int = 1, fragment: int = 16000) -> bytes:
    """All PDUs of a C-STORE-RQ."""
    pdus = [pdu(4, pdv(number, 3, command(uid)))]
    for at in range(0, max(len(data), 1), fragment):
        last = 2 if at + fragment >= len(data) else 0
        pdus.append(pdu(4, pdv(number, last, data[at : at + fragment])))
    return b"".join(pdus)


@dataclass(frozen=True)
class Response:
    status: int
    message: int
    comment: str
    uid: str


class Peer:
    """A socket with DICOM's PDUs on it."""

    def __init__(self, port: int, patience: float = 20.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=patience)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Peer:
        self.sock.sendall(data)
        return self

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxL", self.read(6))
        return kind, self.read(length)

    def closed(self) -> bool:
        """Whether nothing more comes."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def accepted(self, *contexts: bytes, **given: object) -> Peer:
        """Associates, and expects to be accepted."""
        kind, self.answer = self.send(request(*contexts, **given)).pdu()
        assert kind == AC, (kind, self.answer)
        return self

    def items(self, kind: int) -> list[bytes]:
        """Items of the A-ASSOCIATE-AC, those of user information among them."""
        found, queue = [], [self.answer[68:]]
        while queue:
            data = queue.pop()
            while data:
                each, length = struct.unpack_from(">BxH", data)
                value, data = data[4 : 4 + length], data[4 + length :]
                if each == kind:
                    found.append(value)
                if each == 0x50:
                    queue.append(value)
        return found

    def response(self) -> Response:
        """The next response, gathered from its fragments."""
        body, flags = b"", 0
        while not flags & 2:
            kind, data = self.pdu()
            assert kind == 4, (kind, data)
            length, _, flags = struct.unpack_from(">LBB", data)
            body += data[6 : 4 + length]
        ds = pydicom.dcmread(BytesIO(bytes(128) + b"DICM" + body), force=True)
        assert ds[0, 0].value == len(body) - 12
        return Response(ds[0, 0x900].value, ds[0, 0x120].value, ds.get((0, 0x902), _nothing).value or "",
                        str(ds.get((0, 0x1000), _nothing).value or ""))  # fmt: skip

    def store(self, uid: str = "", data: bytes | None = None, number: int = 1) -> Response:
        """Stores one instance, a sound one by default."""
        uid = uid or generate_uid()
        return self.send(store(uid, data_set(uid) if data is None else data, number)).response()

    def release(self) -> None:
        kind, _ = self.send(pdu(5, bytes(4))).pdu()
        assert kind == RELEASE_RP
        assert self.closed()
        self.sock.close()

    def aborted(self) -> int:
        """Expects an A-ABORT of the provider and the end of the stream; returns its reason."""
        kind, body = self.pdu()
        assert kind == ABORT, (kind, body)
        assert body[2] == 2
        assert self.closed()
        return body[3]

    def rejected(self) -> tuple[int, int, int]:
        kind, body = self.pdu()
        assert kind == RJ, (kind, body)
        assert self.closed()
        return body[1], body[2], body[3]


class _Nothing:
    value = None


_nothing = _Nothing()
