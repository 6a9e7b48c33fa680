"""How parts are told to stop, and end with their parent: whenever that happens."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_AT_EVERY_MOMENT = """
import signal, sys
from radnode.run.lifeline import SignalEvent

def at_moment(number, action):
    "Does it, and is interrupted by SIGTERM before its bytecode of that number; False: it has no more of them."
    event, left = SignalEvent(), [number]
    signal.signal(signal.SIGTERM, lambda *_: event.set())
    def trace(frame, kind, _):
        frame.f_trace_opcodes = True
        if kind == "opcode":
            if left[0] == 0:
                signal.raise_signal(signal.SIGTERM)
            left[0] -= 1
        return trace
    sys.settrace(trace)
    action(event)
    sys.settrace(None)
    assert left[0] >= 0 or event.is_set()
    return left[0] < 0

signal.alarm(60)  # ends a process that waits for itself
number = 0
while at_moment(number, lambda event: ACTION):
    number += 1
print(number)
"""


@pytest.mark.parametrize("action", ["event.wait(0.001)", "event.set()"])
def test_a_signal_is_heard_at_every_moment_of_a_wait_and_of_another_signals_handler(action: str) -> None:
    command = [sys.executable, "-c", _AT_EVERY_MOMENT.replace("ACTION", action)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


_PARENT_DIES_AS_A_PART_STARTS = """
import os, signal, subprocess, time
from radnode.run import supervisor
from radnode.run.lifeline import StopSignal

real, parent = supervisor.end_with_parent, os.getpid()

def die():
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.001)

def between_fork_and_exec(pid):
    if "MOMENT" == "before": die()
    real(pid)
    if "MOMENT" == "after": die()

supervisor.end_with_parent = between_fork_and_exec
stop = StopSignal()  # its handler is inherited, and forgotten at exec
supervisor.Part("part", ["echo", "it lives on"]).start()
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_part_that_was_about_to_start_when_its_supervisor_was_killed_does_not_live_on(moment: str) -> None:
    command = [sys.executable, "-c", _PARENT_DIES_AS_A_PART_STARTS.replace("MOMENT", moment)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, b"", b"")
