"""Runs each job in a child process of its own, forked from a warm parent that has only imported the apps.

    worker ── control socket ──► nursery (single-threaded, warm) ── fork ──► child (own session, limits, log)
       └──────── one socket per job: started, ended; kill ◄────────┘

The nursery is a process apart because a worker has threads, and forking a process with threads can hang. It opens no
ledger and no broker, and its environment holds none of their secrets. Whatever dies, its children die with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radnode import models
from radnode.domain.app import App
from radnode.domain.errors import RadnodeError
from radnode.domain.jobs import Assignment, SeriesLabel
from radnode.run import apps as app_finder
from radnode.run.lifeline import die_with_parent
from radnode.settings import Settings, environment, inherited, secret_variables

_POLL = 0.5  # seconds between two looks at whether the job is still ours
_NURSERY_SECONDS = 5.0
_APP_ERROR = 1
_LONGEST_ERROR = 4000
LOG, JOB, OUT, ERROR, MODELS = "job.log", "job.json", "out", "error.txt", "models.json"
REFUSED = "refused"  # in OUT: results that failed their check, with reasons


@dataclass(frozen=True)
class Ending:
    """How a child ended: `done` (with a manifest), `error` (the app raised), `crashed`, `timeout` or `stopped`."""

    how: str
    detail: str = ""


class Runner:
    """The worker's side: starts the nursery, and again when it has died."""

    def __init__(self, settings: Settings, presence_fd: int) -> None:
        self._settings = settings
        self._presence_fd = presence_fd
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        with self._lock:
            self._ensure()

    def run(self, folder: Path, timeout: float, memory: int, still_ours: Callable[[], bool]) -> Ending:
        """Runs the job whose `job.json` lies in `folder`, and waits for its end.

        Args:
            timeout: seconds after which the child is killed.
            memory: MiB of address space beyond what the warm parent has.
            still_ours: asked about twice a second; False kills the child.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            request = json.dumps({"folder": str(folder), "memory": memory}).encode()
            with self._lock:
                control = self._ensure()
                socket.send_fds(control, [request], [theirs.fileno()])
            theirs.close()
            return _wait(ours, folder, timeout, still_ours)

    def stop(self) -> None:
        """Ends the nursery and with it every child."""
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

    def _ensure(self) -> socket.socket:
        if self._process is not None and self._control is not None and self._process.poll() is None:
            return self._control
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "radnode.run.runner",
                    str(theirs.fileno()),
                    str(os.getpid()),
                    str(self._settings.apps),
                ],
                pass_fds=(theirs.fileno(), self._presence_fd),
                env=inherited(without=secret_variables()) | _public(self._settings),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control = ours
        return ours


def _public(settings: Settings) -> dict[str, str]:
    return {key: value for key, value in environment(settings).items() if key not in secret_variables()}


def _wait(ours: socket.socket, folder: Path, timeout: float, still_ours: Callable[[], bool]) -> Ending:
    deadline = time.monotonic() + timeout
    stopping: Ending | None = None
    while True:
        readable, _, _ = select.select([ours], [], [], max(min(_POLL, deadline - time.monotonic()), 0))
        if readable:
            message = ours.recv(4096)
            return stopping or _ending(message.decode(), folder)
        if stopping is None and time.monotonic() >= deadline:
            stopping = Ending("timeout", f"over its time limit of {timeout:g} s")
        elif stopping is None and not still_ours():
            stopping = Ending("stopped", "cancelled, or claimed by another worker")
        if stopping is not None:
            with contextlib.suppress(OSError):
                ours.send(b"kill")
            deadline = float("inf")


def _ending(message: str, folder: Path) -> Ending:
    """From what the nursery said: the wait status, or nothing where the nursery itself died."""
    if not message:
        return Ending("crashed", "its parent process died")
    code = os.waitstatus_to_exitcode(int(message))
    if code == 0:
        return Ending("done")
    if code < 0:
        return Ending("crashed", f"killed by {signal.Signals(-code).name}")
    error = (folder / ERROR).read_text(errors="replace").rstrip() if (folder / ERROR).exists() else ""
    if code == _APP_ERROR and error:
        return Ending("error", error)
    return Ending("crashed", f"exited with code {code}")


# ---- the nursery's side -------------------------------------------------------------------------------------------


def nursery(control: socket.socket, catalog: app_finder.Catalog) -> None:
    """Forks a child per request until the worker closes its end, or dies: then kills all that the children started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    children: dict[int, socket.socket] = {}
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        readable, _, _ = select.select(
            [control.fileno(), wake_read, *(each.fileno() for each in children.values())], [], []
        )
        if wake_read in readable:
            os.read(wake_read, 4096)
        if control.fileno() in readable:
            request, descriptors, _, _ = socket.recv_fds(control, 65536, 1)
            if not request:
                _kill(*children)
                return
            channel = socket.socket(fileno=descriptors[0])
            children[_fork(json.loads(request), catalog, [control, channel, *children.values()])] = channel
        for pid, channel in list(children.items()):
            if channel.fileno() in readable:
                _kill(pid)
        _reap(children)


def _fork(request: dict[str, Any], catalog: app_finder.Catalog, not_the_childs: list[socket.socket]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = _APP_ERROR
    try:
        for each in not_the_childs:
            each.close()
        die_with_parent(parent, signal.SIGKILL)
        code = _child(Path(request["folder"]), request["memory"], catalog)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()  # what the app printed belongs into its log; `_exit` would drop it
        os._exit(code)


def _reap(children: dict[int, socket.socket]) -> None:
    for pid in list(children):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        _kill(pid)  # what the child itself started goes with it, while the dead child still holds its number
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError), children.pop(pid) as channel:
            channel.send(str(status).encode())


def _kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _child(folder: Path, memory: int, catalog: app_finder.Catalog) -> int:
    """One job, from `job.json` to `out/manifest.json`; the exit code."""
    _confine(folder, memory)
    from radnode.run.process import process  # noqa: PLC0415 - imported by the nursery already

    try:
        assignment = read_assignment(folder)
        process(_instance(catalog, assignment.app), assignment, folder / OUT, _say)
    except MemoryError:
        return _report(folder, f"out of memory: more than {memory} MiB")
    except RadnodeError as error:
        return _report(folder, str(error))
    except BaseException as error:  # noqa: BLE001 - the app is a stranger: whatever it raises fails its job, not the node
        return _report(folder, f"{type(error).__name__}: {error}")
    finally:
        _tell_usage(folder)
    return 0


def _tell_usage(folder: Path) -> None:
    """What models were asked: also where the app failed, which may have been their fault."""
    with contextlib.suppress(OSError):
        (folder / MODELS).write_text(json.dumps([vars(each) for each in models.usage()]))


def _instance(catalog: app_finder.Catalog, name: str) -> App[Any]:
    app = catalog.get(name)()
    app.load()
    return app


def _confine(folder: Path, memory: int) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for each in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # in the order in which it was said
    os.chdir(folder)
    limit = _address_space() + memory * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # short of memory the system takes a job, not the node


def _address_space() -> int:
    """Bytes of address space that the warm parent's imports take already."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _report(folder: Path, text: str) -> int:
    with (folder / ERROR).open("r+b") as file:
        file.write(text.encode(errors="replace")[:_LONGEST_ERROR])
    with contextlib.suppress(OSError):
        traceback.print_exc()
    return _APP_ERROR


def write_assignment(folder: Path, assignment: Assignment) -> None:
    fields = {**vars(assignment), "label": vars(assignment.label)}
    (folder / JOB).write_text(json.dumps(fields))
    (folder / ERROR).write_bytes(b" " * _LONGEST_ERROR)  # room to say that the disk is full


def read_assignment(folder: Path) -> Assignment:
    fields = json.loads((folder / JOB).read_text())
    return Assignment(**{**fields, "label": SeriesLabel(**fields["label"])})


def main(fd: int, parent: int, apps: Path) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from radnode.run import process  # noqa: PLC0415 - warms up: pydicom, highdicom, SimpleITK

    process.warm_up()
    catalog = app_finder.find(apps)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page it shares with this process
    with socket.socket(fileno=fd) as control:
        nursery(control, catalog)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
