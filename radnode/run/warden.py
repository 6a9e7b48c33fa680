"""Stands between a worker and one child: keeps its log, watches its memory, and leaves nothing of it behind.

    worker ── socket ── warden ── init ── child ── whatever the app starts
                          └────── line ─────┘

`init` is the first process of the child's own namespaces: with it the kernel ends all that the app has started. Where
there are no namespaces the warden adopts what is orphaned, and ends it. Each of them dies with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from radnode.run import walls
from radnode.run.child import MESSAGE
from radnode.run.joblog import JobLog
from radnode.run.lifeline import die_with_parent

_LOOK = 0.1  # seconds between two looks at the memory
_PAGE = resource.getpagesize()
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Order:
    """What a worker asks the nursery for.

    Attributes:
        app: its name.
        walls: None where the system has none.
        memory: MiB that the child and what it starts may take.
        command: a program to run with `env`, for a child that stays; empty: a fork of the nursery for one job.
    """

    app: str
    place: str
    memory: int
    walls: walls.Walls | None = None
    command: tuple[str, ...] = ()
    env: dict[str, str] | None = None


class Warden:
    """The parent of one child's first process; `run` returns when all is over."""

    def __init__(self, worker: socket.socket, order: Order, start: Callable[[socket.socket], NoReturn]) -> None:
        self._worker, self._order = worker, order
        self._line, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._out, out = os.pipe()
        self._status, status = os.pipe()
        self._log: JobLog | None = None
        self._over = False
        adopt_orphans()
        if order.walls is not None:
            walls.part(order.walls)
        warden = os.getpid()
        self._first = os.fork()
        if self._first == 0:
            for number in (self._out, self._status, worker.fileno(), self._line.fileno()):
                os.close(number)
            die_with_parent(warden if order.walls is None else 0, signal.SIGKILL)  # 0: from inside, who is outside
            _first_process(order, out, status, lambda: start(childs))
        childs.close()
        os.close(out)
        os.close(status)
        self._spare = _memory([os.getpid()])  # a fork shares this with the nursery

    def run(self) -> None:
        next_look = 0.0
        while True:
            watched: list[Any] = [self._worker, self._line, self._out]
            ready = select.select(watched, [], [], _LOOK)[0]
            if self._out in ready and not self._pass_on_output():
                return self._ended()
            if self._line in ready and not self._pass_on_message():
                return self._ended()
            if self._worker in ready and not self._take_request():
                return end_children()
            if time.monotonic() >= next_look:
                if self._too_big():
                    return self._tell("error", f"out of memory: more than {self._order.memory} MiB")
                next_look = time.monotonic() + _LOOK

    def _take_request(self) -> bool:
        """The next job; False where the worker wants the child to end, or has gone itself."""
        request = self._worker.recv(MESSAGE)
        if not request:
            return False
        self._close_log()
        with contextlib.suppress(OSError):
            self._log = JobLog(Path(json.loads(request)["log"]))
        self._line.send(request)
        return True

    def _pass_on_output(self) -> bool:
        """What the app printed goes to the log; False once no process is left that could print."""
        data = os.read(self._out, 1 << 16)
        if data and self._log is not None:
            self._log.write(data)
        return bool(data)

    def _pass_on_message(self) -> bool:
        message = self._line.recv(MESSAGE)
        if not message:
            return False
        told = json.loads(message)
        if "progress" in told:
            self._worker.send(message)
        else:
            if not self._order.command:
                end_children()  # of a child for one job nothing goes on when its results are taken
            self._drain()
            self._tell(told["how"], told["detail"])
        return True

    def _drain(self) -> None:
        while select.select([self._out], [], [], 0)[0] and self._pass_on_output():
            pass

    def _ended(self) -> None:
        """The child is gone, or has closed all that ties it to us, which comes to the same."""
        end_children()
        self._drain()
        status = os.read(self._status, 64)
        self._tell(*_reason(status.decode(), self._order.memory, self._log.last if self._log else b""))

    def _tell(self, how: str, detail: str) -> None:
        if not self._over:
            with contextlib.suppress(OSError):
                self._worker.send(json.dumps({"how": how, "detail": detail}).encode())
        self._over = not self._order.command
        self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
        self._log = None

    def _too_big(self) -> bool:
        if not self._order.memory:
            return False
        family = _descendants(self._first)
        limit = self._order.memory << 20
        if _memory(family) - self._spare * (not self._order.command) <= limit:
            return False
        if _proportional(family) <= limit:  # pages that a fork of the app shares were counted twice
            return False
        end_children()
        return True


def _first_process(order: Order, out: int, status: int, start: Callable[[], NoReturn]) -> NoReturn:
    """Builds the walls, starts the child in them, and says how it ended; never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # short of memory the system takes a job, not the node
            Path("/proc/self/oom_score_adj").write_text("1000")
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        if order.walls is not None:
            walls.enclose(order.walls)
        first = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(status)
            die_with_parent(first, signal.SIGKILL)
            _prepare_child(order)
            start()
        while True:
            pid, how = os.wait()
            if pid == child:
                os.write(status, str(how).encode())
                code = 0
                break
    except BaseException as fault:  # noqa: BLE001 - this process must never return into the nursery's code
        os.write(2, f"the process of the app broke: {fault!r}\n".encode())
    finally:
        os._exit(code)


def _prepare_child(order: Order) -> None:
    os.setsid()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(order.place)


def _reason(status: str, memory: int, last: bytes) -> tuple[str, str]:
    """How a child ended that has not said so itself."""
    if not status:
        return "lost", "killed from outside"
    code = os.waitstatus_to_exitcode(int(status))
    if code == -signal.SIGABRT and b"bad_alloc" in last:
        return "error", f"out of memory: more than {memory} MiB"
    if code < 0:
        return "crashed", f"killed by {signal.Signals(-code).name}"
    return "crashed", f"exited with code {code}"


def adopt_orphans() -> None:
    """Processes that lose their parent below this one become its children (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children(but: frozenset[int] = frozenset()) -> None:
    """Kills and reaps the children of this process, and what they leave to it, until there is none."""
    while children := set(_children(os.getpid())) - but:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    """The processes below `pid`."""
    found = _children(pid)
    for each in found:
        found += _children(each)
    return found


def _memory(pids: list[int]) -> int:
    """Bytes that processes have of their own in memory."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
            total += (int(resident) - int(shared)) * _PAGE
    return total


def _proportional(pids: list[int]) -> int:
    """The same, with shared pages counted once: exact, and slow."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss_Anon:"))
    return total


def order_of(message: dict[str, Any]) -> Order:
    """From JSON."""
    built = message["walls"]
    if built is not None:
        built = walls.Walls(**{**built, "hidden": tuple(built["hidden"]), "shown": tuple(built["shown"])})
    return Order(**{**message, "walls": built, "command": tuple(message["command"])})
