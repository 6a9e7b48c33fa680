"""What strikes the node: kills, stops, an emptied broker, a sink that is cut off, a full disk, a clock that jumps."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import redis

from scripts.chaos_peers import Sink
from tests.clock import Clock
from tests.peers import Node
from tests.small_disk import SmallDisk

# What is killed, by a piece of the command line; the supervisor restarts each but itself.
TARGETS = {
    "receiver": "radnode.run.receiving",
    "receivers' parent": "radnode.cli receive",
    "core": "radnode.cli core",
    "worker": "radnode.cli work --queues cpu,gpu",
    "deliverer": "radnode.cli work --queues deliver",
    "nursery": "radnode.run.nursery",
    "valkey": "valkey-server",
}
STOPPED_MOST = 90.0  # seconds
CUT_OFF_MOST = 30.0
FULL_MOST = 8.0


class Killer:
    """Strikes one way or another each time it is asked to; counts what it did."""

    def __init__(self, node: Node, sinks: list[Sink], clock: Clock, disk: SmallDisk | None, seed: int) -> None:
        self.node, self.sinks, self.clock, self.disk = node, sinks, clock, disk
        self.random = random.Random(seed)
        self.struck: Counter[str] = Counter()
        self.log: list[str] = []
        self._later: list[threading.Thread] = []
        self._over = threading.Event()

    def strike(self) -> None:
        actions: list[tuple[Callable[[], None], int]] = [
            (self._part, 20),
            (self._app, 6),
            (self._sink, 3),
            (self._cut_off, 1),
            (self._empty_valkey, 2),
            (self._stop_part, 2),
            (self._step_clock, 2),
            (self._supervisor, 1),
            (self._everything, 2),
        ]
        if self.disk is not None:
            actions.append((self._fill_disk, 1))
        chosen = self.random.choices([each for each, _ in actions], [weight for _, weight in actions])[0]
        chosen()

    def rest(self) -> None:
        """Ends what was begun: whoever is stopped goes on, the disk has room, the clock is right."""
        self._over.set()
        for each in self._later:
            each.join()
        self.clock.step(-self.clock.offset)

    @property
    def kills(self) -> int:
        gentle = ("stopped", "emptied", "full", "clock", "cut off")
        return sum(count for what, count in self.struck.items() if not any(word in what for word in gentle))

    def _note(self, what: str) -> None:
        self.struck[what] += 1
        self.log.append(f"{time.strftime('%H:%M:%S')} {what}")

    def _afterwards(self, seconds: float, undo: Callable[[], None]) -> None:
        """In that time, or when all is over; striking goes on meanwhile."""

        def wait() -> None:
            self._over.wait(seconds)
            undo()

        self._later.append(threading.Thread(target=wait, daemon=True))
        self._later[-1].start()

    # ---- kills ---------------------------------------------------------------------------------------------------

    def _part(self) -> None:
        name = self.random.choice(list(TARGETS))
        self._kill(name, self._victims(TARGETS[name]))

    def _app(self) -> None:
        """The process that runs an app: its folder is the job's."""
        self._kill("child", [pid for pid in self._victims(TARGETS["nursery"]) if "spool/work" in folder_of(pid)])

    def _kill(self, name: str, victims: list[int]) -> None:
        if victims:
            send_signal(self.random.choice(victims), signal.SIGKILL)
            self._note(name)

    def _victims(self, marker: str) -> list[int]:
        return [pid for pid in self.node.pids() if marker in command_line(pid)]

    def _sink(self) -> None:
        sink = self.random.choice(self.sinks)
        sink.kill()
        sink.start()
        self._note("sink")

    def _supervisor(self) -> None:
        self._kill("supervisor", self._victims("radnode.cli up"))
        self._restart()

    def _everything(self) -> None:
        self.node.kill()
        self._note("everything")
        self._restart()

    def _restart(self) -> None:
        deadline = time.monotonic() + STOPPED_MOST + 60  # a part that is stopped ends when it goes on
        while self.node.pids() and time.monotonic() < deadline:
            time.sleep(0.1)
        if left := [command_line(pid) for pid in self.node.pids()]:
            raise SystemExit(f"left behind by a killed supervisor: {left}")
        self.node.process = None
        self.node.start()

    # ---- everything else that happens ----------------------------------------------------------------------------

    def _cut_off(self) -> None:
        """A destination that nobody can reach for a while."""
        sink = self.random.choice(self.sinks)
        sink.kill()
        time.sleep(self.random.uniform(0, CUT_OFF_MOST))
        sink.start()
        self._note("sink cut off")

    def _empty_valkey(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            redis.Redis.from_url(f"unix://{valkey_socket(self.node)}", socket_timeout=2).flushall()
            self._note("valkey emptied")

    def _stop_part(self) -> None:
        name = self.random.choice(["receiver", "core", "worker", "deliverer"])
        for pid in self._victims(TARGETS[name])[:1]:
            send_signal(pid, signal.SIGSTOP)
            self._afterwards(self.random.uniform(1, STOPPED_MOST), lambda p=pid: send_signal(p, signal.SIGCONT))  # type: ignore[misc]
            self._note(f"{name} stopped")

    def _step_clock(self) -> None:
        """Never two hours away: between one and the other."""
        self.clock.step(self.random.choice((-3600.0, 3600.0)) if not self.clock.offset else -self.clock.offset)
        self._note("clock stepped")

    def _fill_disk(self) -> None:
        assert self.disk is not None
        self.disk.fill()
        time.sleep(self.random.uniform(1, FULL_MOST))
        self.disk.free()
        self._note("disk full")


def send_signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def folder_of(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


def valkey_socket(node: Node) -> str:
    words = [command_line(pid).split() for pid in node.pids() if "--unixsocket" in command_line(pid)]
    return words[0][words[0].index("--unixsocket") + 1] if words else "/nowhere"
