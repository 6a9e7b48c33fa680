#!/usr/bin/env -S PYTHONPATH=. .venv/bin/python
"""Says to the receiver associations that are wrong in every way chance finds, and holds it to its word.

A case is a recorded association, changed at the level of bytes, PDUs, items, PDVs, command elements or data set. The
receiver has to come to an end with it, answer in whole PDUs, keep what it acknowledged, and leave nothing behind.
`--case N` says one case alone: the same seed and number give the same bytes.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import structlog
from pydicom import Dataset

from radnode.dicom import acceptor
from radnode.dicom.headers import read_attributes, summarize
from radnode.dicom.negotiation import Policy
from radnode.domain.errors import NotDicomError
from radnode.run.commitment import Promises
from radnode.run.receiver import NoMetrics, Receiver
from radnode.state.ledger import Ledger
from radnode.state.spool import Spool
from tests.receiving import (
    BIG,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    NO_DATA_SET,
    command,
    context,
    data_set,
    deflate,
    element,
    encode,
    item,
    open_descriptors,
    pdu,
    pdv,
    request,
    store,
)

PUSH_MODEL = "1.2.840.10008.1.20.1"
Pdus = list[tuple[int, bytes]]
LONGEST = 48_000  # bytes of a case: they all wait in the socket's buffers before the receiver starts to read
IDLE = 2.0
HANG = 60  # seconds after which a batch is taken for a hang, and the stack is shown
_BATCH = 200
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_KEYWORDS = ("PatientName", "StudyDescription", "ImageType", "Rows", "PixelSpacing", "ReferencedImageSequence")


# ---- what is said --------------------------------------------------------------------------------------------------


@cache
def recorded() -> list[Pdus]:
    """Sound associations: what clients do, in every layout the receiver walks."""
    small = {"PixelData": bytes(128), "Rows": 8, "Columns": 8}
    explicit, implicit = data_set("1.2.3", **small), data_set("1.2.3", IMPLICIT, **small)
    bodies = {
        EXPLICIT: explicit,
        IMPLICIT: implicit,
        BIG: data_set("1.2.3", BIG, **small),
        DEFLATED: deflate(explicit),
        "1.2.840.113619.5.2": implicit,
        "1.2.3.4": explicit,
        "1.2.840.10008.1.2.4.90": encapsulated(),
    }
    echo = pdu(4, pdv(1, 3, command(uid=None, sop_class="1.2.840.10008.1.1", field=0x30, data=NO_DATA_SET)))
    identity = item(0x58, b"\2\1\0\4anna\0\6secret")
    role = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\1")
    several = [context(number, CT, syntax) for number, syntax in zip(range(1, 99, 2), bodies, strict=False)]
    bye = pdu(5, bytes(4))
    said = [request(context(1, CT, syntax)) + store("1.2.3", body, fragment=900) + bye
            for syntax, body in bodies.items()]  # fmt: skip
    said += [
        request(context(1, PUSH_MODEL, EXPLICIT)) + _commitment(EXPLICIT) + bye,
        request(context(1, PUSH_MODEL, IMPLICIT)) + _commitment(IMPLICIT) * 2 + bye,
        request(context(1, "1.2.840.10008.1.1", IMPLICIT), user=identity + role) + echo * 3 + bye,
        request(*several, user=role + item(0x53, b"\0\4\0\4")) + store("1.2.3", implicit, 3) * 2 + pdu(7, bytes(4)),
        request(context(1, CT, EXPLICIT), max_pdu=16) + store("1.2.3", explicit, fragment=4000) * 3 + bye,
        request() + pdu(4, pdv(1, 1, command()[:50]) + pdv(1, 3, command()[50:]) + pdv(1, 2, explicit)) + bye,
    ]
    return [list(_pdus(each)) for each in said]


def _commitment(syntax: str) -> bytes:
    """N-ACTION-RQ of the Storage Commitment Push Model (PS3.4 J.3.2), for two instances."""
    ds = Dataset()
    ds.TransactionUID, ds.ReferencedSOPSequence = "1.2.9", []
    for uid in ("1.2.3", "1.2.4"):
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CT, uid
        ds.ReferencedSOPSequence.append(reference)
    names = element(0x0003, PUSH_MODEL.encode() + b"\0") + element(0x0100, b"\x30\1") + element(0x0110, b"\7\0")
    rest = element(0x0800, b"\0\0") + element(0x1001, f"{PUSH_MODEL}.1".encode() + b"\0") + element(0x1008, b"\1\0")
    return pdu(4, pdv(1, 3, names + rest)) + pdu(4, pdv(1, 2, encode(ds, syntax)))


def encapsulated() -> bytes:
    """A data set with three fragments of pixel data, and a sequence in a sequence before it."""
    nested = struct.pack("<HH2sxxLHHL", 8, 0x1115, b"SQ", 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    pixels = struct.pack("<HH2sxxL", 0x7FE0, 0x10, b"OB", 0xFFFFFFFF)
    fragments = struct.pack("<HHL16s", 0xFFFE, 0xE000, 16, b"\xff" * 16) * 3
    return nested * 2 + end * 2 + data_set("1.2.3", PixelData=None) + pixels + fragments + end[8:]


def _pdus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, body) of each PDU. Raises ValueError where the bytes are not whole PDUs."""
    at = 0
    while at < len(data):
        if at + 6 > len(data):
            raise ValueError("half a PDU header")
        kind, length = struct.unpack_from(">BxL", data, at)
        at += 6 + length
        if at > len(data):
            raise ValueError(f"half a PDU {kind:02X}H")
        yield kind, data[at - length : at]


def case(seed: int, number: int) -> bytes:
    """What one case says, to the last byte."""
    chance = random.Random(f"{seed}/{number}")
    pdus = list(chance.choice(recorded()))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        chance.choice(_CHANGES)(chance, pdus)
    data = b"".join(pdu(kind, body) for kind, body in pdus)[:LONGEST]
    return scramble(chance, data) if chance.random() < 0.2 else data


def scramble(chance: random.Random, data: bytes) -> bytes:
    """Bytes changed, cut out, doubled or put in at one place."""
    at = chance.randrange(len(data) + 1)
    length = chance.choice((1, 2, 4, 8, 100, 2000))
    number = chance.choice(_NUMBERS)
    match chance.randrange(7):
        case 0:
            new = bytes((data[at] ^ 1 << chance.randrange(8),)) if at < len(data) else b""
            return data[:at] + new + data[at + 1 :]
        case 1:
            width, order = chance.choice((("H", 2), ("L", 4)))[0], chance.choice("<>")
            new = struct.pack(order + width, number if width == "H" else number | number << 16)
            return data[:at] + new + data[at + len(new) :]
        case 2:
            return data[:at] + data[at + length :]
        case 3:
            return data[: at + length] + data[at:]
        case 4:
            return data[:at] + chance.randbytes(length) + data[at:]
        case 5:
            return data[:at] + chance.randbytes(length) + data[at + length :]
    return data[:at]


def _shuffle(chance: random.Random, pdus: Pdus) -> None:
    """A PDU left out, said twice, moved, of another kind, or one from elsewhere."""
    at = chance.randrange(len(pdus) or 1)
    match chance.randrange(5) if pdus else 4:
        case 0:
            del pdus[at]
        case 1:
            pdus.insert(chance.randrange(len(pdus)), pdus[at])
        case 2:
            pdus.insert(chance.randrange(len(pdus)), pdus.pop(at))
        case 3:
            pdus[at] = chance.randrange(10), pdus[at][1]
        case 4:
            pdus.insert(at, chance.choice(chance.choice(recorded())))


def _in_pdu(chance: random.Random, pdus: Pdus) -> None:
    if pdus:
        at = chance.randrange(len(pdus))
        kind, body = pdus[at]
        pdus[at] = kind, scramble(chance, body)


def _in_items(chance: random.Random, pdus: Pdus) -> None:
    """Inside an item of the request, with all lengths around it made right again."""
    for at, (kind, body) in enumerate(pdus):
        if kind == 1 and len(body) > 68:
            pdus[at] = kind, body[:68] + _items(chance, body[68:], 0)


def _items(chance: random.Random, data: bytes, prefix: int) -> bytes:
    items, at = [], prefix
    while at + 4 <= len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        items.append((kind, data[at + 4 : at + 4 + length]))
        at += 4 + length
    if items:
        at = chance.randrange(len(items))
        kind, value = items[at]
        if kind in (0x20, 0x50) and chance.random() < 0.8:
            value = _items(chance, value, 4 if kind == 0x20 else 0)
        elif chance.random() < 0.3:
            items += [items[at]] * chance.choice((1, 2, 130))
        else:
            value = scramble(chance, value)
        items[at] = kind, value
    return data[:prefix] + b"".join(item(kind, value[:60_000]) for kind, value in items)[:65_000]


def _in_pdv(chance: random.Random, pdus: Pdus, wanted: int, change: Callable[[bytes], bytes]) -> None:
    """Inside a command (`wanted` 1) or a fragment of a data set (0), with the lengths around it made right again."""
    places = [at for at, (kind, body) in enumerate(pdus) if kind == 4 and len(body) > 6 and body[5] & 1 == wanted]
    if places:
        at = chance.choice(places)
        body = pdus[at][1]
        number, flags = (chance.choice((body[4], body[4], 1, 3, 5)), chance.choice((body[5],) * 9 + (0, 1, 2, 3)))
        pdus[at] = 4, pdv(number, flags, change(body[6:]))


def _command(chance: random.Random, value: bytes) -> bytes:
    """A command set with one element left out, doubled, changed or new."""
    parts, at = [], 0
    while at + 8 <= len(value):
        number, length = struct.unpack_from("<2xHL", value, at)
        parts.append((number, value[at + 8 : at + 8 + length]))
        at += 8 + length
    if not parts:
        return value
    at = chance.randrange(len(parts))
    match chance.randrange(5):
        case 0:
            del parts[at]
        case 1:
            parts.insert(chance.randrange(len(parts)), parts[at])
        case 2:
            parts[at] = parts[at][0], scramble(chance, parts[at][1])
        case 3:
            parts[at] = chance.choice((0x2, 0x100, 0x110, 0x120, 0x700, 0x800, 0x1000, 0x1030)), parts[at][1]
        case 4:
            field = struct.pack("<H", chance.choice((1, 0x10, 0x20, 0x21, 0x30, 0x130, 0xFFF, 0x8001)))
            parts = [(number, field if number == 0x100 else each) for number, each in parts]
    return b"".join(element(number, each) for number, each in parts)


def _in_command(chance: random.Random, pdus: Pdus) -> None:
    _in_pdv(chance, pdus, 1, partial(_command, chance))


def _in_data(chance: random.Random, pdus: Pdus) -> None:
    _in_pdv(chance, pdus, 0, partial(scramble, chance))


_CHANGES = (_shuffle, _in_pdu, _in_items, _in_command, _in_command, _in_data, _in_data)


# ---- what comes of it ----------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What the receiver said how often, and the longest a case took, in seconds."""

    cases: int = 0
    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_case: int = 0


class Local(socket.socket):
    """A socket within this process: there is no TCP to set options of."""

    def setsockopt(self, level: int, *option: Any) -> None:
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *option)


class _Open(NoMetrics):
    """Counts the slots in use."""

    now = 0

    def open(self, delta: int) -> None:
        self.now += delta


class Bench:
    """A receiver without threads: each case waits in its socket, whole, before the receiver is let loose on it."""

    def __init__(self, home: Path) -> None:
        policy = Policy(aets=("RADNODE",), allowed=lambda *_: True, max_associations=1, idle_timeout=IDLE)
        self.ledger = Ledger(home)
        self.ledger.migrate()
        spool, self.open = Spool(home / "spool", "flush"), _Open()
        promises = Promises(self.ledger, spool.root, "receiver-fuzz")
        self.receiver = Receiver(spool, lambda _: policy, self.open, promises=promises)
        self.logs: list[Any] = []

    def say(self, data: bytes) -> bytes:
        """All that the receiver answers."""
        peer, accepted = socket.socketpair()
        with peer:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            acceptor.serve(Local(fileno=accepted.detach()), "127.0.0.1", self.receiver.policy, self.receiver)
            answer = b""
            with suppress(ConnectionResetError):  # it closed over bytes it had no reason to read
                while piece := peer.recv(1 << 16):
                    answer += piece
            return answer

    def judge(self, answer: bytes) -> list[str]:
        """What was answered, in words. Raises AssertionError where a promise is broken."""
        said, acknowledged = [], 0
        for kind, body in _pdus(answer):
            words = {2: "accepted", 3: "rejected", 4: "response", 6: "released", 7: "aborted"}[kind]
            said.append(words)
            if kind == 4 and b"\0\0\0\1\2\0\0\0\1\x80" in body and b"\0\0\0\t\2\0\0\0\0\0" in body:
                acknowledged += 1
        arrivals = self.receiver.pending._arrivals
        assert acknowledged <= len(arrivals), "acknowledged, and not kept"
        for each in arrivals:
            path = self.receiver.spool.root / each.path
            summary = summarize(path)
            assert summary.sop_instance_uid == each.sop_instance_uid
            try:
                read_attributes(path, _KEYWORDS)
            except NotDicomError as fault:
                said.append(f"unreadable: {type(fault).__name__}")
        ends = self.receiver.pending._ends
        assert len(ends) == said.count("accepted") or not answer, "an association without its end"
        assert self.open.now == 0, "a slot is lost"
        arrivals.clear()
        ends.clear()
        return said or ["nothing"]

    def sweep(self) -> None:
        """Removes what was kept; what should not be there is an error."""
        for path in self.receiver.spool.root.rglob("*.*"):
            assert path.suffix in (".dcm", ".txt"), path
            path.unlink()


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench, in a folder and with a log that go with it."""
    with tempfile.TemporaryDirectory(prefix="radnode-fuzz-") as folder, structlog.testing.capture_logs() as logs:
        made = Bench(Path(folder))
        made.logs = logs
        try:
            yield made
        finally:
            made.ledger.close()


def fuzz(cases: range, seed: int, each_batch: Callable[[Report], None] = lambda _: None) -> Report:
    """Runs the cases; raises what the receiver raised, with a note that says which case it was."""
    report, began = Report(), time.perf_counter()
    with bench() as node:
        node.say(b"".join(pdu(*each) for each in recorded()[0]))  # imports, and the first bucket's folders
        node.judge(b"")
        threads, descriptors = threading.active_count(), open_descriptors()
        for number in cases:
            started = time.perf_counter()
            try:
                report.answers.update(set(node.judge(node.say(case(seed, number)))))
            except BaseException as fault:
                fault.add_note(f"seed {seed}, case {number}")
                raise
            spent = time.perf_counter() - started
            if spent > report.slowest:
                report.slowest, report.slowest_case = spent, number
            report.cases += 1
            if report.cases % _BATCH == 0:
                node.sweep()
                node.logs.clear()
                report.seconds = time.perf_counter() - began
                each_batch(report)
        node.sweep()
        assert threading.active_count() == threads, "threads are left"
        assert open_descriptors() == descriptors, "descriptors are left"
    report.seconds = time.perf_counter() - began
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="this one alone")
    given = parser.parse_args()
    cases = range(given.cases) if given.case is None else range(given.case, given.case + 1)

    def watch(_: Report) -> None:
        faulthandler.dump_traceback_later(HANG, exit=True)

    report = fuzz(cases, given.seed, watch)
    faulthandler.cancel_dump_traceback_later()
    print(f"{report.cases} cases, {report.cases / report.seconds:.0f} per second, seed {given.seed}")
    print(", ".join(f"{count} {words}" for words, count in report.answers.most_common()))
    print(f"slowest: case {report.slowest_case}, {1000 * report.slowest:.0f} ms")


if __name__ == "__main__":
    main()
