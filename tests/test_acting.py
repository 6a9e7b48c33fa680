"""What a person decides about deliveries: whom a command means, what it leaves alone, and what brings it back."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from radnode.run import act
from radnode.state import deliveries, schema
from tests.desk import Desk
from tests.road import small_ct

TWO_PLACES = "{name: wiring, app: test, send_to: [a, b]}"
UNSENT = ("waiting", "parked", "held", "expired")


@pytest.fixture
def job(desk: Desk, tmp_path: Path) -> str:
    """The ID of a job that is done, with deliveries to a (the first) and b (the second) that wait."""
    desk.route(TWO_PLACES)
    desk.push(small_ct(tmp_path / "study", 1))
    return str(desk.run().id)


def put(desk: Desk, state: str, place: str = "a") -> None:
    here = schema.delivery.c.destination == place
    with desk.ledger.begin() as tx:
        tx.execute(update(schema.delivery).where(here).values(state=state))


@pytest.mark.parametrize("state", UNSENT)
def test_a_cancelled_delivery_waits_for_nobody_until_its_job_is_retried(desk: Desk, job: str, state: str) -> None:
    put(desk, state)
    chosen = act.Filter((job,), destination="a")
    assert act.cancel(desk.settings, chosen, dry_run=True) == (["delivery 1"], [])
    assert dict(desk.sent()) == {"a": state, "b": "waiting"}
    assert act.cancel(desk.settings, chosen) == (["delivery 1"], [])
    assert dict(desk.sent()) == {"a": "cancelled", "b": "waiting"}
    assert [(each["destination"], bool(each["who"]), each["stored"]) for each in desk.events("delivery cancelled")] == [
        ("a", True, 0)
    ]
    assert act.cancel(desk.settings, chosen) == ([], [])
    desk.deliver()
    assert desk.study()["state"] == "done"
    assert act.retry(desk.settings, chosen) == ["delivery 1"]
    desk.deliver()
    assert dict(desk.sent()) == {"a": "delivered", "b": "delivered"}


def test_what_is_being_sent_is_named_and_left_to_end(desk: Desk, job: str) -> None:
    sent = desk.deliver(stored=False)
    assert act.cancel(desk.settings, act.Filter((job,))) == (["delivery 2"], ["delivery 1"])
    with desk.ledger.begin() as tx:
        assert deliveries.give_back(tx, sent)
    assert dict(desk.sent()) == {"a": "waiting", "b": "cancelled"}
    assert act.cancel(desk.settings, act.Filter((job,), state="waiting")) == (["delivery 1"], [])


def test_the_timeline_says_how_much_of_a_cancelled_delivery_is_there(desk: Desk, job: str) -> None:
    sent = desk.deliver(stored=False)
    with desk.ledger.begin() as tx:
        uid = deliveries.pending(tx, sent)[0].sop_instance_uid
        deliveries.record_sent(tx, sent, [(uid, 0, "", True)])
        assert deliveries.park(tx, sent, "0xA900")
    act.cancel(desk.settings, act.Filter((job,), state="parked"))
    assert [each["stored"] for each in desk.events("delivery cancelled")] == [1]


def test_filters_cancel_jobs_and_deliveries_and_a_destination_only_deliveries(
    desk: Desk, job: str, tmp_path: Path
) -> None:
    desk.push(small_ct(tmp_path / "other", 2))
    other = desk.jobs()[1].id
    assert act.cancel(desk.settings, act.Filter(rule="else")) == ([], [])
    both = ([f"job {other}", "delivery 1", "delivery 2"], [])
    for chosen in (act.Filter(app="test"), act.Filter(rule="wiring"), act.Filter(since="1h")):
        assert act.cancel(desk.settings, chosen, dry_run=True) == both
    assert act.cancel(desk.settings, act.Filter(app="test", destination="b")) == (["delivery 2"], [])
    assert desk.states() == ["done", "waiting"]
    assert act.cancel(desk.settings, act.Filter(state="waiting")) == ([f"job {other}", "delivery 1"], [])


def test_what_was_cancelled_comes_back_by_name_or_state_and_by_no_other_filter(desk: Desk, job: str) -> None:
    act.cancel(desk.settings, act.Filter((job,), destination="a"))
    put(desk, "parked", "b")
    assert act.retry(desk.settings, act.Filter(rule="wiring"), dry_run=True) == ["delivery 2"]
    assert act.resend(desk.settings, act.Filter(app="test"), dry_run=True) == ["delivery 2"]
    for again in (act.retry, act.resend):
        assert again(desk.settings, act.Filter(state="cancelled"), dry_run=True) == ["delivery 1"]
        assert again(desk.settings, act.Filter((job,)), dry_run=True) == ["delivery 1", "delivery 2"]


def test_a_new_destination_gets_the_results_without_the_cancelled_delivery_coming_back(
    desk: Desk, tmp_path: Path
) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files)
    act.cancel(desk.settings, act.Filter((desk.run().id,)))
    desk.push(files)
    assert desk.sent() == [("a", "cancelled")]
    desk.route(TWO_PLACES)
    desk.push(files)
    assert desk.sent() == [("a", "cancelled"), ("b", "waiting")]


def test_what_no_rule_wants_any_more_is_not_brought_back(desk: Desk, job: str) -> None:
    act.cancel(desk.settings, act.Filter((job,), destination="a"))
    with desk.ledger.begin() as tx:
        deliveries.withdraw(tx, job)  # a newer generation, or a rejection note
    assert dict(desk.sent()) == {"a": "cancelled", "b": "cancelled"}
    for chosen in (act.Filter((job,)), act.Filter(state="cancelled")):
        assert act.retry(desk.settings, chosen) == act.resend(desk.settings, chosen) == []


def test_what_a_person_sends_again_after_all_is_tried_until_it_is_there(desk: Desk, job: str) -> None:
    sent = desk.deliver(stored=False)
    with desk.ledger.begin() as tx:
        deliveries.withdraw(tx, job)
        pending = deliveries.pending(tx, sent)
        deliveries.record_sent(tx, sent, [(each.sop_instance_uid, 0, "", True) for each in pending])
        assert deliveries.delivered(tx, sent)
    assert act.resend(desk.settings, act.Filter((job,))) == ["delivery 1"]
    again = desk.deliver(stored=False)
    with desk.ledger.begin() as tx:
        assert deliveries.postpone(tx, again, "it is down", desk.ledger.now(), peer_down=True)
    assert dict(desk.sent())["a"] == "waiting"


def test_resend_takes_the_deliveries_in_a_state_and_rerun_the_jobs_with_one_to_a_destination(
    desk: Desk, job: str, tmp_path: Path
) -> None:
    desk.route("{name: wiring, app: test, send_to: [a]}")
    desk.push(small_ct(tmp_path / "other", 2))
    other = str(desk.run().id)
    put(desk, "delivered")
    put(desk, "parked", "b")
    for state, numbers in {"delivered": [1, 3], "parked": [2], "expired": []}.items():
        named = [f"delivery {each}" for each in numbers]
        assert act.resend(desk.settings, act.Filter(state=state), dry_run=True) == named
    assert act.resend(desk.settings, act.Filter(state="delivered", destination="b")) == []
    for destination, jobs in {"a": [job, other], "b": [job], "c": []}.items():
        chosen = act.Filter(destination=destination)
        assert act.rerun(desk.settings, chosen, dry_run=True) == [f"job {each}" for each in jobs]
    act.rerun(desk.settings, act.Filter(destination="b"))
    assert [each.predecessor for each in desk.jobs()] == ["", "", job]
