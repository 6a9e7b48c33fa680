"""An upgrade brings the ledger's schema along, keeps a copy of what was, and never touches a newer one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Text, inspect

from radnode.domain.errors import LedgerError
from radnode.state import intake, schema
from radnode.state import ledger as ledgers
from radnode.state.ledger import Ledger
from tests.databases import PROCESSES, Database, arrivals, rows

NEXT = '''"""A version that does not exist yet."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("study", sa.Column("referrer", sa.Text(), nullable=False, server_default="unknown"))
    {more}
'''


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Newer:
    return Newer(tmp_path / "migrations", monkeypatch)


class Newer:
    """A radnode of the future, with one migration more."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        shutil.copytree(Path(ledgers.__file__).parent / "migrations", folder)
        self.head = ledgers.ScriptDirectory.from_config(ledgers._alembic()).get_current_head()

    def install(self, more: str = "") -> None:
        (self.folder / "versions" / "9999_next.py").write_text(NEXT.format(head=self.head, more=more))
        config = Config()
        config.set_main_option("script_location", str(self.folder))
        self._monkeypatch.setattr(ledgers, "_alembic", lambda: config)

    def uninstall(self) -> None:
        self._monkeypatch.undo()


def revision(ledger: Ledger) -> str | None:
    with ledger.read() as tx:
        return MigrationContext.configure(tx).get_current_revision()


def with_a_study(database: Database) -> Ledger:
    ledger = database.open()
    ledger.migrate()
    with ledger.begin() as tx:
        intake.record(tx, arrivals(3), [])
    return ledger


def test_the_migrations_make_the_tables_that_the_code_speaks_of(ledger: Ledger) -> None:
    with ledger.read() as tx:
        context = MigrationContext.configure(tx, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []


def test_paths_are_compared_byte_by_byte_on_postgresql_too(ledger: Ledger) -> None:
    (path,) = [each for each in inspect(ledger.engine).get_columns("instance") if each["name"] == "path"]
    assert isinstance(path["type"], Text)
    assert path["type"].collation == ("C" if ledger.engine.name == "postgresql" else None)


def test_a_new_ledger_is_made_at_once_and_needs_no_backup(database: Database) -> None:
    ledger = database.open()
    with pytest.raises(LedgerError, match="has schema none"):
        ledger.ready()
    ledger.migrate()
    ledger.migrate()
    ledger.ready()
    assert list(database.home.glob("*before-upgrade*")) == []
    ledger.close()


def test_an_upgrade_keeps_everything_and_leaves_a_copy_of_what_was(database: Database, newer: Newer) -> None:
    ledger = with_a_study(database)
    newer.install()
    with pytest.raises(LedgerError, match="this version needs 9999"):
        ledger.ready()
    ledger.migrate()
    ledger.ready()
    with ledger.read() as tx:
        assert tx.exec_driver_sql("SELECT study_instance_uid, referrer FROM study").all() == [("1.2", "unknown")]
    newer.uninstall()
    if ledger.file is not None:
        copy = database.home / f"ledger.before-upgrade-from-{newer.head}.sqlite"
        restored = database.home / "restored"
        restored.mkdir()
        copy.rename(restored / "ledger.sqlite")
        old = Ledger(restored)
        old.ready()
        assert len(rows(old, schema.instance)) == 3
        old.close()
    ledger.close()


def test_a_migration_that_fails_half_way_changes_nothing(database: Database, newer: Newer) -> None:
    ledger = with_a_study(database)
    newer.install(more='raise OSError("no space left on device")')
    with pytest.raises(OSError, match="no space"):
        ledger.migrate()
    newer.uninstall()
    ledger.ready()
    assert "referrer" not in {each["name"] for each in inspect(ledger.engine).get_columns("study")}
    newer.install()
    ledger.migrate()
    assert revision(ledger) == "9999"
    ledger.close()


def test_a_ledger_that_a_newer_radnode_made_is_refused_and_left_alone(database: Database, newer: Newer) -> None:
    ledger = with_a_study(database)
    newer.install()
    ledger.migrate()
    newer.uninstall()
    with pytest.raises(LedgerError, match="which a newer radnode made") as caught:
        ledger.migrate()
    assert "restore the backup" in caught.value.remedy
    with pytest.raises(LedgerError, match="has schema 9999"):
        ledger.ready()
    assert revision(ledger) == "9999"
    ledger.close()


def migrate(database: Database) -> None:
    ledger = database.open()
    ledger.migrate()
    ledger.ready()
    ledger.close()


def test_two_that_migrate_at_once_do_not_disturb_each_other(database: Database) -> None:
    parts = [PROCESSES.Process(target=migrate, args=(database,)) for _ in range(4)]
    for each in parts:
        each.start()
    for each in parts:
        each.join()
    assert [each.exitcode for each in parts] == [0] * 4


def test_a_file_that_is_no_ledger_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("this is no database, whatever its name says" * 100)
    ledger = Ledger(tmp_path)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be opened"):
        ledger.migrate()
    ledger.close()


def test_a_part_that_does_not_migrate_waits_for_core(database: Database) -> None:
    core = PROCESSES.Process(target=migrate, args=(database,))
    core.start()
    ledger = database.open()
    ledger.ready(wait=60)
    core.join()
    ledger.close()
