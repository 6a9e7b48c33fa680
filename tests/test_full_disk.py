"""A disk that fills: what was acknowledged stays, nobody is thrown out, and all goes on when there is room again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from radnode.testing.sink import SinkPacs
from tests.peers import Node, until
from tests.receiving import AC, NO_DATA_SET, RJ, Peer, command, data_set, pdu, pdv, request
from tests.road import QUICK, apps_folder, destinations, job_in, push, settled, small_ct
from tests.small_disk import SmallDisk, small_disk
from tests.test_power_loss import acknowledged, assert_nothing_is_lost, in_ledger, pushing

MIB = 1 << 20
OUT_OF_RESOURCES, TRANSIENT = 0xA700, (2, 3, 2)
QUIET = "complete: {series: 1h, study: 1h}\nrules: []\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with ExitStack() as stack:
        try:
            yield stack.enter_context(small_disk(tmp_path / "disk", 96))
        except PermissionError as fault:
            pytest.skip(str(fault))


@pytest.fixture
def start(disk: SmallDisk) -> Iterator[Callable[..., Node]]:
    """Starts a node whose home, log and all lie on the small disk."""
    nodes: list[Node] = []

    def start(routing: str, **options: object) -> Node:
        nodes.append(Node(disk.root / f"node{len(nodes)}", routing, start=False, **options))  # type: ignore[arg-type]
        nodes[-1].start()
        until(lambda: nodes[-1].output().count('"receiver ready"') == 2, "both receivers are ready")
        return nodes[-1]

    yield start
    for node in nodes:
        print(node.output()[-20_000:])
        node.stop()


def store(peer: Peer, size: int = 500_000, **changes: object) -> tuple[str, int]:
    uid = generate_uid()
    return uid, peer.store(uid, data_set(uid, PixelData=bytes(size), **changes)).status


def echo(peer: Peer) -> int:
    return peer.send(pdu(4, pdv(1, 3, command(uid=None, field=0x0030, data=NO_DATA_SET)))).response().status


def answer(node: Node) -> tuple[int, ...]:
    """To a request: nothing where it is accepted, else result, source and reason (PS3.8 table 9-21)."""
    with Peer(node.port) as peer:
        kind, body = peer.send(request()).pdu()
        assert kind in (AC, RJ)
        return () if kind == AC else tuple(body[1:])


def living_parts(node: Node) -> set[int]:
    return set(node.pids())


def test_a_disk_that_fills_refuses_for_now_and_takes_again_when_there_is_room(
    disk: SmallDisk, start: Callable[..., Node]
) -> None:
    node = start(QUIET)
    before = living_parts(node)
    kept: list[str] = []
    with Peer(node.port) as peer:
        peer.accepted()
        statuses = []
        for uid, status in (store(peer) for _ in itertools.count()):
            statuses.append(status)
            if status:
                break
            kept.append(uid)
        assert statuses[-1] == OUT_OF_RESOURCES
        assert 50 < len(kept) < 200
        disk.fill()
        assert store(peer)[1] == OUT_OF_RESOURCES
        assert echo(peer) == 0
        until(lambda: answer(node) == TRANSIENT, "new associations are rejected for now")
        time.sleep(3)  # all parts have met the full disk by now
        disk.free()
        room(node, kept[:40])
        until(lambda: store(peer)[1] == 0, "the same association stores again")
        until(lambda: answer(node) == (), "new associations are accepted")
        peer.release()
    until(lambda: set(kept) <= set(in_ledger(node).values()), "all that was acknowledged is in the ledger")
    places = {uid: node.home / "spool" / path for path, uid in in_ledger(node).items()}
    assert all(places[uid].stat().st_size > 500_000 for uid in kept[40:])
    assert living_parts(node) == before


def room(node: Node, uids: list[str]) -> None:
    """Removes some instances, as retention would."""
    until(lambda: set(uids) <= set(in_ledger(node).values()), "they are in the ledger")
    for path, uid in in_ledger(node).items():
        if uid in uids:
            (node.home / "spool" / path).unlink()


def test_a_disk_that_is_full_again_and_again_under_load_loses_nothing_acknowledged(
    disk: SmallDisk, start: Callable[..., Node]
) -> None:
    node = start(QUIET)
    before = living_parts(node)
    with pushing(node, 2) as pushers:
        for _ in range(3):
            wanted = len(acknowledged(pushers)) + 5
            until(lambda n=wanted: len(acknowledged(pushers)) > n, "instances are taken")
            disk.fill()
            time.sleep(1.5)
            disk.free()
    assert {status for each in pushers for status in each.unexpected} <= {"A700"}
    assert_nothing_is_lost(node, acknowledged(pushers))
    assert living_parts(node) == before


FILLER = '''
"""Fills the disk with its own scratch file as long as it is told to."""
from pathlib import Path
from radnode import App, SecondaryCapture

class Filler(App):
    name, version = "filler", "1"

    def process(self, series, options):
        if Path(__file__).with_name("fill").exists():
            with open("scratch", "wb") as scratch:
                while True:
                    scratch.write(bytes(1 << 20))
        yield SecondaryCapture.overlay(series.volume(), series.volume() > 60, window=(40, 80))
'''


def test_metrics_have_their_room_on_the_disk_from_the_start(start: Callable[..., Node]) -> None:
    """They are written through maps, and a hole in one is a SIGBUS once the disk is full."""
    node = start(QUIET)
    files = list((node.home / "run" / "metrics").glob("*.db"))
    assert {each.name.partition("-")[0] for each in files} >= {"counter_receiver", "histogram_core", "counter_worker"}
    assert [each.name for each in files if each.stat().st_blocks * 512 < each.stat().st_size] == []


def test_a_job_that_fills_the_disk_fails_alone_and_is_run_again_from_the_originals(
    disk: SmallDisk, start: Callable[..., Node], sink: SinkPacs, tmp_path: Path
) -> None:
    apps = apps_folder(tmp_path / "apps", filler=FILLER)
    (apps / "fill").touch()
    rules = "rules: [{name: filler, app: filler, send_to: [a], when: {Modality: CT}}]\n"
    node = start(QUICK + destinations(a=sink) + rules, apps=apps)
    before = living_parts(node)
    files = small_ct(tmp_path / "ct", 5)
    uid = push(node, files)
    job = job_in(node, uid, "failed")
    assert "No space left on device" in job["error"]
    until(lambda: {answer(node) for _ in range(8)} == {()}, "every receiver has seen that there is room")
    with Peer(node.port) as peer:
        peer.accepted(calling=b"MODALITY")
        until(lambda: store(peer, 1000, Modality="OT")[1] == 0, "what the job took is free again")
        peer.release()
    (apps / "fill").unlink()
    node.cli("retry", job["id"])
    settled(node, uid)
    assert len(sink.uids) == len(set(sink.uids)) == len(files)
    assert before <= living_parts(node)


def test_a_job_that_meets_a_full_disk_is_done_once_there_is_room(
    disk: SmallDisk, start: Callable[..., Node], sink: SinkPacs, tmp_path: Path
) -> None:
    rules = "rules: [{name: test, app: test, send_to: [a], when: {Modality: CT}}]\n"
    node = start(QUICK + destinations(a=sink) + rules)
    before = living_parts(node)
    uid = push(node, small_ct(tmp_path / "ct", 6))
    disk.fill()
    time.sleep(6)  # its series is complete meanwhile, or would be
    assert sink.received == []
    disk.free()
    settled(node, uid)
    assert len(sink.received) == 2
    assert before <= living_parts(node)


def test_jobs_at_work_as_the_disk_fills_are_done_once_there_is_room(
    disk: SmallDisk, start: Callable[..., Node], sink: SinkPacs, tmp_path: Path
) -> None:
    rules = "rules: [{name: test, app: test, options: {sleep: 0.5}, send_to: [a], when: {Modality: CT}}]\n"
    node = start(QUICK + destinations(a=sink) + rules)
    studies = [push(node, small_ct(tmp_path / f"ct{seed}", seed, slices=2)) for seed in range(20, 40)]
    until(lambda: sink.received, "the first are done")
    for _ in range(2):
        disk.fill()
        time.sleep(3)
        disk.free()
        time.sleep(1)
    for uid in studies:
        settled(node, uid)
    assert len(sink.received) == len(set(sink.uids)) == 2 * len(studies)
