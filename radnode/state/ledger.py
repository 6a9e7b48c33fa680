"""The ledger: a SQL database (SQLite on one machine, PostgreSQL for a cluster), its transactions, clock and schema."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, Engine, Row, create_engine, event, func, insert, make_url, select, text
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.sql.schema import Table

from radnode.domain.errors import LedgerError, NewerLedgerError
from radnode.state import crash, schema

Unavailable = (OperationalError, InterfaceError)
"""What a statement raises when the database does not answer: it will, later. For the rooms that know no SQLAlchemy."""
Transaction = Connection
Record = Row[Any]
"""One row, its columns as attributes."""

T = TypeVar("T")

# Older libraries can corrupt a WAL that several processes write and checkpoint at once (fixed in 3.51.3).
_SAFE_WAL = (3, 51, 3)
_SQLITE_FILE = "ledger.sqlite"


class Ledger:
    """A connection pool to the ledger. `begin()` is one transaction; the functions beside this module work in it."""

    def __init__(self, home: Path, url: str = "") -> None:
        self.file = None if url else home / _SQLITE_FILE
        self.engine = _sqlite(self.file) if self.file else _postgresql(url)

    @contextmanager
    def begin(self, label: str = "") -> Iterator[Connection]:
        """A transaction that writes: committed at the end of the block, rolled back by an exception.

        Args:
            label: its crash label; a test holds that each transaction of the node has one of its own.
        """
        with self.engine.begin() as tx:
            yield tx
            crash.point(label, "before")
        crash.point(label, "after")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, and keeps no writer waiting longer than it takes."""
        with self.engine.connect().execution_options(radnode_read=True) as tx:
            yield tx

    def now(self) -> float:
        """Seconds on a clock that all parts share and that wall-clock steps do not move.

        SQLite means one host: its clock since boot. PostgreSQL: the database server's time.
        """
        if self.file is not None:
            return boot_time()
        with self.read() as tx:
            return float(tx.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())

    def migrate(self) -> None:
        """Brings the schema to this version, after a backup. Raises LedgerError for a newer one than this."""
        script = ScriptDirectory.from_config(_alembic())
        with self._reaching() as tx:
            found = MigrationContext.configure(tx).get_current_revision()
        if found == script.get_current_head():
            return
        if found is not None:
            _refuse_newer(script, found)
            self._backup(found)
        config = _alembic()
        with self.engine.begin() as tx:
            take_turns(tx, "migrate")
            config.attributes["connection"] = tx
            command.upgrade(config, "head")

    def ready(self, *, wait: float = 0.0) -> None:
        """Raises LedgerError unless the schema is this version's: for parts that do not migrate.

        Args:
            wait: seconds to wait for core, which perhaps migrates just now.
        """
        deadline = time.monotonic() + wait
        while True:
            try:
                return self._check_revision()
            except LedgerError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)

    def _check_revision(self) -> None:
        head = ScriptDirectory.from_config(_alembic()).get_current_head()
        with self._reaching() as tx:
            found = MigrationContext.configure(tx).get_current_revision()
        if found != head:
            raise LedgerError(
                f"the ledger has schema {found or 'none'}, this version needs {head}",
                remedy="start `radnode core` of this version first: it migrates",
            )

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _reaching(self) -> Iterator[Connection]:
        try:
            with self.read() as tx:
                yield tx
        except DBAPIError as error:
            where = str(self.file) if self.file else self.engine.url.render_as_string(hide_password=True)
            raise LedgerError(
                f"the ledger {where} cannot be opened: {error.orig}",
                remedy="check RADNODE_HOME, or DATABASE_URL and that the server runs",
            ) from None

    def _backup(self, revision: str) -> None:
        """A consistent copy beside the SQLite file. PostgreSQL migrates in one transaction, and has its own tools."""
        if self.file is None:
            return
        copy = self.file.with_name(f"ledger.before-upgrade-from-{revision}.sqlite")
        self.copy_to(copy, overwrite=True)  # of an upgrade that was cut short

    def copy_to(self, target: Path, *, overwrite: bool = False) -> None:
        """A consistent copy of the SQLite file, while others write. Raises LedgerError where there is none to copy."""
        if self.file is None:
            where = self.engine.url.set(drivername="postgresql").render_as_string(hide_password=True)
            raise LedgerError("PostgreSQL has its own tools", remedy=f"pg_dump --format=custom --file={target} {where}")
        if target.exists() and target.samefile(self.file):
            raise LedgerError(f"{target} is the ledger itself", remedy="name another file, best on another disk")
        if target.exists() and not overwrite:
            remedy = "name a new file, or a folder for one with the time in its name; --force overwrites it"
            raise LedgerError(f"{target} is there already", remedy=remedy)
        part = target.with_name(f"{target.name}.part")
        try:
            with closing(sqlite3.connect(self.file)) as source, closing(sqlite3.connect(part)) as copy:
                source.backup(copy)
            part.rename(target)
        except (sqlite3.Error, OSError) as error:
            with suppress(OSError):
                part.unlink()
            raise LedgerError(
                f"{target} cannot be written: {error}", remedy="name a file in a folder that is there and has room"
            ) from None
        crash.point("copied")


def boot_time() -> float:
    """Seconds since the host started, running on through suspend where the system can tell (Linux)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


_TURNS = {"migrate": 1, "intake": 2, "deliver": 3, "claim": 4, "jobs": 5}


def take_turns(tx: Connection, what: str) -> None:
    """Until its end this transaction is alone among those that do the same. On SQLite every writer is alone anyway."""
    if tx.dialect.name == "postgresql":
        tx.execute(select(func.pg_advisory_xact_lock(_TURNS[what])))


CHUNK = 500
"""SQLite takes a limited number of variables in one statement."""


def chunks(items: Collection[T]) -> Iterator[list[T]]:
    """The items, as many at a time as one statement takes."""
    listed = list(items)
    return (listed[start : start + CHUNK] for start in range(0, len(listed), CHUNK))


def insert_new(tx: Connection, table: Table) -> Any:
    """An INSERT that leaves rows alone which are there already; `rowcount` tells of one row whether it is new."""
    make = insert_sqlite if tx.dialect.name == "sqlite" else insert_postgresql
    return make(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def note(
    tx: Connection,
    kind: str,
    *,
    at: float | None = None,
    study_id: int | None = None,
    series_id: int | None = None,
    job_id: str | None = None,
    delivery_id: int | None = None,
    **data: Any,
) -> None:
    """Writes one event of a study's timeline."""
    tx.execute(
        insert(schema.event).values(
            at=time.time() if at is None else at,
            kind=kind,
            study_id=study_id,
            series_id=series_id,
            job_id=job_id,
            delivery_id=delivery_id,
            data=data,
        )
    )


def _postgresql(text: str) -> Engine:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # its text may hold a password, and is not shown
        url = None
    if url is None or url.get_backend_name() not in ("postgresql", "postgres"):
        raise LedgerError(
            "DATABASE_URL is no URL of a PostgreSQL database", remedy="postgresql://user:password@host/name"
        )
    # A server that has vanished is noticed: the system's own time-outs take minutes to hours.
    limits = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
    return create_engine(
        url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=20, connect_args=limits
    )


def _sqlite(file: Path) -> Engine:
    url = URL.create("sqlite", database=str(file))
    engine = create_engine(url, connect_args={"timeout": 60}, pool_size=20)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we begin transactions ourselves: see _begin_sqlite
    mode = "WAL" if sqlite3.sqlite_version_info >= _SAFE_WAL else "PERSIST"
    for pragma in (f"journal_mode={mode}", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(tx: Connection) -> None:
    """A writer takes the lock at once: upgrading a read lock half-way could not wait, only fail."""
    reading = tx.get_execution_options().get("radnode_read")
    tx.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _refuse_newer(script: ScriptDirectory, found: str) -> None:
    try:
        script.get_revision(found)
    except CommandError:
        raise NewerLedgerError(
            f"the ledger has schema {found}, which a newer radnode made",
            remedy="run that version, or restore the backup it made beside the ledger",
        ) from None


def value(tx: Connection, key: str, default: str) -> str:
    """A value the node keeps about itself; `default` is stored where there is none yet."""
    tx.execute(insert_new(tx, schema.node), {"key": key, "value": default})
    return str(tx.execute(select(schema.node.c.value).where(schema.node.c.key == key)).scalar_one())


def ping(tx: Connection) -> None:
    tx.execute(text("SELECT 1"))
