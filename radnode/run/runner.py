"""The worker's side of running apps: a child for each job, or one that has loaded its model and stays."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from radnode.domain.app import App
from radnode.run.capacity import Share, Slot
from radnode.run.child import MESSAGE
from radnode.run.environments import ForeignApp
from radnode.run.walls import Walls, missing
from radnode.run.warden import Order
from radnode.settings import Settings, child_environment, private_files
from radnode.telemetry import log

_POLL = 0.2  # seconds between two looks at whether the job is still ours
_NURSERY_SECONDS = 5.0
_IDLE_SECONDS = 300.0
_END_SECONDS = 30.0


@dataclass(frozen=True)
class Ending:
    """How a job ended: `done` (with a manifest), `error` (its own fault), `crashed`, `stopped` (by us), or `lost`
    (killed from outside, with what is around it)."""

    how: str
    detail: str = ""


@dataclass
class Child:
    """A process and its place: a folder of which it sees nothing outside, with `in` for its inputs."""

    app: str
    place: Path
    channel: socket.socket = field(repr=False)
    stays: bool
    slots: tuple[Slot, ...] = ()
    network: bool = False
    alive: bool = True
    idle_since: float = 0.0

    def run(
        self,
        folder: Path,
        log_file: Path,
        timeout: float,
        still_ours: Callable[[], bool],
        told: Callable[[str], None] = lambda text: None,
    ) -> Ending:
        """Has it run the job whose `job.json` lies in `folder`, and waits for the end.

        Args:
            timeout: seconds after which the child is killed.
            still_ours: asked some times a second; False kills the child.
            told: is given what the app says of its progress.
        """
        start = look = time.monotonic()
        with contextlib.suppress(OSError):
            self.channel.send(json.dumps({"folder": str(folder), "log": str(log_file)}).encode())
        while True:
            if select.select([self.channel], [], [], min(_POLL, timeout))[0]:
                message = self._message()
                if "how" in message:
                    self.alive = self.stays and message["how"] not in ("crashed", "lost")
                    return Ending(message["how"], message["detail"])
                told(message["progress"])
            now = time.monotonic()
            if now >= start + timeout:
                self.end()
                return Ending("error", f"over its time limit of {timeout:g} s")
            if now >= look + _POLL:
                look = now
                if not still_ours():
                    self.end()
                    return Ending("stopped", "cancelled, or claimed by another worker")

    def _message(self) -> dict[str, Any]:
        try:
            data = self.channel.recv(MESSAGE)
        except OSError:
            data = b""
        return dict(json.loads(data)) if data else {"how": "lost", "detail": "the processes around it died"}

    def is_well(self) -> bool:
        """Whether it can take another job: one that has something to say unasked has ended."""
        return self.alive and not select.select([self.channel], [], [], 0)[0]

    def end(self) -> None:
        """Kills it, and waits until nothing of it is left."""
        self.alive = False
        with contextlib.suppress(OSError):
            self.channel.settimeout(_END_SECONDS)
            self.channel.shutdown(socket.SHUT_WR)
            while self.channel.recv(MESSAGE):
                pass


class Runner:
    """Starts the nursery, and again when it has died; keeps the children that stay.

    Args:
        name: the worker's, which names its places.
        presence_fd: held by all of its processes, so that its jobs are given back only when all of them are gone.
    """

    def __init__(self, settings: Settings, name: str, places: Path, presence_fd: int) -> None:
        self._settings, self._name, self._places = settings, name, places
        self._presence_fd = presence_fd
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._idle: list[Child] = []
        self._numbers = itertools.count(1)
        self._walled = False

    def start(self) -> None:
        reason = no_walls(self._settings)
        self._walled = not reason
        if reason:
            log().warning("apps are not walled in", reason=reason, remedy="docs/deployment.md, Isolation")
        with self._lock:
            self._ensure()

    @contextmanager
    def child(self, app: type[App[Any]], share: Share, *, network: bool) -> Iterator[Child]:
        """A child for one job: a new one, or one that stays and is free. Raises OSError."""
        child = self._take_idle(app.name, share.slots, network) or self._new(app, share, network)
        try:
            yield child
        except BaseException:
            child.end()
            raise
        finally:
            if child.stays and child.is_well():
                self._put_back(child)
            else:
                self._bury(child)

    def holds(self, slots: Sequence[Slot]) -> bool:
        """Whether a child that stays has its model on these GPU slots."""
        return any(set(map(id, each.slots)) & set(map(id, slots)) for each in self._idle)

    def end_idle(self, seconds: float = _IDLE_SECONDS) -> list[Slot]:
        """Ends children that had no job for so long; returns the GPU slots they had."""
        with self._lock:
            old = [each for each in self._idle if each.idle_since <= time.monotonic() - seconds or not each.is_well()]
            self._idle = [each for each in self._idle if each not in old]
        for each in old:
            self._bury(each)
        return [slot for each in old for slot in each.slots]

    def stop(self) -> None:
        """Ends every child, and the nursery."""
        self.end_idle(0.0)
        with self._lock:
            if self._control is not None:
                self._control.close()
            if self._process is None:
                return
            try:
                self._process.wait(_NURSERY_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _take_idle(self, app: str, slots: tuple[Slot, ...], network: bool) -> Child | None:
        """One that has loaded this app on these slots; another app's that lies on them ends."""
        with self._lock:
            fitting = [e for e in self._idle if (e.app, e.slots, e.network) == (app, slots, network) and e.is_well()]
            ended = [e for e in self._idle if e not in fitting[:1] and any(each in slots for each in e.slots)]
            self._idle = [e for e in self._idle if e not in (*fitting[:1], *ended)]
        for each in ended:
            self._bury(each)
        return fitting[0] if fitting else None

    def _put_back(self, child: Child) -> None:
        _empty(child.place)
        child.idle_since = time.monotonic()
        with self._lock:
            self._idle.append(child)

    def _bury(self, child: Child) -> None:
        child.end()
        child.channel.close()
        shutil.rmtree(child.place, ignore_errors=True)

    def _new(self, app: type[App[Any]], share: Share, network: bool) -> Child:
        place = self._places / f"{self._name}.{next(self._numbers)}"
        (place / "in").mkdir(parents=True)
        stays = app.stays()
        order = Order(
            app=app.name,
            place=str(place),
            memory=app.resources.memory,
            walls=walls_of(self._settings, place, network, app.resources.memory) if self._walled else None,
            command=_program(self._settings, app) if stays else (),
            env=child_environment(self._settings) | {"CUDA_VISIBLE_DEVICES": share.devices} if stays else None,
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            socket.send_fds(self._ensure(), [json.dumps(asdict(order)).encode()], [theirs.fileno()])
        return Child(app.name, place, ours, stays, share.slots, network)

    def _ensure(self) -> socket.socket:
        if self._process is not None and self._control is not None and self._process.poll() is None:
            return self._control
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = (str(theirs.fileno()), str(os.getpid()), str(self._settings.apps))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "radnode.run.nursery", *arguments],
                pass_fds=(theirs.fileno(), self._presence_fd),
                env=child_environment(self._settings),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control = ours
        return ours


def _program(settings: Settings, app: type[App[Any]]) -> tuple[str, ...]:
    own = (app.interpreter, app.place.name) if issubclass(app, ForeignApp) else (sys.executable, "")
    return (own[0], "-m", "radnode.run.child", "{line}", str(settings.apps), app.name, own[1])


def walls_of(settings: Settings, place: Path, network: bool, memory: int) -> Walls:
    """What a child at `place` may see: of the node's folders its place, the apps and the interpreter."""
    hidden = (settings.home, *private_files(settings))
    program = (Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[1])
    shown = [each for each in (settings.apps, *program) if any(each.is_relative_to(every) for every in hidden)]
    return Walls(str(place), tuple(map(str, hidden)), tuple(map(str, shown)), network, memory)


def no_walls(settings: Settings) -> str:
    """Why children cannot be walled in on this machine; empty where they can."""
    with tempfile.TemporaryDirectory(prefix="radnode-walls-") as place:
        (Path(place) / "in").mkdir()
        return missing(walls_of(settings, Path(place), False, 64))


def _empty(place: Path) -> None:
    """Takes all of a job out of a place; the folder `in` stays, which is the child's window on its inputs."""
    for each in place.iterdir():
        if each.name != "in":
            shutil.rmtree(each, ignore_errors=True) if each.is_dir() and not each.is_symlink() else each.unlink()
    for each in (place / "in").iterdir():
        shutil.rmtree(each, ignore_errors=True)
