"""The two databases a ledger can live in: SQLite in a folder, and PostgreSQL on a port of its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Row, Table, select

from radnode.domain.jobs import PRIORITIES
from radnode.state import intake, jobs, schema
from radnode.state.arrivals import Arrival
from radnode.state.jobs import NewJob, ResultRow
from radnode.state.ledger import Ledger
from tests.peers import free_port, tool, until

PROCESSES = multiprocessing.get_context("forkserver")  # a fork of pytest itself would share its connections
PROCESSES.set_forkserver_preload(["tests.databases", "tests.crash_parts"])

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
        done = subprocess.run(  # type: ignore[call-overload]
            command, check=False, cwd=self.folder, capture_output=True, text=True, **self._user
        )
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
        self.stop(signal.SIGQUIT)
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


def arrivals(
    instances: range | int = 3,
    *,
    series: str = "1.2.1",
    study: str = "1.2",
    seen: float = 100.0,
    association: str = "a1",
    copy: str = "0",
    **other: Any,
) -> list[Arrival]:
    """Instances of one series as a receiver reports them, received one second apart; `copy` tells files apart."""
    numbers = range(instances) if isinstance(instances, int) else instances
    return [
        replace(
            Arrival(
                path=f"instances/20260101T10/{copy}-{series}-{number}.dcm",
                sop_instance_uid=f"{series}.{number}",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                series_uid=series,
                study_uid=study,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                size=1000,
                received_at=1_700_000_000.0 + number,
                seen=seen + number,
                calling_aet="MODALITY",
                called_aet="RADNODE",
                peer="10.0.0.1",
                association=association,
            ),
            **other,
        )
        for number in numbers
    ]


def rows(ledger: Ledger, table: Table) -> list[Row[Any]]:
    with ledger.read() as tx:
        return list(tx.execute(select(table).order_by(*table.primary_key.columns)).all())


def make_job(ledger: Ledger, name: str, **changed: Any) -> NewJob:
    """A waiting job on a series of its own; `changed` replaces fields of it."""
    series = f"1.2.{int.from_bytes(name.encode())}"
    with ledger.begin() as tx:
        intake.record(tx, arrivals(1, series=series, study=f"{series}.0"), [])
        (study_id,) = tx.execute(
            select(schema.study.c.id).where(schema.study.c.study_instance_uid == f"{series}.0")
        ).scalars()
        (row,) = intake.series_of(tx, study_id)
        (instance,) = intake.instances_of(tx, row.id)
        new = NewJob(
            id=name,
            study_id=study_id,
            series_id=row.id,
            rule="head",
            routing_version="v1",
            app="hyperdense",
            app_version="1.0.0",
            level="series",
            options={"threshold": 0.5},
            send_to=("pacs",),
            queue="cpu",
            priority=PRIORITIES["normal"],
            last_image_at=row.last_received_at,
            inputs={series: [instance.id]},
        )
        new = replace(new, **changed)
        jobs.create(tx, new)
    return new


def result(number: int = 1) -> ResultRow:
    uid = f"2.25.{number}"
    return ResultRow(uid, "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1", "SecondaryCapture", f"results/{uid}", 10)
