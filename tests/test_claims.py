"""Jobs and deliveries are claimed once, in their order, and finished only by who holds them; on both databases."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Row, select, update

from radnode import App, AppOptions, Resources
from radnode.domain.jobs import MAX_CRASHES, MAX_WORKERS_LOST, PRIORITIES
from radnode.run import gauges
from radnode.run.apps import Catalog
from radnode.settings import load
from radnode.state import claims, deliveries, jobs, pauses, schema
from radnode.state.ledger import Ledger
from radnode.state.views import Views, select_deliveries, select_jobs
from tests.databases import PROCESSES, Database, make_job, result, rows

WORKER, OTHER = "worker-1", "worker-2"
URGENT, LOW = PRIORITIES["urgent"], PRIORITIES["low"]


def claim(ledger: Ledger, owner: str = WORKER, queue: str = "cpu") -> Row[Any] | None:
    with ledger.begin() as tx:
        return claims.claim(tx, queue, owner)


def claimed(ledger: Ledger, owner: str = WORKER) -> Row[Any]:
    job = claim(ledger, owner)
    assert job is not None
    return job


def claim_delivery(ledger: Ledger, owner: str = WORKER, now: float | None = None) -> Row[Any] | None:
    with ledger.begin() as tx:
        return deliveries.claim(tx, owner, ledger.now() if now is None else now)


def claimed_delivery(ledger: Ledger, owner: str = WORKER, now: float | None = None) -> Row[Any]:
    delivery = claim_delivery(ledger, owner, now)
    assert delivery is not None
    return delivery


def do(ledger: Ledger, action: Any, *arguments: Any, **named: Any) -> Any:
    """One function of the ledger in a transaction of its own."""
    with ledger.begin() as tx:
        return action(tx, *arguments, **named)


def job(ledger: Ledger, name: str) -> Row[Any]:
    with ledger.read() as tx:
        return jobs.get(tx, name)


def events(ledger: Ledger, name: str) -> list[str]:
    return [each.kind for each in rows(ledger, schema.event) if each.job_id == name]


def shown(ledger: Ledger, name: str) -> dict[str, Any]:
    with ledger.read() as tx:
        return Views(tx, None).job(name)


def make_done(ledger: Ledger, name: str, *results: int, **changed: Any) -> None:
    """A job that is done, with its deliveries waiting."""
    make_job(ledger, name, **changed)
    with ledger.begin() as tx:
        tx.execute(update(schema.job).where(schema.job.c.id == name).values(state="running", owner="x", attempt=1))
        assert claims.finish(tx, jobs.get(tx, name), [result(each) for each in results])


# ---- jobs ---------------------------------------------------------------------------------------------------------


def test_jobs_are_claimed_by_priority_and_then_by_age(ledger: Ledger) -> None:
    for name, priority in [("a", LOW), ("b", 1), ("c", URGENT), ("d", 1), ("e", URGENT)]:
        make_job(ledger, name, priority=priority)
    assert [claimed(ledger).id for _ in range(5)] == ["c", "e", "b", "d", "a"]
    assert claim(ledger) is None


def test_a_queue_gives_only_its_own_jobs(ledger: Ledger) -> None:
    make_job(ledger, "gpu", queue="gpu")
    assert claim(ledger) is None
    assert do(ledger, claims.runnable) == {"gpu": 1}


# ---- hours --------------------------------------------------------------------------------------------------------

DAY, NIGHT = "06:00-22:00 UTC", "22:00-06:00 UTC"
NOON, MIDNIGHT = 1_800_014_400.0, 1_800_057_600.0  # 2027-01-15 12:00 and 24:00 UTC


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return lambda at: monkeypatch.setattr(time, "time", lambda: at)


def test_a_job_starts_in_its_hours_only_whatever_the_clock_or_a_person_did_before(
    ledger: Ledger, wall: Callable[[float], None]
) -> None:
    wall(MIDNIGHT)
    make_job(ledger, "day", run_between=DAY, priority=URGENT)
    make_job(ledger, "night", run_between=NIGHT)
    wall(NOON)
    make_job(ledger, "any", priority=LOW)
    assert do(ledger, claims.runnable) == {"cpu": 2}
    do(ledger, jobs.cancel, "night", "anna")
    do(ledger, jobs.retry, "night", "anna")
    assert [claimed(ledger).id, claimed(ledger).id, claim(ledger)] == ["day", "any", None]
    assert do(ledger, claims.runnable) == {}
    assert do(ledger, claims.oldest_waiting) is None
    assert shown(ledger, "night")["waits_for_hours"]
    wall(MIDNIGHT)
    assert do(ledger, claims.runnable) == {"cpu": 1}
    assert not shown(ledger, "night")["waits_for_hours"]
    do(ledger, claims.crashed, claimed(ledger), "SIGSEGV")
    wall(NOON)
    assert claim(ledger) is None


def test_the_best_job_of_all_hours_that_are_open_is_claimed(ledger: Ledger, wall: Callable[[float], None]) -> None:
    wall(NOON)
    for name, run_between, priority in [
        ("a", "", 1), ("b", DAY, URGENT), ("c", "11:00-13:00 UTC", LOW), ("d", NIGHT, URGENT), ("e", "", URGENT),
    ]:  # fmt: skip
        make_job(ledger, name, run_between=run_between, priority=priority)
        wall(NOON + ord(name))
    assert [claimed(ledger).id for _ in range(4)] == ["b", "e", "a", "c"]
    assert claim(ledger) is None


def test_a_rule_without_hours_lets_the_same_work_of_one_that_waits_start(
    ledger: Ledger, wall: Callable[[float], None]
) -> None:
    wall(NOON)
    new = make_job(ledger, "a", run_between=NIGHT)
    do(ledger, jobs.create, replace(new, rule="night too"))
    assert claim(ledger) is None
    do(ledger, jobs.create, replace(new, rule="at once", run_between=""))
    assert claimed(ledger).id == "a"


def test_a_job_goes_with_its_inputs_in_the_order_of_their_arrival(ledger: Ledger) -> None:
    new = make_job(ledger, "a")
    (path,) = [each.path for each in rows(ledger, schema.instance)]
    assert do(ledger, jobs.inputs, claimed(ledger).id) == {next(iter(new.inputs)): [path]}


def test_a_claim_returns_the_job_as_it_is_now(ledger: Ledger) -> None:
    make_job(ledger, "a")
    one = claimed(ledger)
    assert (one.state, one.owner, one.attempt, one.options, one.send_to) == (
        "running", WORKER, 1, {"threshold": 0.5}, ["pacs"],
    )  # fmt: skip
    assert do(ledger, claims.is_ours, one)


def claim_all(database: Database, owner: str, wanted: int) -> list[str]:
    """Claims until there is nothing left."""
    ledger, found = database.open(), []
    while (one := claim(ledger, owner)) is not None:
        found.append(one.id)
    ledger.close()
    return found


def claim_in_process(database: Database, owner: str, wanted: int, answers: Any) -> None:
    answers.put(claim_all(database, owner, wanted))


def test_many_threads_claim_every_job_exactly_once(ledger: Ledger, database: Database) -> None:
    names = [f"{number:03d}" for number in range(120)]
    for number, name in enumerate(names):
        make_job(ledger, name, priority=number % 3)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: claim_all(database, f"worker-{n}", 120), range(8)))
    print(f"{ledger.engine.name}: {len(names) / (time.monotonic() - started):.0f} claims/s by 8 threads")
    assert sorted(each for one in found for each in one) == names
    order = {name: (number % 3, number) for number, name in enumerate(names)}
    assert all(one == sorted(one, key=order.__getitem__) for one in found)


def test_many_processes_claim_every_job_exactly_once(ledger: Ledger, database: Database) -> None:
    names = [f"{number:03d}" for number in range(60)]
    for name in names:
        make_job(ledger, name)
    answers = PROCESSES.Queue()
    parts = [PROCESSES.Process(target=claim_in_process, args=(database, f"w{n}", 60, answers)) for n in range(4)]
    for each in parts:
        each.start()
    found = [answers.get() for _ in parts]
    for each in parts:
        each.join()
    assert sorted(each for one in found for each in one) == names
    assert {each.attempt for each in rows(ledger, schema.job)} == {1}


def test_one_worker_holding_its_claim_open_does_not_keep_another_waiting(postgres: Any, tmp_path: Any) -> None:
    ledger = Database(tmp_path, postgres.create()).open()
    ledger.migrate()
    make_job(ledger, "a")
    make_job(ledger, "b")
    with ledger.begin() as first:
        one = claims.claim(first, "cpu", WORKER)
        two = claimed(ledger, OTHER)
    assert one is not None
    assert [one.id, two.id] == ["a", "b"]
    ledger.close()


def test_a_worker_that_lost_its_job_can_change_nothing_about_it(ledger: Ledger) -> None:
    make_job(ledger, "a")
    lost = claimed(ledger, WORKER)
    assert len(do(ledger, claims.release_lost, WORKER)) == 1
    current = claimed(ledger, OTHER)
    assert (current.id, current.attempt, current.losses) == ("a", 2, 1)
    assert not do(ledger, claims.finish, lost, [result(1)])
    assert not do(ledger, claims.fail, lost, "late")
    assert not do(ledger, claims.decline, lost, "late")
    assert not do(ledger, claims.crashed, lost, "late")
    assert not do(ledger, claims.is_ours, lost)
    assert job(ledger, "a") == current
    assert rows(ledger, schema.delivery) == []
    assert do(ledger, claims.finish, current, [result(1)])


def test_the_same_worker_claiming_again_is_fenced_from_its_own_past(ledger: Ledger) -> None:
    make_job(ledger, "a")
    past = claimed(ledger)
    do(ledger, jobs.cancel, "a", "anna")
    do(ledger, jobs.retry, "a", "anna")
    assert not do(ledger, claims.finish, past, [])
    now = claimed(ledger)
    assert not do(ledger, claims.finish, past, [])
    assert do(ledger, claims.finish, now, [])


def test_a_job_that_kills_its_child_three_times_is_taken_for_poison(ledger: Ledger) -> None:
    make_job(ledger, "a")
    for _ in range(MAX_CRASHES):
        assert do(ledger, claims.crashed, claimed(ledger), "SIGSEGV")
    assert claim(ledger) is None
    poison = job(ledger, "a")
    assert (poison.state, poison.crashes, poison.losses) == ("failed", MAX_CRASHES, 0)
    assert "SIGSEGV" in poison.error
    assert events(ledger, "a") == ["job", *["running", "crashed"] * (MAX_CRASHES - 1), "running", "failed"]


def test_a_late_report_of_a_last_crash_is_not_counted_against_who_has_the_job_now(ledger: Ledger) -> None:
    make_job(ledger, "a")
    for _ in range(MAX_CRASHES - 1):
        do(ledger, claims.crashed, claimed(ledger), "SIGSEGV")
    lost = claimed(ledger)
    do(ledger, claims.release_lost, WORKER)
    claimed(ledger, OTHER)
    assert not do(ledger, claims.crashed, lost, "SIGSEGV")
    assert (job(ledger, "a").state, job(ledger, "a").crashes) == ("running", MAX_CRASHES - 1)


def test_lost_workers_are_counted_apart_from_crashes_and_capped_higher(ledger: Ledger) -> None:
    make_job(ledger, "a")
    for _ in range(MAX_WORKERS_LOST):
        claimed(ledger)
        do(ledger, claims.release_lost, WORKER)
    failed = job(ledger, "a")
    assert (failed.state, failed.crashes) == ("failed", 0)
    assert failed.attempt == MAX_WORKERS_LOST > MAX_CRASHES


def test_a_worker_that_stops_gives_its_job_back_and_nothing_is_counted(ledger: Ledger) -> None:
    make_job(ledger, "a")
    make_job(ledger, "b")
    claimed(ledger, WORKER)
    claimed(ledger, OTHER)
    do(ledger, claims.interrupt, WORKER)
    back, other = job(ledger, "a"), job(ledger, "b")
    assert (back.state, back.owner, back.crashes, back.losses) == ("waiting", "", 0, 0)
    assert (other.state, other.owner) == ("running", OTHER)
    assert do(ledger, claims.owners) == {OTHER}


def test_a_retry_starts_all_counts_anew_and_says_who_it_was(ledger: Ledger) -> None:
    make_job(ledger, "a")
    assert not do(ledger, jobs.retry, "a", "anna")
    do(ledger, claims.crashed, claimed(ledger), "SIGKILL")
    do(ledger, claims.fail, claimed(ledger), "no model server")
    assert do(ledger, jobs.retry, "a", "anna")
    again = job(ledger, "a")
    assert (again.state, again.crashes, again.error, again.finished_at) == ("waiting", 0, "", None)
    assert rows(ledger, schema.event)[-1].data == {"who": "anna"}


def test_a_cancelled_job_is_gone_for_its_worker_and_is_cancelled_once(ledger: Ledger) -> None:
    make_job(ledger, "a")
    running = claimed(ledger)
    assert do(ledger, jobs.cancel, "a", "anna")
    assert not do(ledger, jobs.cancel, "a", "anna")
    assert not do(ledger, claims.is_ours, running)
    assert not do(ledger, claims.finish, running, [result(1)])
    assert job(ledger, "a").state == "cancelled"
    assert claim(ledger) is None


def test_an_apps_progress_is_kept_until_the_job_starts_anew_and_only_its_owner_can_tell_it(ledger: Ledger) -> None:
    make_job(ledger, "a")
    running = claimed(ledger)
    assert do(ledger, claims.progress, running, "half (50%)")
    do(ledger, claims.crashed, running, "SIGSEGV")
    assert not do(ledger, claims.progress, running, "late")
    assert job(ledger, "a").progress == "half (50%)"
    assert claimed(ledger).progress == ""


def test_a_declined_job_is_neither_failed_nor_retried(ledger: Ledger) -> None:
    make_job(ledger, "a")
    assert do(ledger, claims.decline, claimed(ledger), "contrast-enhanced")
    assert not do(ledger, jobs.retry, "a", "anna")
    assert (job(ledger, "a").state, job(ledger, "a").error) == ("declined", "contrast-enhanced")


def test_jobs_of_a_paused_app_wait_and_no_tickets_are_made_for_them(ledger: Ledger) -> None:
    make_job(ledger, "a")
    make_job(ledger, "b", app="other")
    do(ledger, pauses.pause, "app", "hyperdense", "anna")
    assert do(ledger, claims.runnable) == {"cpu": 1}
    assert claimed(ledger).id == "b"
    assert claim(ledger) is None
    assert do(ledger, claims.oldest_waiting) is None
    do(ledger, pauses.resume, "hyperdense")
    assert do(ledger, claims.oldest_waiting) == job(ledger, "a").created_at
    assert claimed(ledger).id == "a"


def test_rules_that_want_the_same_work_share_a_job_its_destinations_and_the_highest_priority(ledger: Ledger) -> None:
    new = make_job(ledger, "a", send_to=("pacs",), priority=1)
    for send_to, priority in ((("research", "pacs"), LOW), (("archive",), URGENT)):
        changed = jobs.NewJob(**{**vars(new), "send_to": send_to, "priority": priority, "rule": "another"})
        assert not do(ledger, jobs.create, changed)
    one = claimed(ledger)
    assert (one.send_to, one.priority, one.rule) == (["pacs", "research", "archive"], URGENT, "head")
    assert len(rows(ledger, schema.job_input)) == 1
    assert events(ledger, "a") == ["job", "same work", "same work", "running"]
    assert do(ledger, claims.finish, one, [result(1)])
    assert [each.destination for each in rows(ledger, schema.delivery)] == ["pacs", "research", "archive"]


def test_a_destination_added_while_the_job_ends_is_delivered_to_whichever_comes_first(ledger: Ledger) -> None:
    for number in range(10):
        new = make_job(ledger, str(number))
        running = claimed(ledger)
        joining = jobs.NewJob(**{**vars(new), "send_to": ("research",)})
        meet = threading.Barrier(2)

        def finish(running: Row[Any] = running, number: int = number, meet: threading.Barrier = meet) -> None:
            meet.wait()
            assert do(ledger, claims.finish, running, [result(number)])

        def join(joining: jobs.NewJob = joining, meet: threading.Barrier = meet) -> None:
            meet.wait()
            do(ledger, jobs.create, joining)

        with ThreadPoolExecutor(2) as pool:
            for each in [pool.submit(finish), pool.submit(join)]:
                each.result()
    assert Counter(each.destination for each in rows(ledger, schema.delivery)) == {"pacs": 10, "research": 10}


def test_a_job_without_results_makes_no_delivery(ledger: Ledger) -> None:
    make_job(ledger, "a")
    assert do(ledger, claims.finish, claimed(ledger), [])
    assert rows(ledger, schema.delivery) == []


def test_states_count_what_is_not_final(ledger: Ledger) -> None:
    for name in "abcd":
        make_job(ledger, name)
    do(ledger, claims.fail, claimed(ledger), "x")
    do(ledger, claims.finish, claimed(ledger), [])
    claimed(ledger)
    assert do(ledger, jobs.states) == {"failed": 1, "running": 1, "waiting": 1}


def test_a_job_that_its_worker_should_have_ended_long_ago_is_counted_as_overdue(ledger: Ledger, tmp_path: Path) -> None:
    settings = load({"RADNODE_HOME": str(tmp_path)}, tmp_path / "no.env")
    settings.spool.mkdir(parents=True)
    counted = []
    for seconds_ago in (0.0, 100.0, 1000.0):
        make_job(ledger, f"j{seconds_ago:.0f}", app="slow")
        mine = schema.job.c.id == claimed(ledger).id
        since = update(schema.job).where(mine).values(started_at=time.time() - seconds_ago)
        do(ledger, lambda tx, statement=since: tx.execute(statement))
        gauges.show(settings, ledger, Catalog({"slow": Slow}), ())
        counted.append(REGISTRY.get_sample_value("radnode_jobs_overdue"))
    assert counted == [0, 0, 1]


class Slow(App[AppOptions]):
    resources = Resources(timeout=300)


def test_jobs_are_found_by_the_beginning_of_their_id_and_by_filters(ledger: Ledger) -> None:
    make_job(ledger, "aa1")
    make_job(ledger, "ab2", app="other")
    with ledger.read() as tx:
        assert select_jobs(tx, ["aa"], states=("waiting",)) == ["aa1"]
        assert select_jobs(tx, [], states=("waiting",), app="other") == ["ab2"]
        assert select_jobs(tx, ["a%"], states=("waiting",)) == []
        assert Views(tx, None).job("ab")["app"] == "other"


# ---- deliveries ---------------------------------------------------------------------------------------------------


def test_deliveries_go_by_priority_and_age_and_one_destination_is_served_by_one_worker(ledger: Ledger) -> None:
    make_done(ledger, "a", 1, send_to=("pacs", "research"))
    make_done(ledger, "b", 2, send_to=("pacs",), priority=URGENT)
    first = claimed_delivery(ledger)
    assert (first.destination, first.job_id, first.state, first.attempt) == ("pacs", "b", "sending", 1)
    assert claimed_delivery(ledger, OTHER).destination == "research"
    assert claim_delivery(ledger, OTHER) is None
    assert do(ledger, deliveries.runnable, ledger.now()) == 0
    assert do(ledger, deliveries.delivered, first)
    assert claimed_delivery(ledger, OTHER).job_id == "a"


def test_many_workers_at_once_never_serve_one_destination_twice(ledger: Ledger, database: Database) -> None:
    places = ("pacs", "research")
    for number in range(20):
        make_done(ledger, str(number), number, send_to=places)
    lock, serving, crowded, sent = threading.Lock(), Counter[str](), [], Counter[tuple[str, str]]()

    def serve(owner: str) -> None:
        own = database.open()
        while sent.total() < 40:
            delivery = claim_delivery(own, owner)
            if delivery is None:
                time.sleep(0.002)
                continue
            with lock:
                serving[delivery.destination] += 1
                crowded.append(serving[delivery.destination])
                sent[delivery.job_id, delivery.destination] += 1
                serving[delivery.destination] -= 1
            assert do(own, deliveries.delivered, delivery)
        own.close()

    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(serve, f"worker-{number}") for number in range(6)]:
            each.result()
    assert set(crowded) == {1}
    assert sent == {(str(number), place): 1 for number in range(20) for place in places}


def test_two_claims_at_the_same_moment_do_not_both_get_one_destination(ledger: Ledger) -> None:
    for number in range(8):
        make_done(ledger, str(number), number)
    meet = threading.Barrier(4)

    def at_once(owner: str) -> Row[Any] | None:
        meet.wait()
        return claim_delivery(ledger, owner)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(8):
            (one,) = [each for each in pool.map(at_once, "wxyz") if each is not None]
            assert do(ledger, deliveries.delivered, one)


def test_what_a_destination_has_taken_is_not_pending_again_and_what_it_refused_comes_last(ledger: Ledger) -> None:
    make_done(ledger, "a", 1, 2, 3)
    delivery = claimed_delivery(ledger)
    answers = [("2.25.1", 0x0000, "", True), ("2.25.2", 0xA700, "full\0", False)]
    do(ledger, deliveries.record_sent, delivery, answers)
    do(ledger, deliveries.record_sent, delivery, answers)
    assert [each.sop_instance_uid for each in do(ledger, deliveries.pending, delivery)] == ["2.25.3", "2.25.2"]
    do(ledger, deliveries.record_sent, delivery, [("2.25.2", 0x0000, "", True), ("2.25.1", None, "", False)])
    assert [each.sop_instance_uid for each in do(ledger, deliveries.pending, delivery)] == ["2.25.3"]
    assert {each.sop_instance_uid: each.stored for each in rows(ledger, schema.sent)} == {
        "2.25.1": True, "2.25.2": True,
    }  # fmt: skip


def test_a_worker_that_lost_its_delivery_can_change_nothing_about_it(ledger: Ledger) -> None:
    make_done(ledger, "a", 1)
    lost = claimed_delivery(ledger, WORKER)
    do(ledger, deliveries.release_lost, WORKER)
    current = claimed_delivery(ledger, OTHER)
    assert current.attempt == 2
    assert not do(ledger, deliveries.delivered, lost)
    assert not do(ledger, deliveries.park, lost, "late")
    assert not do(ledger, deliveries.expire, lost)
    assert not do(ledger, deliveries.postpone, lost, "late", ledger.now(), peer_down=True)
    assert rows(ledger, schema.delivery) == [current]
    assert rows(ledger, schema.destination) == []


def test_a_destination_that_is_down_rests_whole_and_delays_no_other(ledger: Ledger) -> None:
    make_done(ledger, "a", 1, send_to=("broken", "pacs"))
    make_done(ledger, "b", 2, send_to=("broken", "pacs"))
    now = ledger.now()
    down = claimed_delivery(ledger, now=now)
    assert down.destination == "broken"
    assert do(ledger, deliveries.postpone, down, "refused", now, peer_down=True)
    for name in ("a", "b"):
        delivery = claimed_delivery(ledger, now=now)
        assert (delivery.destination, delivery.job_id) == ("pacs", name)
        assert do(ledger, deliveries.delivered, delivery)
    assert claim_delivery(ledger, now=now) is None
    assert do(ledger, deliveries.runnable, now) == 0
    with ledger.read() as tx:
        said = {job: Views(tx, None).job(job)["deliveries"] for job in ("a", "b")}
    assert [each["error"] for each in said["a"]] == ["refused", ""]
    assert [each["error"] for each in said["b"]] == [
        "broken has failed 1 times in a row; it is tried again by itself",
        "",
    ]
    assert do(ledger, deliveries.runnable, now + 60) == 1
    back = claimed_delivery(ledger, now=now + 60)
    assert (back.destination, back.failures, back.error) == ("broken", 1, "refused")
    assert do(ledger, deliveries.delivered, back)
    assert claimed_delivery(ledger, now=now).job_id == "b"  # it answers again: nothing waits any longer


def test_one_objects_transient_refusal_delays_only_its_own_delivery(ledger: Ledger) -> None:
    make_done(ledger, "a", 1)
    make_done(ledger, "b", 2)
    now = ledger.now()
    do(ledger, deliveries.postpone, claimed_delivery(ledger, now=now), "0xA700", now, peer_down=False)
    assert claimed_delivery(ledger, now=now).job_id == "b"


def test_a_peer_that_is_down_for_days_does_not_fill_the_timeline(ledger: Ledger) -> None:
    make_done(ledger, "a", 1)
    for number in range(40):
        now = 1e9 + number * 1000
        do(ledger, deliveries.postpone, claimed_delivery(ledger, now=now), "refused", now, peer_down=True)
    assert events(ledger, "a").count("postponed") == 3 + 4


def test_a_restarted_core_lets_everything_try_at_once(ledger: Ledger) -> None:
    make_done(ledger, "a", 1)
    now = ledger.now()
    do(ledger, deliveries.postpone, claimed_delivery(ledger, now=now), "refused", now + 1e6, peer_down=True)
    do(ledger, deliveries.wake_all)
    assert claim_delivery(ledger, now=now) is not None


@pytest.mark.parametrize("how", ["park", "expire"])
def test_what_waits_for_a_person_is_retried_at_once_without_what_was_taken(ledger: Ledger, how: str) -> None:
    make_done(ledger, "a", 1, 2, expire=60.0)
    delivery = claimed_delivery(ledger)
    do(ledger, deliveries.record_sent, delivery, [("2.25.1", 0, "", True)])
    assert do(ledger, getattr(deliveries, how), delivery, *(["0xA900"] if how == "park" else []))
    assert claim_delivery(ledger) is None
    with ledger.read() as tx:
        assert select_deliveries(tx, ["a"], states=("parked", "expired")) == [delivery.id]
    assert do(ledger, deliveries.retry, delivery.id, "anna")
    again = claimed_delivery(ledger)
    assert (again.failures, again.error, again.expires_at) == (0, "", None)
    assert [each.sop_instance_uid for each in do(ledger, deliveries.pending, again)] == ["2.25.2"]
    assert not do(ledger, deliveries.retry, delivery.id, "anna")


def test_a_resend_sends_everything_but_not_while_it_is_being_sent(ledger: Ledger) -> None:
    make_done(ledger, "a", 1, 2)
    delivery = claimed_delivery(ledger)
    assert not do(ledger, deliveries.resend, delivery.id, "anna")
    do(ledger, deliveries.record_sent, delivery, [("2.25.1", 0, "", True), ("2.25.2", 0, "", True)])
    do(ledger, deliveries.delivered, delivery)
    assert do(ledger, deliveries.resend, delivery.id, "anna")
    assert len(do(ledger, deliveries.pending, claimed_delivery(ledger))) == 2


def test_deliveries_to_a_paused_destination_wait(ledger: Ledger) -> None:
    make_done(ledger, "a", 1, send_to=("pacs", "research"))
    do(ledger, pauses.pause, "destination", "pacs", "anna")
    assert do(ledger, deliveries.runnable, ledger.now()) == 1
    assert claimed_delivery(ledger).destination == "research"
    assert claim_delivery(ledger) is None
    do(ledger, pauses.resume, "pacs")
    assert claimed_delivery(ledger).destination == "pacs"


def test_a_destination_added_to_a_done_job_gets_its_kept_results(ledger: Ledger) -> None:
    make_done(ledger, "a", 1)
    do(ledger, deliveries.delivered, claimed_delivery(ledger))
    do(ledger, jobs.add_destinations, "a", ("pacs", "research"))
    (new,) = [each for each in rows(ledger, schema.delivery) if each.state == "waiting"]
    assert new.destination == "research"
    assert len(rows(ledger, schema.delivery)) == 2


def test_what_waits_is_counted_by_destination(ledger: Ledger) -> None:
    make_done(ledger, "a", 1, send_to=("pacs", "research"))
    make_done(ledger, "b", 2)
    do(ledger, deliveries.park, claimed_delivery(ledger), "0xA900")
    with ledger.read() as tx:
        oldest = dict(tx.execute(select(schema.delivery.c.id, schema.delivery.c.created_at)).all())
    assert sorted(do(ledger, deliveries.states)) == [
        ("pacs", "parked", 1, oldest[1]),
        ("pacs", "waiting", 1, oldest[3]),
        ("research", "waiting", 1, oldest[2]),
    ]
