"""What many and what large costs a running node: peak memory of receivers and core, and seconds.

One line each: 100 associations at once, one object of 2 GiB, 100 000 small instances in one series, up to its
completion. The memory is the peak of the resident set (VmHWM), of the receiver that has most, and of core.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import func, select

from radnode.state import schema
from radnode.state.ledger import Ledger
from tests.peers import Node, until
from tests.receiving import CT, Peer, command, data_set, encode, pdu, pdv, store

QUIET = 2
ROUTING = f"complete: {{series: {QUIET}s, study: 1h}}\nrules: []\n"
WINDOW = 64  # requests sent before their responses are read: the sender is not to be what is measured
MIB = 1 << 20
PARTS = {"receivers": "radnode.run.receiving", "core": "radnode.cli\0core"}


@dataclass(frozen=True)
class Row:
    """One line of the table; peaks in MiB, before and after."""

    what: str
    seconds: float
    receivers: tuple[float, float]
    core: tuple[float, float]
    note: str = ""


@contextmanager
def running(folder: Path) -> Iterator[Node]:
    """A node that has warmed up: its first association and its first series lie behind it."""
    env = {"RADNODE_MAX_ASSOCIATIONS": "256", "RADNODE_LOG_LEVEL": "warning"}
    with Node(folder / "node", ROUTING, env=env) as node:
        until(lambda: len(pids(node, "receivers")) == 2, "both receivers live")
        small_instances(node, 200)
        with ExitStack() as stack:
            for peer in [stack.enter_context(Peer(node.port)) for _ in range(8)]:
                assert peer.accepted().store().status == 0
        yield node


def pids(node: Node, part: str) -> list[int]:
    return [pid for pid in node.pids() if PARTS[part].encode() in _proc(pid, "cmdline")]


def peak(node: Node, part: str) -> float:
    """MiB that the greediest process of a part has had at most."""
    lines = b"\n".join(_proc(pid, "status") for pid in pids(node, part)).decode().splitlines()
    return max(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@contextmanager
def watched(node: Node, what: str, rows: list[Row]) -> Iterator[list[str]]:
    """Times the block and compares the peaks; what it puts into the list becomes the note."""
    before, notes, began = (peak(node, "receivers"), peak(node, "core")), [], time.monotonic()
    yield notes
    seconds = time.monotonic() - began
    receivers, core = (before[0], peak(node, "receivers")), (before[1], peak(node, "core"))
    rows.append(Row(what, seconds, receivers, core, "; ".join(notes)))


def associations_at_once(node: Node, count: int) -> None:
    """All open together; each stores an instance of 33 kB while the others wait, and is released."""
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(node.port, patience=60)) for _ in range(count)]
        for peer in peers:
            peer.accepted()
        sent = [data_set(generate_uid()) for _ in peers]
        for peer, data in zip(peers, sent, strict=True):
            peer.send(store(_uid_of(data), data))
        assert {peer.response().status for peer in peers} == {0}
        for peer in peers:
            peer.release()


def _uid_of(data: bytes) -> str:
    at = data.index(b"\x08\0\x18\0UI") + 6
    (length,) = struct.unpack_from("<H", data, at)
    return data[at + 2 : at + 2 + length].rstrip(b"\0").decode()


def large_object(node: Node, size: int) -> None:
    """One instance with pixels of `size` bytes, streamed from one buffer in PDUs of the longest kind."""
    uid = generate_uid()
    head = data_set(uid, PixelData=None, DataSetTrailingPadding=None)
    head += b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<L", size)
    piece = MIB - 6
    block = pdu(4, pdv(1, 0, bytes(piece)))
    with Peer(node.port, patience=120) as peer:
        peer.accepted().send(pdu(4, pdv(1, 3, command(uid))) + pdu(4, pdv(1, 0, head)))
        for _ in range(size // piece):
            peer.send(block)
        assert peer.send(pdu(4, pdv(1, 2, bytes(size % piece)))).response().status == 0
        peer.release()


def small_instances(node: Node, count: int) -> tuple[str, float]:
    """`count` instances of 1 kB in one series over one association; its UID, and the seconds it took."""
    ds = Dataset()
    ds.SOPClassUID, ds.Modality, ds.InstanceNumber = CT, "CT", 1
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 16, 12, 11, 0, 1
    ds.PixelData = bytes(512)
    stem = f"{generate_uid()[:40].rstrip('.')}.1"
    ds.SOPInstanceUID = f"{stem}{0:08d}"
    template, began = store(ds.SOPInstanceUID, encode(ds)), time.monotonic()
    with Peer(node.port, patience=120) as peer:
        peer.accepted()
        for start in range(0, count, WINDOW):
            numbers = range(start, min(start + WINDOW, count))
            uids = [f"{stem}{number:08d}".encode() for number in numbers]
            peer.send(b"".join(template.replace(ds.SOPInstanceUID.encode(), uid) for uid in uids))
            assert [_status(peer) for _ in uids] == [0] * len(uids)
        peer.release()
    return str(ds.SeriesInstanceUID), time.monotonic() - began


def _status(peer: Peer) -> int:
    _, body = peer.pdu()
    return int.from_bytes(body[body.index(b"\0\0\0\t\2\0\0\0") + 8 :][:2], "little")


def completed(node: Node, series: str, count: int) -> float:
    """Waits until core has completed the series with all its instances; seconds beyond the quiet time."""
    ledger, began = Ledger(node.home), time.monotonic()

    def is_complete() -> Any:
        with ledger.read() as tx:
            query = select(schema.series).where(schema.series.c.series_instance_uid == series)
            row = tx.execute(query).one_or_none()
            return row is not None and row.state == "complete" and row

    row = until(is_complete, "the series is complete", timeout=1800)
    with ledger.read() as tx:
        generation = func.min(schema.instance.c.generation)
        assert tx.execute(select(generation).where(schema.instance.c.series_id == row.id)).scalar_one() == 1
    ledger.close()
    assert row.instances == count
    return time.monotonic() - began - QUIET


def measure(node: Node, associations: int, gib: float, instances: int) -> list[Row]:
    rows: list[Row] = []
    with watched(node, f"{associations} associations at once", rows):
        associations_at_once(node, associations)
    with watched(node, f"one object of {gib:g} GiB", rows) as notes:
        began = time.monotonic()
        large_object(node, int(gib * 1024) * MIB)
        notes.append(f"{gib * 1024 / (time.monotonic() - began):.0f} MiB/s")
    for path in (node.home / "spool").rglob("*.dcm"):
        if path.stat().st_size > 100 * MIB:
            path.unlink()
    return rows + series(node, instances)


def series(node: Node, instances: int) -> list[Row]:
    rows: list[Row] = []
    with watched(node, f"{instances} instances in one series", rows) as notes:
        uid, seconds = small_instances(node, instances)
        notes.append(f"{instances / seconds:.0f}/s")
    with watched(node, "its completion", rows) as notes:
        notes.append(f"{completed(node, uid, instances):.1f} s beyond the quiet time")
    return rows


def report(rows: list[Row]) -> None:
    print("| what | seconds | receiver, peak MiB | core, peak MiB | |")
    print("|---|---|---|---|---|")
    for row in rows:
        receivers, core = (f"{each[0]:.0f} → {each[1]:.0f}" for each in (row.receivers, row.core))
        print(f"| {row.what} | {row.seconds:.1f} | {receivers} | {core} | {row.note} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--associations", type=int, default=100)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to receive to (default: temporary)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name, running(Path(name)) as node:
        report(measure(node, given.associations, given.gib, given.instances))


if __name__ == "__main__":
    main()
