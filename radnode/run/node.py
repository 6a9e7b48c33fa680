"""The whole node on one machine: embedded Valkey, core, receivers and workers under one supervisor."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from radnode.domain.errors import SettingsError
from radnode.run import broker, live
from radnode.run.lifeline import StopSignal
from radnode.run.supervisor import Part, Supervisor
from radnode.settings import Settings, environment, inherited
from radnode.state.presence import Presence, present
from radnode.telemetry import forget_metrics, log

_OLD_PARTS_SECONDS = 60.0


class Node:
    """The parts of a node on one machine."""

    def __init__(self, settings: Settings) -> None:
        self.embedded = not settings.redis_url
        if self.embedded:
            settings = dataclasses.replace(settings, redis_url=broker.embedded_url(settings))
        self.settings = settings
        self.supervisor = Supervisor()

    def run(self, stop: StopSignal, each_turn: Callable[[], bool] = lambda: False) -> int:
        """Until `stop`, or until `each_turn` returns True; returns the exit code."""
        with ExitStack() as stack:
            stack.enter_context(_alone(self.settings))
            stack.callback(self.supervisor.stop)
            self._start()
            return self.supervisor.watch(stop, each_turn)

    def _start(self) -> None:
        live.begin(self.settings)
        if self.embedded:
            presence = Presence(self.settings.run, "valkey")  # held by the server too: it outlives a killed supervisor
            self.supervisor.add(Part("valkey", broker.embedded_command(self.settings), pass_fds=(presence.fd,)))
            broker.wait_until_up(self.settings.redis_url)
        for name, arguments in (
            ("core", ["core"]),
            ("receive", ["receive"]),
            ("work", ["work", "--queues", "cpu,gpu"]),
            ("deliver", ["work", "--queues", "deliver"]),
        ):
            self.supervisor.add(Part(name, [sys.executable, "-m", "radnode.cli", *arguments], env=self._env()))

    def _env(self) -> dict[str, str]:
        return inherited() | environment(self.settings)

    def ready(self) -> bool:
        """Whether every part has come up."""
        alive = [each.name.split("-")[0] for each in present(self.settings.run, "") if each.alive]
        return (
            alive.count("core") == 1
            and alive.count("receiver") >= self.settings.receivers
            and alive.count("worker") >= 2
        )


class _alone:  # noqa: N801 - reads as a phrase in a `with`
    """Holds the lock that lets one node run on a RADNODE_HOME; at the start of a node nothing else runs there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __enter__(self) -> None:
        try:
            self._presence = Presence(self._settings.run, "supervisor")
        except BlockingIOError:
            raise SettingsError(
                f"a node runs already on RADNODE_HOME={self._settings.home}",
                remedy="stop it, or set another RADNODE_HOME",
            ) from None
        self._wait_for_the_old()
        forget_metrics(self._settings)

    def _wait_for_the_old(self) -> None:
        """The parts of a node whose supervisor was killed end too, but not at once."""
        deadline = time.monotonic() + _OLD_PARTS_SECONDS
        while left := self._left():
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"parts of another node still run on RADNODE_HOME={self._settings.home}: {', '.join(left)}",
                    remedy="end them, or set another RADNODE_HOME",
                )
            time.sleep(0.1)

    def _left(self) -> list[str]:
        kinds = ("core", "receiver-", "valkey")
        return [each.name for kind in kinds for each in present(self._settings.run, kind) if each.alive]

    def __exit__(self, *_: object) -> None:
        self._presence.leave()


def announce(settings: Settings) -> None:
    titles = ",".join(settings.aet)
    log().info(
        "ready",
        aet=titles,
        dicom=f"{settings.host}:{settings.port}" if settings.port else "off",
        dicom_tls=f"{settings.host}:{settings.tls_port}" if settings.tls_port else "off",
        routing=_shown(settings.routing),
        metrics=f"http://{settings.http_host}:{settings.http_port}/metrics" if settings.http_port else "off",
    )


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
