"""Each long-lived part as a command starts it: logs and metrics first, then the part, until it is told to stop."""

from __future__ import annotations

import dataclasses
import os

from rich.console import Console

from radnode.domain.errors import SettingsError
from radnode.run.lifeline import HangUp, StopSignal
from radnode.settings import Settings
from radnode.telemetry import log, set_up

# Prometheus' client decides at import where values live, so every module that has metrics is imported after `set_up`.


def prepare_home(settings: Settings) -> None:
    """Makes RADNODE_HOME. Raises SettingsError where it cannot be written."""
    try:
        settings.run.mkdir(parents=True, exist_ok=True)
        probe = settings.run / ".writable"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # all parts do this at once
    except OSError as error:
        user = os.geteuid() if hasattr(os, "geteuid") else "this user"
        raise SettingsError(
            f"RADNODE_HOME={settings.home} cannot be written: {error.strerror}",
            remedy=f"make the folder writable for user {user}, or set RADNODE_HOME to another one",
        ) from None


def up(settings: Settings) -> int:
    """The whole node; returns the exit code."""
    prepare_home(settings)
    set_up(settings, "supervisor")
    from radnode.run import live, node  # noqa: PLC0415

    stop = StopSignal()
    hung_up = HangUp()
    whole = node.Node(settings)
    announced = False

    def each_turn() -> bool:
        nonlocal announced
        if not announced and whole.ready():
            announced = True
            node.announce(whole.settings)
        return hung_up.then(lambda: live.reload(settings))

    code = whole.run(stop, each_turn)
    log().info("stopped")
    return code


def demo(settings: Settings, out: Console) -> int:
    """The whole node with a sink PACS, one phantom pushed through it; returns 0 when its results have arrived."""
    settings = dataclasses.replace(settings, home=settings.home / "demo", log_level="warning")
    prepare_home(settings)
    set_up(settings, "supervisor")
    from radnode.run import demo  # noqa: PLC0415

    return demo.run(settings, StopSignal(), out)


def receive(settings: Settings) -> int:
    prepare_home(settings)
    set_up(settings, "receive")
    from radnode.run import receiving  # noqa: PLC0415

    return receiving.run(settings, StopSignal())


def core(settings: Settings) -> int:
    prepare_home(settings)
    set_up(settings, "core")
    from radnode.run.core import Core  # noqa: PLC0415

    Core(settings).run(StopSignal())
    os._exit(0)  # as a worker: a peer that it asks or fetches from would hold it up


def work(settings: Settings, queues: list[str]) -> int:
    from radnode.run.broker import QUEUES  # noqa: PLC0415

    if unknown := set(queues) - set(QUEUES) or not queues:
        raise SettingsError(f"unknown queues: {unknown}", remedy=f"--queues takes any of {','.join(QUEUES)}")
    prepare_home(settings)
    set_up(settings, "worker")
    from radnode.run.worker import Worker  # noqa: PLC0415

    Worker(settings, queues).run(StopSignal())
    os._exit(0)  # all is given back, and a peer that hangs would keep pynetdicom's threads here for minutes
