"""A warm, single-threaded process that has imported the apps: every child is forked from it.

    worker ── control socket ──► nursery ── fork ──► warden ──► child        (see `warden.py`)

It is a process apart because a worker has threads, and forking a process with threads can hang. It opens no ledger and
no broker, and its environment holds none of their secrets. Whatever dies, its children die with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from radnode.domain.app import App
from radnode.run import apps as app_finder
from radnode.run.child import MESSAGE, limit_memory, serve
from radnode.run.lifeline import die_with_parent
from radnode.run.warden import Order, Warden, adopt_orphans, end_children, order_of


def tend(control: socket.socket, catalog: app_finder.Catalog) -> None:
    """Forks a warden per order until the worker closes its end, or dies: then ends all there is."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    adopt_orphans()
    wardens: set[int] = set()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        readable, _, _ = select.select([control.fileno(), wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
        if control.fileno() in readable:
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 1)
            if not message:
                return end_children()
            with socket.socket(fileno=descriptors[0]) as worker:
                wardens.add(_fork(order_of(json.loads(message)), worker, catalog, [control.fileno(), wake_read]))
        for pid in list(wardens):
            if os.waitpid(pid, os.WNOHANG)[0]:
                wardens.discard(pid)
        end_children(but=frozenset(wardens))  # what wardens that were killed have left


def _fork(order: Order, worker: socket.socket, catalog: app_finder.Catalog, not_its_own: list[int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in not_its_own:
            os.close(each)
        os.setsid()
        signal.signal(signal.SIGTERM, _end_in_order)
        die_with_parent(parent, signal.SIGTERM)
        Warden(worker, order, partial(_start, order, catalog)).run()
    except BaseException as fault:  # noqa: BLE001 - this process must never return into the nursery's loop
        _tell(worker, f"no child could be started: {fault}")
    finally:
        os._exit(0)


def _end_in_order(*_: object) -> NoReturn:
    """The nursery was killed: a warden takes all of its child's processes along."""
    end_children()
    os._exit(1)


def _tell(worker: socket.socket, fault: str) -> None:
    with contextlib.suppress(OSError):
        worker.send(json.dumps({"how": "crashed", "detail": fault}).encode())


def _start(order: Order, catalog: app_finder.Catalog, line: socket.socket) -> NoReturn:
    """The innermost process: this one goes on with one job, or becomes the program that stays."""
    if order.command:
        os.set_inheritable(line.fileno(), True)
        command = [each.replace("{line}", str(line.fileno())) for each in order.command]
        os.execve(command[0], command, order.env or {})  # noqa: S606 - no shell
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # in the order in which it was said
    limit_memory(order.memory)
    serve(line, partial(_instance, catalog, order.app), order.memory)
    os._exit(0)


def _instance(catalog: app_finder.Catalog, name: str) -> App[Any]:
    app = catalog.get(name)()
    app.load()
    return app


def main(fd: int, parent: int, apps: Path) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from radnode.run import process  # noqa: PLC0415 - warms up: pydicom, highdicom, SimpleITK

    process.warm_up()
    catalog = app_finder.find(apps)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page it shares with this process
    with socket.socket(fileno=fd) as control:
        tend(control, catalog)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
