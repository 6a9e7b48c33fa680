"""Tickets: a server that hangs holds nobody up, one that takes none is named, an address that is none is refused."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from radnode import settings as settings_module
from radnode.domain.errors import SettingsError
from radnode.run import broker
from radnode.run.apps import Catalog
from radnode.run.broker import Tickets
from radnode.run.explain import check
from tests.peers import until
from tests.test_nothing_lost import Valkey, valkey

__all__ = ["valkey"]


class Hanging:
    """A server that takes connections and never answers."""

    def __init__(self) -> None:
        self.callers: list[socket.socket] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                self.callers.append(self.socket.accept()[0])


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    server = Hanging()
    yield server
    for each in (server.socket, *server.callers):
        each.close()


def test_a_server_that_hangs_is_asked_once_and_then_left_alone(hanging: Hanging) -> None:
    tickets = Tickets(broker.connect(hanging.url))
    for _ in range(20):
        tickets.send("cpu")
    assert len(hanging.callers) == 1
    assert "Timeout" in tickets.fault
    assert tickets.top_up({"cpu": 3}) == {"cpu": 3}, "all that there is to do lacks its ticket"
    assert len(hanging.callers) == 2, "core alone goes on asking"


def test_a_server_that_answers_and_takes_no_tickets_is_named(valkey: Valkey) -> None:
    tickets = Tickets(broker.connect(valkey.url))
    server = redis.Redis.from_url(valkey.url)
    server.config_set("maxmemory", 1)
    assert tickets.top_up({"cpu": 2}) == {"cpu": 2}
    assert "maxmemory" in tickets.fault
    server.config_set("maxmemory", 0)
    assert tickets.top_up({"cpu": 2}) == {"cpu": 2}
    assert (tickets.fault, server.llen("radnode:cpu")) == ("", 2)
    tickets.send("cpu")
    assert tickets.top_up({"cpu": 2}) == {"cpu": 0}, "it rests no longer"


def test_a_worker_without_work_leaves_the_server_alone_until_a_ticket_wakes_it(valkey: Valkey) -> None:
    connection, server, taken = broker.connect(valkey.url), redis.Redis.from_url(valkey.url), threading.Event()
    (worker,) = broker.workers(connection, {"cpu": (taken.set, 2)})
    worker.start()
    try:
        until(lambda: _waiting(server) == 1, "it waits for a ticket")
        before = _commands(server)
        time.sleep(3)
        assert _commands(server) - before < 3 * 40, "those of scripts are counted as well"
        Tickets(connection).send("cpu")
        assert taken.wait(30)
        until(lambda: server.llen("radnode:cpu.wake") == 0, "it has heard that it was woken")
        valkey.kill()
        valkey.forget()
        until(lambda: _waiting(server) == 1, "it waits at the server that came instead")
    finally:
        worker.stop()


def _waiting(server: redis.Redis) -> int:
    """Clients that wait for something to be put into a list."""
    return int(server.info("clients")["blocked_clients"])


def _commands(server: redis.Redis) -> int:
    """How many it has carried out."""
    return int(server.info("stats")["total_commands_processed"])


@pytest.mark.parametrize(
    "url",
    ["redis://:pa/ss@h:1", "redis://:pa#ss@h:1", "redis://:pass@h:12x", "redis://:pass@h?nonsense=1",
     "redis://:pass@h?socket_timeout=pass", "rediss://:pass@h?ssl_cert_reqs=pass", "redis+sentinel://:pass@h"],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        broker.connect(url)
    assert "pass" not in str(caught.value).replace("password", "")
    known = settings_module.load({"RADNODE_HOME": str(tmp_path), "REDIS_URL": url}, tmp_path / "no.env")
    assert [each.state for each in check(known, Catalog()) if "REDIS_URL" in each.message] == ["problem"]


def test_check_asks_a_server_of_the_sites_own(tmp_path: Path, valkey: Valkey) -> None:
    def said(url: str) -> list[tuple[str, str]]:
        known = settings_module.load({"RADNODE_HOME": str(tmp_path), "REDIS_URL": url}, tmp_path / "no.env")
        found = check(known, Catalog(), with_echo=True)
        return [(each.state, each.message) for each in found if "Redis" in each.message]

    assert said(valkey.url) == [("ok", "Redis/Valkey answers")]
    redis.Redis.from_url(valkey.url).config_set("requirepass", "sesame")
    ((state, message),) = said(valkey.url)
    assert state == "problem"
    assert "authenticate" in message


def test_the_place_of_the_embedded_servers_socket_is_short_enough_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home = "/srv/" + 45 * "ж"  # 95 bytes
    known = settings_module.load({"RADNODE_HOME": home}, tmp_path / "no.env")
    assert broker.embedded_url(known).startswith(f"unix://{tmp_path}")
