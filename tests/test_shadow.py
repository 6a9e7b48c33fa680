"""Shadow rules: everything but the sending, until somebody asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from radnode.run import act, look
from radnode.state import claims, schema
from radnode.state.ledger import Ledger
from tests.databases import Database, result, rows
from tests.judging import Judge

RULE = "{name: %s, app: test, when: {Modality: CT}, send_to: [%s]%s}"


def file_of(*rules: str) -> str:
    places = "".join(f"  {name}: {{aet: {name.upper()}, host: 127.0.0.1, port: 104}}\n" for name in ("a", "b"))
    return "destinations:\n" + places + "rules:\n" + "".join(f"  - {each}\n" for each in rules)


SHADOW = file_of(RULE % ("new", "a", ", mode: shadow"))
LIVE = file_of(RULE % ("new", "a", ""))


@pytest.fixture
def home(database: Database) -> Path:
    return database.home


def finish(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        job = claims.claim(tx, "cpu", "w")
        assert job is not None
        assert claims.finish(tx, job, [result(1)])


def deliveries(ledger: Ledger) -> list[str]:
    return [each.destination for each in rows(ledger, schema.delivery)]


def judged(home: Path, ledger: Ledger, text: str, copy: str = "a") -> Judge:
    judge = Judge(home, ledger, text)
    judge.receives("1", copy=copy, Modality="CT")
    judge.series_quiet("1")
    return judge


def test_a_shadow_job_runs_and_nothing_is_sent(ledger: Ledger, home: Path) -> None:
    judge = judged(home, ledger, SHADOW)
    finish(ledger)
    (job,) = judge.jobs()
    assert (job["state"], job["shadow"], deliveries(ledger)) == ("done", True, [])
    (made,) = judge.events("job")
    assert made["shadow"]


def test_a_study_pushed_again_after_the_promotion_is_delivered_from_the_kept_objects(
    ledger: Ledger, home: Path
) -> None:
    judged(home, ledger, SHADOW)
    finish(ledger)
    judge = judged(home, ledger, LIVE, copy="b")
    (job,) = judge.jobs()
    assert (job["state"], job["shadow"], job["attempt"], deliveries(ledger)) == ("done", False, 1, ["a"])


@pytest.mark.parametrize("first", ["live", "shadow"])
def test_a_live_rule_that_asks_for_the_same_work_is_served_and_the_shadow_rules_destinations_are_not(
    ledger: Ledger, home: Path, first: str
) -> None:
    shadow, live = RULE % ("new", "a", ", mode: shadow"), RULE % ("old", "b", "")
    judged(home, ledger, file_of(*([live, shadow] if first == "live" else [shadow, live])))
    finish(ledger)
    assert deliveries(ledger) == ["b"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_shadow_jobs_have_made_is_delivered_if_asked_for(ledger: Ledger, home: Path) -> None:
    judge = judged(home, ledger, SHADOW)
    finish(ledger)
    (job,) = judge.jobs()
    assert act.promote(judge.settings, "new", "1d", dry_run=True) == [f"job {job['id']}"]
    assert act.promote(judge.settings, "another", "1d") == []
    assert deliveries(ledger) == []
    assert act.promote(judge.settings, "new", "1d") == [f"job {job['id']}"]
    assert act.promote(judge.settings, "new", "1d") == []
    assert deliveries(ledger) == ["a"]
    assert [each["event"] for each in look.job(judge.settings, job["id"])["timeline"]][-1] == "promoted"

