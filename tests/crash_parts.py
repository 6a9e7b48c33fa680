"""What a fork does that is one part of a node: see `tests/crash_bench.py`. The server that forks has imported it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from radnode.domain.routing import Destination
from radnode.run import receiving
from radnode.run.core import Core
from radnode.run.fetching import Fetcher, Wanted
from radnode.run.lifeline import StopSignal
from radnode.run.worker import Worker
from radnode.settings import Settings, load
from radnode.state import crash
from radnode.state.ledger import Ledger
from radnode.state.spool import Spool

Part = Callable[..., NoReturn]


def _set_up(env: Mapping[str, str], log: Path) -> Settings:
    with log.open("ab") as said:
        for fd in (1, 2):
            os.dup2(said.fileno(), fd)
    settings = load(env, log.with_name("no.env"))
    crash.arm(settings.crash_at)
    return settings


def work(env: Mapping[str, str], log: Path) -> NoReturn:
    worker = Worker(_set_up(env, log), ["deliver"])
    worker._deliver()
    worker.deliverer.close()
    worker.presence.leave()
    os._exit(0)


def receive(env: Mapping[str, str], log: Path, port: int) -> NoReturn:
    with socket.create_server(("127.0.0.1", port), backlog=16) as listener:
        receiving.receive(_set_up(env, log), 0, listener, None)
    os._exit(0)


def core(env: Mapping[str, str], log: Path) -> NoReturn:
    Core(_set_up(env, log)).run(StopSignal())
    os._exit(0)


def fetch(env: Mapping[str, str], log: Path, destination: Destination, want: Wanted) -> NoReturn:
    """As core does in a thread of its own; it ends with that."""
    settings = _set_up(env, log)
    Fetcher(Ledger(settings.home), Spool(settings.spool)).fetch(destination, want)
    os._exit(0)
