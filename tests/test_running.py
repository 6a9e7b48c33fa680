"""A running job, seen and stopped from outside: progress, cancel, limits, and two owners that never are."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.peers import Node, until
from tests.road import QUICK, apps_folder, events, job_in, push, small_ct, study
from tests.test_life import PARTS, command, pids_of

APP = """\
import pathlib, time, radnode

class SlowOptions(radnode.AppOptions):
    memory_mib: int = 0

class Slow(radnode.App[SlowOptions]):
    name, version = "slow", "1"
    resources = radnode.Resources(memory=256, concurrent=1)

    def process(self, series, options):
        self.progress("thinking", 0.25)
        data = b"x" * (options.memory_mib << 20)
        while True:
            time.sleep(0.1)
            if pathlib.Path("go-on").exists():
                return []
"""
RULES = QUICK + """\
rules:
  - {name: slow, app: slow, send_to: [], when: {SeriesDescription: "*STD*"}}
  - {name: huge, app: slow, send_to: [], when: {SeriesDescription: "HUGE"}, options: {memory_mib: 600}}
"""
pytestmark = pytest.mark.timeout(400)
_seeds = count(7000)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("running")
    with Node(folder / "node", RULES, apps=apps_folder(folder / "apps", slow=APP)) as running:
        yield running
        print(running.output()[-20_000:])


def at_work(node: Node, job: str) -> list[int]:
    """Processes whose working folder is the job's."""
    found = []
    for pid in node.pids():
        try:
            if job in str(Path(f"/proc/{pid}/cwd").readlink()):
                found.append(pid)
        except OSError:
            continue
    return found


def test_a_running_job_shows_its_progress_and_a_cancel_ends_it_at_once_without_a_trace(
    node: Node, tmp_path: Path
) -> None:
    job = job_in(node, push(node, small_ct(tmp_path / "in", next(_seeds))), "running")
    until(lambda: node.json("job", job["id"])["progress"] == "thinking (25%)", "its progress is shown")
    assert "thinking (25%)" in node.cli("job", job["id"])
    assert node.json("job", job["id"])["log"] == "thinking (25%)"
    assert at_work(node, job["id"])
    node.cli("cancel", job["id"])
    started = time.monotonic()
    until(lambda: not at_work(node, job["id"]), "its process is gone")
    print(f"gone {time.monotonic() - started:.2f} s after the command returned")
    until(lambda: not list((node.home / "spool" / "work").glob("worker-*")), "its folder is gone")
    assert node.json("job", job["id"])["state"] == "cancelled"


def test_a_job_over_its_memory_limit_fails_with_the_reason_and_can_be_retried(node: Node, tmp_path: Path) -> None:
    uid = push(node, small_ct(tmp_path / "in", next(_seeds), SeriesDescription="HUGE"))
    job = job_in(node, uid, "failed")
    assert job["error"].startswith("out of memory: more than 256 MiB")
    assert not list((node.home / "spool" / "work").glob("worker-*"))
    node.cli("retry", job["id"])
    assert until(lambda: job_in(node, uid, "failed")["attempt"] == 2, "it has run again")


def test_a_stopped_worker_keeps_its_job_and_goes_on_with_it(node: Node, tmp_path: Path) -> None:
    """Stopped, all its processes, while core looks for dead workers again and again."""
    uid = push(node, small_ct(tmp_path / "in", next(_seeds)))
    job = job_in(node, uid, "running")
    until(lambda: at_work(node, job["id"]), "the app is at work")
    stopped = pids_of(node, "worker") + [pid for pid in node.pids() if PARTS["nursery"] in command(pid)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)  # core looks every two seconds
    still = study(node, uid)["jobs"][0]
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert (still["state"], still["attempt"]) == ("running", 1)
    for pid in at_work(node, job["id"]):
        Path(f"/proc/{pid}/cwd/go-on").touch()
    done = job_in(node, uid, "done")
    assert (done["attempt"], done["crashes"]) == (1, 0)
    assert [len(events(study(node, uid), each)) for each in ("running", "done", "worker lost")] == [1, 1, 0]


def test_an_app_that_may_run_once_at_a_time_does(node: Node, tmp_path: Path) -> None:
    uids = [push(node, small_ct(tmp_path / str(n), next(_seeds))) for n in range(2)]
    states = until(lambda: running_and_waiting(node, uids), "one runs and one waits")
    assert states == ["running", "waiting"]
    for uid in uids:
        node.cli("cancel", study(node, uid)["jobs"][0]["id"])


def running_and_waiting(node: Node, uids: list[str]) -> list[str]:
    states = sorted(job["state"] for uid in uids for job in study(node, uid)["jobs"])
    return states if len(states) == 2 and "running" in states else []
