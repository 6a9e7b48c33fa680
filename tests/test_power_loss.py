"""What was acknowledged is there after the power failed, byte for byte; what was not is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid
from sqlalchemy import select

from radnode.dicom import acceptor
from radnode.dicom.headers import FileMeta, summarize
from radnode.dicom.negotiation import Policy
from radnode.domain.errors import NotDicomError
from radnode.run.receiver import NoMetrics, Receiver
from radnode.state import scan as scans
from radnode.state import schema
from radnode.state import spool as spools
from radnode.state.arrivals import Arrival
from radnode.state.ledger import Ledger
from radnode.state.scan import scan
from radnode.state.spool import Spool
from scripts.fuzz_receiver import Local
from tests.peers import Node, until
from tests.receiving import CT, EXPLICIT, Peer, data_set, pdu, request, store

FRAGMENT = 900


# ---- the power fails between any two system calls ------------------------------------------------------------------


class Turns:
    """Lets one thread go on at a time, from one system call to the next."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[int, bool] = {}  # thread -> does it wait for its turn
        self._over = False

    def take(self) -> None:
        """Called before a system call: waits for this thread's turn."""
        me = threading.get_ident()
        with self._changed:
            if me in self._waiting and not self._over:
                self._waiting[me] = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._over or not self._waiting[me])

    def start(self, action: Callable[[], None]) -> threading.Thread:
        """Starts a thread, up to its first system call."""

        def run() -> None:
            self._waiting[threading.get_ident()] = False
            self.take()
            action()
            with self._changed:
                del self._waiting[threading.get_ident()]
                self._changed.notify_all()

        thread = threading.Thread(target=run)
        thread.start()
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting.get(thread.ident or 0), 20)
        return thread

    def ready(self) -> list[int]:
        return sorted(self._waiting)

    def give(self, thread: int) -> None:
        """Lets a thread make its next system call, and waits until it stands before another or has ended."""
        with self._changed:
            self._waiting[thread] = False
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._waiting.get(thread, True), 20), "a thread hangs"

    def end(self) -> None:
        """From now on nobody waits."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


class Disk:
    """The spool's `os`: every call waits for its turn, and a completed sync is remembered."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.synced: dict[int, int] = {}  # inode -> bytes that are safe

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("open", "write", "writev", "pwrite", "rename", "close"):
            return real

        def call(*arguments: Any) -> Any:
            self.turns.take()
            if "write" in name:
                self.synced.pop(os.fstat(arguments[0]).st_ino, None)
            return real(*arguments)

        return call

    def sync(self, fd: int) -> None:
        self.turns.take()
        status = os.fstat(fd)
        self.synced[status.st_ino] = status.st_size

    def left_by(self, chance: random.Random, root: Path, ruin: Path) -> None:
        """Copies what the power leaves: no name is safe, and no byte that no sync covers."""
        for path in sorted(root.rglob("*.*")):
            status, data = path.stat(), path.read_bytes()
            place = ruin / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            if self.synced.get(status.st_ino) == status.st_size:
                place = place.with_suffix(chance.choice((path.suffix, ".part")))
            else:
                data = data[: chance.choice((0, len(data), chance.randint(0, len(data)), len(data) - 1))]
                if chance.random() < 0.2:
                    continue
            place.write_bytes(data)


class Association:
    """A connection with all that its peer has to say waiting in it."""

    def __init__(self, turns: Turns, instances: dict[str, bytes]) -> None:
        self.peer, other = socket.socketpair()
        said = b"".join(store(uid, data, fragment=FRAGMENT) for uid, data in instances.items())
        self.peer.sendall(request() + said + pdu(5, bytes(4)))
        self.peer.shutdown(socket.SHUT_WR)
        self.sock = _Taking(turns, other)

    def acknowledged(self) -> set[str]:
        """UIDs in the responses 0x0000 that have left the receiver so far."""
        self.peer.setblocking(False)
        said = b""
        try:
            while piece := self.peer.recv(1 << 16):
                said += piece
        except BlockingIOError:
            pass
        found, at = set(), 0
        while at < len(said):
            kind, length = struct.unpack_from(">BxL", said, at)
            body, at = said[at + 6 : at + 6 + length], at + 6 + length
            if kind == 4 and struct.pack("<HHLH", 0, 0x0900, 2, 0) in body:
                found.add(body.partition(b"\0\0\0\x10")[2][4:].rstrip(b"\0").decode())
        return found


class _Taking(Local):
    """Its answers wait for their turn as well."""

    def __init__(self, turns: Turns, other: socket.socket) -> None:
        super().__init__(fileno=other.detach())
        self._turns = turns

    def sendall(self, data: Any) -> None:  # type: ignore[override]
        self._turns.take()
        super().sendall(data)


@contextmanager
def receiving(
    root: Path, instances: list[dict[str, bytes]]
) -> Iterator[tuple[Turns, Disk, Receiver, list[Association]]]:
    """A receiver with associations at work, all of them standing before a system call."""
    turns = Turns()
    disk = Disk(turns)
    policy = Policy(aets=("RADNODE",), allowed=lambda *_: True)
    receiver = Receiver(Spool(root), lambda _: policy, NoMetrics())
    associations = [Association(turns, each) for each in instances]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spools, "os", disk)
        patched.setattr(spools, "_sync_data", disk.sync)
        threads = [
            turns.start(lambda each=each: acceptor.serve(each.sock, "127.0.0.1", policy, receiver))  # type: ignore[misc]
            for each in associations
        ]
        try:
            yield turns, disk, receiver, associations
        finally:
            turns.end()
            for thread in threads:
                thread.join()
            for each in associations:
                each.peer.close()


def sent(associations: int, each: int) -> list[dict[str, bytes]]:
    """Per association, UID -> data set."""
    return [{f"1.2.{one}.{n}": image(f"1.2.{one}.{n}") for n in range(each)} for one in range(associations)]


@cache
def image(uid: str) -> bytes:
    return data_set(uid, PixelData=bytes(64), Rows=8, Columns=4)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(chance=st.randoms(use_true_random=False), associations=st.integers(1, 4), moment=st.integers(0, 150))
def test_power_lost_between_any_two_system_calls_loses_nothing_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, associations: int, moment: int
) -> None:
    folder = tmp_path_factory.mktemp("power")
    instances = sent(associations, each=2)
    recorded: list[Arrival] = []
    with receiving(folder / "spool", instances) as (turns, disk, receiver, open_now):
        for _ in range(moment):
            if chance.random() < 0.05:
                receiver.pending.flush(lambda arrivals, _: recorded.extend(arrivals))
            if not turns.ready():
                break
            turns.give(chance.choice(turns.ready()))
        acknowledged = set().union(*(each.acknowledged() for each in open_now))
        disk.left_by(chance, folder / "spool", folder / "ruin")
        found = recover(folder / "ruin", recorded, {uid: data for some in instances for uid, data in some.items()})
    assert acknowledged <= found


def recover(root: Path, recorded: list[Arrival], whole: dict[str, bytes]) -> set[str]:
    """What core's scan finds, and what the ledger knew: all of it has to be there, whole, and nothing else."""
    spool = Spool(root)
    known = {each.path for each in recorded}
    adopted = list(scan(spool, lambda _: set(known), lambda _: False, summarize))
    paths = {each.path: each.sop_instance_uid for each in recorded + adopted}
    for path, uid in paths.items():
        assert (root / path).read_bytes()[-len(whole[uid]) - 4 :].endswith(whole[uid])
        assert len((root / path).read_bytes()) - len(whole[uid]) < 600
    assert {str(path.relative_to(root)) for path in spool.instances.rglob("*.*")} == set(paths)
    assert list(scan(spool, lambda _: set(paths), lambda _: False, summarize)) == []
    return set(paths.values())


def test_every_instance_is_acknowledged_where_the_power_stays_on(tmp_path: Path) -> None:
    """The stage itself: it lets all through, so that the test before this one sees every moment of a store."""
    with receiving(tmp_path, sent(3, each=2)) as (turns, disk, receiver, associations):
        calls = 0
        while turns.ready():
            turns.give(turns.ready()[calls % len(turns.ready())])
            calls += 1
        assert len(set().union(*(each.acknowledged() for each in associations))) == 6
        assert len(disk.synced) == 6
        assert 6 * 14 < calls < 6 * 20
        assert len(receiver.pending._arrivals) == 6


def test_an_adopted_file_has_its_name_for_good_before_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, done = Spool(tmp_path), []
    instance = spool.open(b"")
    instance.discard()
    with receiving(tmp_path, sent(1, each=1)) as (turns, _, _, _):
        while turns.ready():
            turns.give(turns.ready()[0])
    (kept,) = tmp_path.rglob("*.dcm")
    kept.rename(kept.with_suffix(".part"))
    monkeypatch.setattr(scans, "sync_folder", lambda folder: done.append((folder, kept.exists())))
    for _ in scan(spool, lambda _: set(), lambda _: False, summarize):
        assert done == [(kept.parent, True)]


def test_a_part_that_was_never_whole_is_not_adopted_wherever_it_was_cut(tmp_path: Path) -> None:
    """A cut between two elements leaves what looks like a data set."""
    data = image("1.2.3")
    looks_whole = 0
    for cut in range(1, len(data), 2):
        spool = Spool(tmp_path)
        incoming = spool.open(FileMeta(CT, EXPLICIT, "PACS", "RADNODE").encode("1.2.3"))
        incoming.write(memoryview(data)[: len(data) - cut + cut % 2])
        path = tmp_path / next(tmp_path.rglob("*.part"))
        with suppress(NotDicomError):
            looks_whole += bool(summarize(path))
        os.close(incoming.fd)
        assert list(scan(spool, lambda _: set(), lambda _: False, summarize)) == []
        assert not path.exists()
    assert looks_whole > 100


# ---- processes that are killed -------------------------------------------------------------------------------------


class Pusher(threading.Thread):
    """Pushes instances of a study of its own until told to stop, and writes down which were acknowledged."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.port, self.chance = port, random.Random(seed)
        self.stop = threading.Event()
        self.acknowledged: dict[str, str] = {}
        self.associations = 0
        self.unexpected: list[str] = []
        self._series = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                with Peer(self.port) as peer:
                    self._push(peer)
            except (OSError, EOFError):
                time.sleep(0.05)  # the receiver was killed: a PACS comes again, and so does this one

    def _push(self, peer: Peer) -> None:
        kind, _ = peer.send(request()).pdu()
        if kind != 2:
            return
        self.associations += 1
        while not self.stop.is_set():
            uid = generate_uid()
            pixels = self.chance.randbytes(self.chance.choice((1000, 33_000, 300_000)) // 2 * 2)
            data = data_set(uid, PixelData=pixels, **self._series)
            status = peer.store(uid, data).status
            if status:
                self.unexpected.append(f"{status:04X}")
            else:
                self.acknowledged[uid] = hashlib.sha256(data).hexdigest()
        peer.release()


@contextmanager
def pushing(node: Node, count: int = 4) -> Iterator[list[Pusher]]:
    pushers = [Pusher(node.port, seed) for seed in range(count)]
    for each in pushers:
        each.start()
    try:
        yield pushers
    finally:
        for each in pushers:
            each.stop.set()
        for each in pushers:
            each.join(30)


def receivers(node: Node) -> list[int]:
    return [pid for pid in node.pids() if b"radnode.run.receiving" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def acknowledged(pushers: list[Pusher]) -> dict[str, str]:
    return {uid: digest for each in pushers for uid, digest in list(each.acknowledged.items())}


def in_ledger(node: Node) -> dict[str, str]:
    """Path -> SOP Instance UID."""
    ledger = Ledger(node.home)
    with ledger.read() as tx:
        rows = tx.execute(select(schema.instance.c.path, schema.instance.c.sop_instance_uid)).all()
    ledger.close()
    return {row.path: row.sop_instance_uid for row in rows}


def data_set_digest(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha256(data[144 + int.from_bytes(data[140:144], "little") :]).hexdigest()


def assert_nothing_is_lost(node: Node, wanted: dict[str, str]) -> None:
    """Every acknowledged instance lies in the spool byte for byte and in the ledger; nothing else lies half there."""
    spool = node.home / "spool"
    until(lambda: wanted.keys() <= set(in_ledger(node).values()), "all that was acknowledged is in the ledger")
    until(lambda: not list((spool / "instances").rglob("*.part")), "what dead receivers left is cleared")
    until(lambda: {f"{each.relative_to(spool)}" for each in spool.glob("instances/**/*.dcm")} == set(in_ledger(node)),
          "spool and ledger say the same")  # fmt: skip
    found = {uid: data_set_digest(spool / path) for path, uid in in_ledger(node).items()}
    assert {uid: found[uid] for uid in wanted} == wanted
    assert list((spool / "quarantine").iterdir()) == []


def test_receivers_killed_under_load_and_then_the_whole_node_lose_nothing_acknowledged(
    start_node: Callable[..., Node],
) -> None:
    node = start_node("complete: {series: 1h, study: 1h}\nrules: []\n")
    chance = random.Random(2026)
    with pushing(node) as pushers:
        for _ in range(6):
            before = sum(each.associations for each in pushers)
            until(lambda n=before: len(receivers(node)) == 2, "both receivers live")
            time.sleep(chance.uniform(0.1, 0.6))
            os.kill(chance.choice(receivers(node)), signal.SIGKILL)
        time.sleep(chance.uniform(0.2, 0.8))
        node.kill()
        first = acknowledged(pushers)
        node.start()
        until(lambda: len(acknowledged(pushers)) > len(first) + 20, "the senders have come back")
    assert len(first) > 100
    assert not {status for each in pushers for status in each.unexpected}
    assert sum(each.associations for each in pushers) > len(pushers)
    assert_nothing_is_lost(node, acknowledged(pushers))
