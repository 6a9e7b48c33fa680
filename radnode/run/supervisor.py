"""Starts the node's parts as processes of their own, restarts one that dies, and ends them all together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from radnode import metrics
from radnode.domain.jobs import backoff
from radnode.run import EXIT_CONFIG
from radnode.run.lifeline import StopSignal, end_with_parent
from radnode.telemetry import log

_STEADY = 30.0  # seconds after which a part counts as having started well
_TERM_SECONDS = 40.0


@dataclass
class Part:
    """One process. `pass_fds` are descriptors it inherits."""

    name: str
    command: list[str]
    env: dict[str, str] | None = None
    pass_fds: Sequence[int] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    failures: int = 0
    started: float = 0.0
    again_at: float = 0.0

    def start(self) -> None:
        """In a session of its own, so that Ctrl-C reaches the supervisor alone, which ends the parts in order."""
        self.process = subprocess.Popen(
            self.command,
            env=self.env,
            pass_fds=tuple(self.pass_fds),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, os.getpid()),  # noqa: PLW1509 - the supervisor has one thread
        )
        self.started = time.monotonic()


class Supervisor:
    """Holds parts in the order in which they start; they end in the reverse order."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, part: Part) -> Part:
        metrics.part_restarts.labels(part.name)  # a count that starts at zero shows its first step
        part.start()
        self.parts.append(part)
        return part

    def watch(self, stop: StopSignal, each_turn: Callable[[], bool] = lambda: False) -> int:
        """Until `stop`, until `each_turn` returns True, or until a part ends for good; returns the exit code."""
        while not stop:
            if each_turn():
                return 0
            for part in self.parts:
                code = self._look_after(part)
                if code is not None:
                    return code
            stop.wait(0.1)
        return 0

    def _look_after(self, part: Part) -> int | None:
        now = time.monotonic()
        if part.process is None:
            if now >= part.again_at:
                part.start()
            return None
        code = part.process.poll()
        if code is None:
            if part.failures and now - part.started > _STEADY:
                part.failures = 0
            return None
        if code == EXIT_CONFIG:
            return code
        part.process, part.failures = None, part.failures + 1
        wait = backoff(part.failures, first=0.25, cap=30.0)
        part.again_at = now + wait
        metrics.part_restarts.labels(part.name).inc()
        log().error("part died", part_name=part.name, exit=_how(code), again_in=wait)
        return None

    def stop(self) -> None:
        """Ends every part, the last one started first; what does not end in time is killed."""
        for part in reversed(self.parts):
            process = part.process
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_TERM_SECONDS)
            except subprocess.TimeoutExpired:
                log().error("part did not end when it was told to, and is killed", part_name=part.name)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else str(code)
