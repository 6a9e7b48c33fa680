"""The two databases a ledger can live in: SQLite in a folder, and Debian's PostgreSQL on a socket and port of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest

from radnode.state.ledger import Ledger
from tests.peers import free_port, tool, until

_numbers = count(1)

# A collation that looks past punctuation, the worst a site may have: whoever compares paths as bytes has to say so.
_LOCALE = ("--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US-u-ka-shifted")


class Postgres:
    """A PostgreSQL server with its data in a temporary folder, listening on loopback and on a socket there.

    It refuses to run as root; root's tests run it as nobody.
    """

    def __init__(self) -> None:
        initdb, self._postgres = tool("initdb"), tool("postgres")
        self.folder = Path(tempfile.mkdtemp(prefix="radnode-pg-"))
        self.port = free_port()
        self._user: dict[str, object] = {}
        if os.geteuid() == 0:
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.folder, "nobody", "nogroup")
        options = ("--username=radnode", "--auth=trust", "--encoding=UTF8", "--no-sync", *_LOCALE)
        self._run([initdb, "--pgdata", str(self._data), *options])
        self.start()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **self._user)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "max_connections": 200,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._log = (self.folder / "postgres.log").open("ab")
        self._process = subprocess.Popen(
            [self._postgres, "-D", str(self._data), *options],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            **self._user,  # type: ignore[call-overload]
        )
        until(self._answers, "PostgreSQL answers")

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            pytest.fail(f"PostgreSQL ended:\n{(self.folder / 'postgres.log').read_text()}")
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT ends it at once and cleanly, SIGQUIT as a crash would."""
        self._process.send_signal(number)
        self._process.wait()
        self._log.close()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, name: str) -> str:
        return f"postgresql://radnode@127.0.0.1:{self.port}/{name}"

    def create(self) -> str:
        """URL of a new, empty database."""
        name = f"ledger{next(_numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)


@dataclass(frozen=True)
class Database:
    """Where a ledger lives, as `Ledger` takes it; handed to the processes a test starts."""

    home: Path
    url: str

    def open(self) -> Ledger:
        return Ledger(self.home, self.url)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database; the test runs once on each kind."""
    if request.param == "sqlite":
        return Database(tmp_path, "")
    server: Postgres = request.getfixturevalue("postgres")
    return Database(tmp_path, server.create())


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    """A ledger with its tables, on each kind of database."""
    opened = database.open()
    opened.migrate()
    yield opened
    opened.close()
