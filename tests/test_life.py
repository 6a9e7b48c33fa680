"""Starting, ending, and dying: whatever is killed, nothing is lost, nothing is doubled and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from radnode.dicom.scu import Sender, read_outgoing
from radnode.testing.sink import SinkPacs
from tests.peers import Node, Process, listens, until
from tests.road import (
    QUICK,
    apply,
    apps_folder,
    delivery_in,
    destinations,
    events,
    job_in,
    push,
    settled,
    small_ct,
    study,
    study_uid,
    uids,
)

BUSY = """\
import subprocess
import radnode

class Busy(radnode.App):
    name, version = "busy", "1"

    def process(self, series, options):
        print("busy", flush=True)
        subprocess.run(["sleep", "600"])
        yield
"""
PARTS = {  # how the processes are told apart
    "core": "radnode.cli core",
    "worker": "work --queues cpu,gpu",
    "deliverer": "work --queues deliver",
    "nursery": "radnode.run.nursery",
    "receivers": "radnode.run.receiving",
    "receivers' parent": "radnode.cli receive",
    "valkey": "valkey",
}
RADNODE = [sys.executable, "-m", "radnode.cli"]
pytestmark = pytest.mark.timeout(400)  # several starts of a node; on a busy machine each takes its time

_seeds = count(3000)

StartNode = Callable[..., Node]


@pytest.fixture
def seed() -> int:
    return next(_seeds)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SinkPacs]:
    with SinkPacs(tmp_path_factory.mktemp("pacs")) as running:
        yield running


@pytest.fixture
def wounded(node: Node) -> Node:
    """The shared node, recovered from what the test before has done to it."""
    until(lambda: node.ready() and listens(node.port) and len(pids_of(node, "receivers")) == 2, "it has recovered")
    return node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pacs: SinkPacs) -> Iterator[Node]:
    """One node whose parts are killed by test after test."""
    rules = "rules: [{name: wiring, app: test, options: {sleep: 2}, send_to: [a]}]\n"
    with Node(tmp_path_factory.mktemp("life") / "node", destinations(a=pacs) + QUICK + rules) as running:
        yield running
        print(running.output()[-20_000:])


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def pids_of(node: Node, part: str) -> list[int]:
    return [pid for pid in node.pids() if PARTS[part] in command(pid)]


def kill(node: Node, part: str) -> None:
    """SIGKILL, once the part is there."""
    for pid in until(lambda: pids_of(node, part), f"there is a {part}"):
        os.kill(pid, signal.SIGKILL)


def supervisor(node: Node) -> int:
    assert node.process is not None
    return int(node.process.popen.pid)


def busy_node(start_node: StartNode, folder: Path, seed: int) -> tuple[Node, str]:
    """A node with a job that has started a process of its own and never ends, and the job's study."""
    apps = apps_folder(folder / "apps", busy=BUSY)
    node = start_node(QUICK + "rules: [{name: busy, app: busy, send_to: []}]\n", apps=apps)
    uid = push(node, small_ct(folder / "study", seed))
    until(lambda: any("sleep 600" in command(pid) for pid in node.pids()), "the app is at work")
    return node, uid


# ---- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_in_good_order_and_the_running_job_goes_on_after_a_start(
    start_node: StartNode, tmp_path: Path, seed: int, number: signal.Signals
) -> None:
    node, uid = busy_node(start_node, tmp_path, seed)
    assert node.process is not None
    assert node.process.end(number, timeout=60) == 0
    until(lambda: not node.pids(), "no process is left", timeout=10)
    assert '"event": "stopped"' in node.output()
    assert job_in(node, uid, "waiting")["crashes"] == 0
    node.start()
    job = job_in(node, uid, "running")
    assert job["attempt"] == 2


@pytest.mark.parametrize("name", ["rädnode 日本", "100% #1?%41'"])
def test_a_home_may_have_any_name(sink: SinkPacs, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    with Node(folder, destinations(a=sink) + QUICK + "rules: [{name: wiring, app: test, send_to: [a]}]\n") as node:
        settled(node, push(node, small_ct(tmp_path / "study", next(_seeds))))
    assert len(sink.received) == 2


def test_a_killed_supervisor_leaves_no_process_behind(start_node: StartNode, tmp_path: Path, seed: int) -> None:
    node, uid = busy_node(start_node, tmp_path, seed)
    os.kill(supervisor(node), signal.SIGKILL)
    until(lambda: not node.pids(), "no process is left", timeout=60)
    assert not listens(node.port)
    node.start()
    job_in(node, uid, "running")


def test_a_node_started_the_moment_its_supervisor_was_killed_waits_for_the_old_parts_and_works(
    start_node: StartNode, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    rules = "rules: [{name: wiring, app: test, send_to: [a]}]\n"
    node = start_node(destinations(a=sink) + "complete: {series: 4s, study: 5s}\n" + rules)
    files = small_ct(tmp_path / "study", seed)
    with Sender(node.peer) as sender:  # its association stays open: the old receiver lets it end
        assert sender.store(read_outgoing(files[0])).status == 0
        os.kill(supervisor(node), signal.SIGKILL)
        again = Process([*RADNODE, "up"], node.log, cwd=node.folder, env=node.env)
        sender.release()
    again.wait_until(node.ready, "the node is ready")
    node.process = again
    uid = push(node, files)
    found = settled(node, uid)
    assert len(found["jobs"]) == 1
    assert len(sink.uids) == 2


def test_a_second_start_on_the_same_home_is_refused_and_the_first_goes_on(
    wounded: Node, pacs: SinkPacs, tmp_path: Path, seed: int
) -> None:
    before = sorted(wounded.pids())
    with_other_ports = wounded.env | {"RADNODE_PORT": "0", "RADNODE_HTTP_PORT": "0"}
    for env in (wounded.env, with_other_ports):
        second = Process([*RADNODE, "up"], tmp_path / "second.log", cwd=tmp_path, env=env)
        until(lambda p=second: p.popen.poll() is not None, "the second start has ended")
        assert second.popen.returncode == 78
        assert f"a node runs already on RADNODE_HOME={wounded.home}" in second.output()
    assert sorted(wounded.pids()) == before
    arrived = len(pacs.uids)
    settled(wounded, push(wounded, small_ct(tmp_path / "study", seed)))
    assert len(pacs.uids) == arrived + 2


# ---- a part dies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_a_part_killed_while_a_study_is_on_its_road_costs_nothing(
    wounded: Node, pacs: SinkPacs, tmp_path: Path, seed: int, part: str
) -> None:
    """Killed as the study has just been acknowledged, as its job runs, and as its results are being sent."""
    files = small_ct(tmp_path / "study", seed)
    arrived = len(pacs.received)
    pacs.pause()
    uid = push(wounded, files)
    kill(wounded, part)
    job_in(wounded, uid, "running")
    kill(wounded, part)
    delivery_in(wounded, uid, "sending")
    kill(wounded, part)
    pacs.resume()
    found = settled(wounded, uid, timeout=120)
    assert len(found["jobs"]) == len(events(found, "done")) == 1
    assert found["series"][0]["instances"] == len(files)
    assert_once(pacs, arrived, 2, again=part == "deliverer")


def test_what_a_killed_worker_leaves_running_ends_and_its_job_is_run_again(
    start_node: StartNode, tmp_path: Path, seed: int
) -> None:
    node, uid = busy_node(start_node, tmp_path, seed)
    old = [pid for pid in node.pids() if "sleep 600" in command(pid)]
    kill(node, "worker")
    until(lambda: not set(old) & set(node.pids()), "what the app had started is gone")
    until(lambda: study(node, uid)["jobs"][0]["attempt"] == 2, "the job runs again")
    assert len(study(node, uid)["jobs"]) == 1


def test_a_job_that_the_disk_fails_is_run_again_when_the_disk_is_well(
    wounded: Node, pacs: SinkPacs, tmp_path: Path, seed: int
) -> None:
    work = wounded.home / "spool" / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.touch()  # a file where a folder has to be: nothing can be written there
    arrived = len(pacs.received)
    uid = push(wounded, small_ct(tmp_path / "study", seed))
    found = until(lambda: events(study(wounded, uid), "interrupted"), "the job is given back")
    assert study(wounded, uid)["state"] != "attention", found
    work.unlink()
    settled(wounded, uid)
    assert_once(pacs, arrived, 2)


def test_an_app_killed_from_outside_is_run_again(wounded: Node, pacs: SinkPacs, tmp_path: Path, seed: int) -> None:
    uid = push(wounded, small_ct(tmp_path / "study", seed))
    arrived = len(pacs.received)
    job = job_in(wounded, uid, "running")
    child = until(lambda: children_at_work(wounded, job["id"]), "the app is at work")
    os.kill(child[0], signal.SIGKILL)
    found = settled(wounded, uid)
    assert found["jobs"][0]["crashes"] == 1
    assert "SIGKILL" in events(found, "crashed")[0]["error"]
    assert_once(pacs, arrived, 2)


def test_a_sender_whose_receiver_was_killed_comes_back_and_the_series_is_one_job(
    wounded: Node, pacs: SinkPacs, tmp_path: Path, seed: int
) -> None:
    rules = wounded.routing.read_text()
    apply(wounded, rules.replace(QUICK, "complete: {series: 4s, study: 5s}\n"))
    files = small_ct(tmp_path / "study", seed)
    arrived = len(pacs.received)
    with Sender(wounded.peer) as sender:
        assert [sender.store(read_outgoing(each)).status for each in files[:2]] == [0, 0]
        kill(wounded, "receivers")
        uid = push(wounded, files)  # a PACS begins again from the first image
    found = settled(wounded, uid)
    apply(wounded, rules)
    assert len(found["jobs"]) == 1
    assert found["series"][0]["instances"] == len(files)
    assert_once(pacs, arrived, 2)


def test_nothing_is_taken_as_complete_while_nobody_listens(
    wounded: Node, pacs: SinkPacs, tmp_path: Path, seed: int
) -> None:
    """The receivers are stopped for much longer than the quiet time: what the sender still has cannot come in."""
    files = small_ct(tmp_path / "study", seed)
    arrived = len(pacs.received)
    parent, *_ = pids_of(wounded, "receivers' parent")
    push(wounded, files[:2])
    os.kill(parent, signal.SIGSTOP)  # it starts no receiver again
    kill(wounded, "receivers")
    until(lambda: wounded.output().count("receiver died") >= 2, "core has seen it")
    time.sleep(3)
    assert study(wounded, study_uid(files))["series"][0]["state"] == "receiving"
    os.kill(parent, signal.SIGCONT)
    uid = push(wounded, files[2:])
    found = settled(wounded, uid)
    assert len(found["jobs"]) == 1
    assert found["series"][0]["instances"] == len(files)
    assert_once(pacs, arrived, 2)


# ---- everything dies -------------------------------------------------------------------------------------------------


def test_a_node_restarted_while_a_series_is_coming_in_waits_for_the_rest_of_it(
    start_node: StartNode, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    rules = "rules: [{name: wiring, app: test, level: study, send_to: [a]}]\n"
    node = start_node(destinations(a=sink) + "complete: {series: 8s, study: 9s}\n" + rules)
    files = small_ct(tmp_path / "study", seed, slices=6)
    push(node, files[:2])
    node.stop()
    node.start()
    with Sender(node.peer) as sender:
        assert [sender.store(read_outgoing(each)).status for each in files[2:4]] == [0, 0]
        node.kill()
    node.start()
    uid = push(node, files[4:])
    found = settled(node, uid)
    assert len(found["jobs"]) == 1
    assert node.json("job", found["jobs"][0]["id"])["inputs"] == len(files)
    assert_once(sink, 0, 2)


def test_after_a_power_cut_in_the_middle_of_everything_each_result_arrives(
    start_node: StartNode, sink: SinkPacs, tmp_path: Path
) -> None:
    rules = "rules: [{name: wiring, app: test, options: {sleep: 0.5}, send_to: [a]}, {name: copy, send_to: [a]}]\n"
    node = start_node(destinations(a=sink) + QUICK + rules)
    studies = {}
    for round_ in range(3):
        for _ in range(3):
            number = next(_seeds)
            files = small_ct(tmp_path / f"study{number}", number)
            studies[push(node, files)] = files
        until(lambda n=round_: len(sink.uids) > 6 * n, "something is on its way")
        node.kill()
        node.start()
    for uid, files in studies.items():
        found = settled(node, uid, timeout=120)
        assert sorted((each["rule"], each["state"]) for each in found["jobs"]) == [("copy", "done"), ("wiring", "done")]
        assert set(uids(files)) <= set(sink.uids)
    assert_once(sink, 0, len(studies) * (4 + 2), again=True)


def assert_once(sink: SinkPacs, since: int, wanted: int, *, again: bool = False) -> None:
    """`wanted` objects have arrived since, each once; with `again` perhaps more often, but always the same bytes."""
    received = sink.received[since:]
    assert len({each.sop_instance_uid for each in received}) == wanted
    assert len({(each.sop_instance_uid, each.sha256) for each in received}) == wanted
    if not again:
        assert len(received) == wanted


def children_at_work(node: Node, job: str) -> list[int]:
    """The processes whose folder is the job's."""
    found = []
    for pid in node.pids():
        try:
            if job in str(Path(f"/proc/{pid}/cwd").readlink()):
                found.append(pid)
        except OSError:
            continue
    return found
