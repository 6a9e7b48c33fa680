"""Who is alive, and up to where the receivers have flushed: told by locks that the kernel frees, not by clocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from radnode.state.presence import Barrier, Presence, forget, is_alive, present
from tests.peers import until

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from radnode.state.presence import Presence
presence = Presence(Path(sys.argv[1]), "worker-1")
pid = 0
if sys.argv[2] == "with a child":
    pid = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, pass_fds=[presence.fd]).pid
print(pid, flush=True)
time.sleep(60)
"""


def holder(folder: Path, how: str) -> tuple[subprocess.Popen[str], int]:
    """A process that holds worker-1, and the pid of its child."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_part_is_present_from_its_start_to_its_clean_end(tmp_path: Path) -> None:
    part = Presence(tmp_path / "run", "receiver-0")
    assert is_alive(tmp_path / "run", "receiver-0")
    part.leave()
    assert list(present(tmp_path / "run", "")) == []


def test_a_part_killed_by_the_kernel_is_dead_at_once_and_stays_visible_until_it_is_forgotten(tmp_path: Path) -> None:
    process, _ = holder(tmp_path, "alone")
    assert is_alive(tmp_path, "worker-1")
    kill(process)
    assert [(each.name, each.alive) for each in present(tmp_path, "worker-")] == [("worker-1", False)]
    forget(tmp_path, "worker-1")
    assert list(present(tmp_path, "worker-")) == []


def test_a_dead_part_counts_as_alive_for_as_long_as_a_child_of_it_works(tmp_path: Path) -> None:
    process, child = holder(tmp_path, "with a child")
    kill(process)
    assert is_alive(tmp_path, "worker-1")
    os.kill(child, signal.SIGKILL)
    until(lambda: not is_alive(tmp_path, "worker-1"), "the kernel has freed the lock")


def test_a_second_part_of_the_same_name_is_refused(tmp_path: Path) -> None:
    first = Presence(tmp_path, "core")
    with pytest.raises(BlockingIOError):
        Presence(tmp_path, "core")
    first.leave()
    Presence(tmp_path, "core").leave()


def test_the_name_of_a_part_that_died_can_be_taken_again(tmp_path: Path) -> None:
    process, _ = holder(tmp_path, "alone")
    kill(process)
    part = Presence(tmp_path, "worker-1")
    assert is_alive(tmp_path, "worker-1")
    part.leave()


def test_a_living_part_cannot_be_forgotten(tmp_path: Path) -> None:
    part = Presence(tmp_path, "receiver-0")
    forget(tmp_path, "receiver-0")
    assert is_alive(tmp_path, "receiver-0")
    part.leave()
    forget(tmp_path, "receiver-0")


def test_a_part_that_starts_while_others_look_and_bury_the_dead_is_never_lost(tmp_path: Path) -> None:
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            for each in present(tmp_path, ""):
                if not each.alive:
                    forget(tmp_path, each.name)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for each in watchers:
        each.start()
    try:
        for number in range(300):
            part = Presence(tmp_path, f"receiver-{number}")
            assert is_alive(tmp_path, part.name)
            part.leave()
    finally:
        ended.set()
        for each in watchers:
            each.join()


def test_a_receiver_is_past_a_barrier_only_when_it_has_marked_it(tmp_path: Path) -> None:
    barrier, receivers = Barrier(tmp_path), [Presence(tmp_path, f"receiver-{number}") for number in range(2)]
    raised = barrier.raise_()
    receivers[0].mark(Barrier(tmp_path).read())
    assert [each.mark >= raised for each in present(tmp_path, "receiver-")] == [True, False]
    receivers[1].mark(raised)
    assert all(each.mark >= raised for each in present(tmp_path, "receiver-"))
    assert barrier.raise_() > raised
    assert not any(each.mark > raised for each in present(tmp_path, "receiver-"))
    for each in receivers:
        each.leave()


def test_the_barrier_outlives_the_core_that_raised_it(tmp_path: Path) -> None:
    first = Barrier(tmp_path).raise_()
    assert Barrier(tmp_path).raise_() == first + 1
