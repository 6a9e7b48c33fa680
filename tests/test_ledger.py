"""What receivers report becomes series and studies in the ledger, the same on both kinds of database."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from sqlalchemy import Row, select

from radnode.domain.errors import LedgerError
from radnode.state import assembling, claims, intake, jobs, pauses, schema
from radnode.state.arrivals import Arrival, AssociationEnd
from radnode.state.ledger import Ledger, note, value
from radnode.state.views import Views
from tests.databases import PROCESSES, Database, Postgres, arrivals, make_job, result, rows


def record(ledger: Ledger, batch: list[Arrival], ends: list[AssociationEnd] | None = None) -> None:
    with ledger.begin() as tx:
        intake.record(tx, batch, ends or [])


def everything(ledger: Ledger) -> list[list[Row[tuple[object, ...]]]]:
    return [rows(ledger, table) for table in schema.metadata.sorted_tables]


def complete(ledger: Ledger, series: Row[tuple[object, ...]], ids: list[int], generation: int = 1) -> bool:
    with ledger.begin() as tx:
        return intake.complete_series(
            tx, series, generation=generation, instance_ids=ids, instances=len(ids), headers={}
        )


def released(association: str) -> AssociationEnd:
    return AssociationEnd(association, "released", "MODALITY", "RADNODE", "10.0.0.1", 3, 1.0, 2.0)


def test_recording_the_same_batch_again_changes_nothing(ledger: Ledger) -> None:
    batch = arrivals(3) + arrivals(2, series="1.2.2") + arrivals(1, flaw="no SeriesInstanceUID", copy="f")
    record(ledger, batch, [released("a1")])
    before = everything(ledger)
    record(ledger, batch, [released("a1")])
    assert everything(ledger) == before


def test_a_batch_handed_over_again_does_not_reopen_a_completed_series(ledger: Ledger) -> None:
    record(ledger, arrivals(3))
    (series,) = rows(ledger, schema.series)
    assert complete(ledger, series, [1, 2, 3])
    record(ledger, arrivals(3))
    assert rows(ledger, schema.series)[0].state == "complete"


def test_a_series_that_comes_over_two_associations_is_one_series(ledger: Ledger) -> None:
    record(ledger, arrivals(range(3), association="a1"))
    record(ledger, arrivals(range(3, 6), association="a2"))
    (series,) = rows(ledger, schema.series)
    assert [each.association for each in rows(ledger, schema.instance)] == ["a1"] * 3 + ["a2"] * 3
    assert series.seen == 105.0
    assert [each.kind for each in rows(ledger, schema.event)] == ["received"]


def test_what_arrives_late_never_moves_quiet_time_back(ledger: Ledger) -> None:
    record(ledger, arrivals(range(3, 6), seen=500.0))
    record(ledger, arrivals(range(3), seen=100.0))
    assert rows(ledger, schema.series)[0].seen == 505.0


def test_a_receivers_clock_is_brought_to_the_ledgers(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        intake.record(tx, arrivals(1, seen=100.0), [], clock_offset=1000.0)
    assert rows(ledger, schema.series)[0].seen == 1100.0


def test_the_same_series_uid_in_two_studies_is_two_series(ledger: Ledger) -> None:
    record(ledger, arrivals(1, study="1.2", copy="x") + arrivals(1, study="1.3", copy="y"))
    assert len(rows(ledger, schema.series)) == 2


def test_a_flawed_arrival_is_kept_and_told_but_belongs_to_no_series(ledger: Ledger) -> None:
    record(ledger, arrivals(1, series="", study="", flaw="no StudyInstanceUID"))
    (kept,) = rows(ledger, schema.instance)
    assert (kept.series_id, kept.flaw) == (None, "no StudyInstanceUID")
    assert [each.kind for each in rows(ledger, schema.event)] == ["flawed"]
    assert rows(ledger, schema.study) == []


def test_own_results_that_come_back_are_kept_and_start_nothing(ledger: Ledger) -> None:
    make_job(ledger, "a")
    claimed = claim(ledger)
    with ledger.begin() as tx:
        assert claims.finish(tx, claimed, [result(7)])
    (series,) = rows(ledger, schema.series)
    assert complete(ledger, series, [1])
    study_uid = rows(ledger, schema.study)[0].study_instance_uid
    own = arrivals(1, series="9.9", study=study_uid, sop_instance_uid="2.25.7")
    record(ledger, own)
    record(ledger, arrivals(1, series=series.series_instance_uid, study=study_uid, sop_instance_uid="2.25.7", copy="z"))
    old, returned = rows(ledger, schema.series)
    assert (old.state, old.changes, returned.state) == ("complete", series.changes, "complete")
    with ledger.read() as tx:
        assert intake.instances_of(tx, returned.id) == []
        assert len(intake.instances_of(tx, old.id)) == 1


def test_originals_that_were_forwarded_and_come_back_are_no_results_of_ours(ledger: Ledger) -> None:
    new = make_job(ledger, "a", app="")
    uid = rows(ledger, schema.instance)[0].sop_instance_uid
    with ledger.begin() as tx:
        jobs.add_results(tx, new.id, [jobs.ResultRow(uid, "1.2", "1.2", "original", "instances/x", 1)])
    record(ledger, arrivals(1, series="1.7", study="1.8", sop_instance_uid=uid))
    assert [each.state for each in rows(ledger, schema.series)] == ["receiving", "receiving"]


def claim(ledger: Ledger, owner: str = "worker-1") -> Row[tuple[object, ...]]:
    with ledger.begin() as tx:
        job = claims.claim(tx, "cpu", owner)
    assert job is not None
    return job


def test_a_series_is_not_completed_when_something_arrived_in_between(ledger: Ledger) -> None:
    record(ledger, arrivals(2))
    (series,) = rows(ledger, schema.series)
    record(ledger, arrivals(range(2, 3)))
    assert not complete(ledger, series, [1, 2])
    assert rows(ledger, schema.series)[0].state == "receiving"
    assert {each.generation for each in rows(ledger, schema.instance)} == {0}


def test_a_study_is_quiet_only_when_all_of_its_series_are_complete(ledger: Ledger) -> None:
    record(ledger, arrivals(2) + arrivals(1, series="1.2.2"))
    first, second = rows(ledger, schema.series)
    assert complete(ledger, first, [1, 2])
    with ledger.read() as tx:
        assert intake.quiet_studies(tx, 1e6) == []
    assert complete(ledger, second, [3])
    with ledger.begin() as tx:
        (study,) = intake.quiet_studies(tx, 1e6)
        assert intake.complete_study(tx, study)
        assert not intake.complete_study(tx, study)
        assert not intake.anything_open(tx)


def test_late_instances_open_a_complete_series_and_its_study_again(ledger: Ledger) -> None:
    record(ledger, arrivals(2))
    assert complete(ledger, rows(ledger, schema.series)[0], [1, 2])
    with ledger.begin() as tx:
        assert intake.complete_study(tx, rows(ledger, schema.study)[0])
    record(ledger, arrivals(range(2, 4), seen=900.0))
    assert [each.state for each in rows(ledger, schema.series) + rows(ledger, schema.study)] == ["receiving"] * 2
    with ledger.read() as tx:
        assert [each.generation for each in intake.instances_of(tx, 1)] == [1, 1, 0, 0]
        assert assembling.quiet_series(tx, 900.0, {}) == set()


def test_a_restart_begins_quiet_times_anew(ledger: Ledger) -> None:
    record(ledger, arrivals(1))
    with ledger.begin() as tx:
        intake.restart_quiet_time(tx, 5000.0)
        assert assembling.quiet_series(tx, 4999.0, {}) == set()
        assert len(assembling.quiet_series(tx, 5000.0, {})) == 1


def test_a_batch_larger_than_one_statement_takes_is_recorded_whole(ledger: Ledger) -> None:
    batch = arrivals(2345)
    record(ledger, batch)
    record(ledger, batch)
    assert len(rows(ledger, schema.instance)) == 2345
    assert complete(ledger, rows(ledger, schema.series)[0], list(range(1, 2346)))
    assert {each.generation for each in rows(ledger, schema.instance)} == {1}


def test_known_paths_are_those_of_one_bucket_in_whatever_order_the_database_sorts(ledger: Ledger) -> None:
    names = ["20260101T10/a", "20260101T10/Z", "20260101T10/0", "20260101T10/~", "20260101T11/a", "20260101T1/x"]
    record(ledger, [each for name in names for each in arrivals(1, path=f"instances/{name}.dcm")])
    with ledger.read() as tx:
        found = intake.known_paths(tx, "instances/20260101T10/")
    assert found == {f"instances/20260101T10/{name}.dcm" for name in "aZ0~"}


def test_text_that_no_database_takes_is_stored_with_replacement_characters(ledger: Ledger) -> None:
    bad = "A\0B\udcffC"
    record(ledger, arrivals(1, calling_aet=bad, user_identity=bad))
    with ledger.begin() as tx:
        intake.describe_study(tx, 1, bad, bad, {"StudyDescription": bad})
        note(tx, "seen", comment=bad)
    with ledger.read() as tx:
        (study,) = Views(tx, None).studies(bad)
    assert (study["AccessionNumber"], study["series"][0]["CallingAETitle"]) == ("A\ufffdB\ufffdC",) * 2
    assert study["StudyDescription"] == bad  # JSON keeps it, escaped
    make_job(ledger, "a")
    job = claim(ledger)
    with ledger.begin() as tx:
        assert claims.fail(tx, job, bad)
    assert rows(ledger, schema.job)[0].error == "A\ufffdB\ufffdC"


def test_the_newest_routing_is_in_force_and_an_older_one_can_come_back(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        assert intake.routing_in_force(tx) is None
        intake.remember_routing(tx, "v1", "rules: []", {"destinations": {}})
        intake.remember_routing(tx, "v2", "rules: [1]", {"destinations": {}})
    with ledger.begin() as tx:
        intake.remember_routing(tx, "v1", "rules: []", {"destinations": {"pacs": 1}})
        found = intake.routing_in_force(tx)
    assert found is not None
    assert (found.version, found.text, found.peers) == ("v1", "rules: []", {"destinations": {"pacs": 1}})
    assert len(rows(ledger, schema.routing)) == 2


def test_a_value_of_the_node_is_kept_as_it_was_first_set(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        assert value(tx, "site_uid", "2.25.1") == "2.25.1"
    with ledger.begin() as tx:
        assert value(tx, "site_uid", "2.25.2") == "2.25.1"


def test_a_bucket_stays_sealed_with_the_time_it_was_last_sealed_with(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        assert intake.sealed(tx) == {}
        intake.seal(tx, {"20260101/10": 1_767_261_600_123_456_789, "20260101/11": 2})
    with ledger.begin() as tx:
        intake.seal(tx, {"20260101/11": 3})
        assert intake.sealed(tx) == {"20260101/10": 1_767_261_600_123_456_789, "20260101/11": 3}


def test_a_pause_is_kept_once_and_resumed_once(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        pauses.pause(tx, "app", "hyperdense", "anna")
        pauses.pause(tx, "app", "hyperdense", "bert")
        assert pauses.resume(tx, "hyperdense") == "app"
        assert pauses.resume(tx, "hyperdense") is None


def test_an_exception_leaves_nothing_of_its_transaction(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.begin() as tx:
        intake.record(tx, arrivals(1), [])
        raise KeyError
    assert rows(ledger, schema.instance) == []


def test_the_ledgers_clock_is_the_same_for_all_and_runs_forward(ledger: Ledger, database: Database) -> None:
    other = database.open()
    times = [each.now() for each in (ledger, other, ledger, other)]
    other.close()
    assert times == sorted(times)


@pytest.mark.parametrize("form", ["postgresql://", "postgres://", "postgresql+psycopg://"])
def test_every_usual_form_of_a_postgresql_url_works(postgres: Postgres, form: str, tmp_path: Path) -> None:
    opened = Ledger(tmp_path, postgres.create().replace("postgresql://", form))
    opened.migrate()
    opened.ready()
    opened.close()


def test_a_postgresql_socket_can_be_named_in_the_url(postgres: Postgres, tmp_path: Path) -> None:
    name = postgres.create().rpartition("/")[2]
    url = f"postgresql://radnode@/{name}?host={postgres.folder}&port={postgres.port}"
    opened = Ledger(tmp_path, url)
    opened.migrate()
    opened.close()


@pytest.mark.parametrize("url", ["nonsense", "mysql://a:sesame@b/c", "sqlite:///x.db", "postgresql://a:sesame@b:x/c"])
def test_a_url_of_anything_else_is_refused_without_telling_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="DATABASE_URL") as caught:
        Ledger(tmp_path, url)
    assert "sesame" not in str(caught.value)


def test_a_server_that_is_away_is_a_ledger_error_that_hides_the_password(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "postgresql://radnode:sesame@127.0.0.1:1/x")
    with pytest.raises(LedgerError, match="cannot be opened") as caught:
        ledger.migrate()
    assert "sesame" not in str(caught.value)


def test_a_home_with_unusual_characters_holds_a_ledger(tmp_path: Path) -> None:
    home = tmp_path / "50% done? #1 ü"
    home.mkdir()
    ledger = Ledger(home)
    ledger.migrate()
    ledger.close()
    assert (home / "ledger.sqlite").stat().st_size > 0


def test_a_ledger_on_sqlite_is_durable_and_never_in_a_corruptible_wal(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.migrate()
    with ledger.read() as tx:
        mode = tx.exec_driver_sql("PRAGMA journal_mode").scalar()
        assert mode == ("wal" if sqlite3.sqlite_version_info >= (3, 51, 3) else "persist")
        assert tx.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert tx.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    ledger.close()


# ---- several processes at once ------------------------------------------------------------------------------------

BATCHES, BATCH = 40, 5


def receive(database: Database, number: int) -> None:
    """A receiver: batches of two series, one its own and one that all receivers get parts of."""
    ledger = database.open()
    for n in range(BATCHES):
        numbers = range(n * BATCH, (n + 1) * BATCH)
        own = arrivals(numbers, series=f"1.2.{number}", copy=str(number))
        shared = arrivals(numbers, series="1.2.99", copy=str(number))
        record(ledger, own + shared if number % 2 else shared + own)
    ledger.close()


def judge(database: Database, seconds: float) -> None:
    """A core: completes whatever is open as fast as it can, and restarts quiet times now and then."""
    ledger = database.open()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with ledger.read() as tx:
            open_series = assembling.stirred(tx, 0.0, 1e12)
        for row in open_series:
            with ledger.begin() as tx:
                ids = [each.id for each in intake.instances_of(tx, row.id) if each.generation == 0]
                done = intake.complete_series(
                    tx, row, generation=row.generation + 1, instance_ids=ids, instances=len(ids), headers={}
                )
                if done:
                    intake.describe_study(tx, row.study_id, "A", "P", {})
        with ledger.begin() as tx:
            intake.restart_quiet_time(tx, 1.0)
    ledger.close()


def work(database: Database, name: str) -> None:
    """A worker: claims and finishes jobs until there is none."""
    ledger = database.open()
    while True:
        with ledger.begin() as tx:
            job = claims.claim(tx, "cpu", name)
        if job is None:
            break
        with ledger.begin() as tx:
            assert claims.finish(tx, job, [result(int(job.id))])
    ledger.close()


def test_receivers_core_and_workers_write_at_once_and_nothing_is_lost_or_refused(
    ledger: Ledger, database: Database
) -> None:
    for number in range(40):
        make_job(ledger, str(number))
    parts = [PROCESSES.Process(target=receive, args=(database, number)) for number in range(3)]
    parts += [PROCESSES.Process(target=work, args=(database, f"worker-{number}")) for number in range(2)]
    parts += [PROCESSES.Process(target=judge, args=(database, 3.0))]
    for each in parts:
        each.start()
    for each in parts:
        each.join()
    assert [each.exitcode for each in parts] == [0] * len(parts)
    received = [each for each in rows(ledger, schema.instance) if each.sop_instance_uid.startswith("1.2.99.")]
    assert len(received) == 3 * BATCHES * BATCH
    assert len(rows(ledger, schema.instance)) == 6 * BATCHES * BATCH + 40
    assert {each.state for each in rows(ledger, schema.job)} == {"done"}
    assert len(rows(ledger, schema.delivery)) == 40


def test_a_receiver_killed_while_it_writes_leaves_whole_batches_and_a_ledger_for_the_others(
    ledger: Ledger, database: Database
) -> None:
    for round_ in range(3):
        victim = PROCESSES.Process(target=receive, args=(database, round_))
        victim.start()
        assert victim.pid is not None
        before = len(rows(ledger, schema.instance))
        while len(rows(ledger, schema.instance)) == before and victim.is_alive():
            time.sleep(0.001)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        record(ledger, arrivals(1, series="1.5", copy=f"after {round_}"))
    with ledger.read() as tx:
        series = dict(tx.execute(select(schema.series.c.id, schema.series.c.series_instance_uid)).all())
    counted: dict[str, int] = {}
    for each in rows(ledger, schema.instance):
        counted[series[each.series_id]] = counted.get(series[each.series_id], 0) + 1
    assert counted.pop("1.5") == 3
    assert counted
    assert all(count % BATCH == 0 for count in counted.values())
