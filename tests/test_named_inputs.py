"""Study rules with named inputs: when their jobs are made, what they wait for, and what happens when it never comes."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import select, update

from radnode.domain.jobs import SeriesLabel
from radnode.run import look
from radnode.state import generations, schema, waits
from radnode.state.ledger import Ledger
from tests.databases import Database
from tests.judging import Judge

FLAIR: dict[str, Any] = {"Modality": "MR", "SeriesDescription": "AX FLAIR"}
T1CE: dict[str, Any] = {"Modality": "MR", "SeriesDescription": "T1 GAD"}


def rule(wait: str = "", inputs: str = "") -> str:
    return (
        "defaults: {send_to: []}\nrules:\n  - {name: glioma, app: test, level: study, when: {Modality: MR}, "
        f"{wait and f'wait: {wait}, '}"
        "inputs: {flair: {SeriesDescription: '*FLAIR*'}, t1ce: {SeriesDescription: '*T1*GAD*'}"
        f"{inputs}}}}}\n"
    )


@pytest.fixture
def home(database: Database) -> Path:
    return database.home


def skip(ledger: Ledger, seconds: float) -> None:
    """Time passes for all that waits."""
    with ledger.begin() as tx:
        tx.execute(update(schema.wait).values(until=schema.wait.c.until - seconds))


def test_the_job_is_made_when_the_last_input_is_complete_not_when_the_study_is_quiet(
    ledger: Ledger, home: Path
) -> None:
    judge = Judge(home, ledger, rule())
    judge.receives("1", **FLAIR)
    judge.series_quiet("1")
    assert judge.jobs() == []
    judge.receives("2", **T1CE)
    judge.receives("3", Modality="MR", SeriesDescription="DTI")
    judge.series_quiet("2")
    (job,) = judge.jobs()
    assert (job["state"], judge.inputs(job)) == ("waiting", {"flair": {"1"}, "t1ce": {"2"}})
    assert judge.view()["state"] == "receiving"
    judge.study_quiet()
    assert [each["id"] for each in judge.jobs()] == [job["id"]]
    (verdict,) = judge.events("study complete")[0]["rules"]
    assert verdict["inputs"] == {"flair": "1", "t1ce": "2"}


def test_a_job_knows_what_its_inputs_lack_and_a_whole_study_what_that_lacks(ledger: Ledger, home: Path) -> None:
    whole = "  - {name: all, app: test, level: study, when: {Modality: MR}, options: {a: 1}}\n"
    each = "  - {name: each, app: test, when: {SeriesDescription: '*FLAIR*'}, series: {number: 700}}\n"
    judge = Judge(home, ledger, rule() + whole + each)
    judge.receives("1", NumberOfSeriesRelatedInstances=5, NumberOfStudyRelatedInstances=15, **FLAIR)
    judge.receives("2", NumberOfStudyRelatedInstances=15, **T1CE)
    judge.receives("3", NumberOfStudyRelatedInstances=15, Modality="MR", SeriesDescription="DTI")
    judge.study_quiet()
    with ledger.read() as tx:
        labels = {job.rule: SeriesLabel(**job.label) for job in tx.execute(select(schema.job))}
    assert labels == {
        "each": SeriesLabel(700, missing=3),
        "glioma": SeriesLabel(missing=3),
        "all": SeriesLabel(missing=9),
    }


def test_a_series_still_coming_in_that_fits_an_input_is_waited_for(ledger: Ledger, home: Path) -> None:
    judge = Judge(home, ledger, rule())
    judge.receives("1", **FLAIR)
    judge.receives("2", **T1CE)
    judge.receives("4", 3, **T1CE)
    judge.series_quiet("1")
    judge.series_quiet("2")
    assert judge.jobs() == []
    judge.series_quiet("4")
    (job,) = judge.jobs()
    assert judge.inputs(job)["t1ce"] == {"4"}


def test_an_optional_input_is_waited_for_until_the_study_is_quiet(ledger: Ledger, home: Path) -> None:
    judge = Judge(home, ledger, rule(inputs=", t2: {SeriesDescription: '*T2*', optional: true}"))
    judge.receives("1", **FLAIR)
    judge.receives("2", **T1CE)
    judge.series_quiet("1")
    judge.series_quiet("2")
    assert judge.jobs() == []
    judge.study_quiet()
    (job,) = judge.jobs()
    assert judge.inputs(job) == {"flair": {"1"}, "t1ce": {"2"}}


def test_without_wait_a_study_that_lacks_an_input_is_not_taken_and_says_why(ledger: Ledger, home: Path) -> None:
    judge = Judge(home, ledger, rule())
    judge.receives("1", **FLAIR)
    judge.study_quiet()
    (said,) = judge.events("study complete")[0]["rules"]
    assert (said["matched"], said["missing"]) == (False, ["t1ce"])
    assert said["reason"].startswith('no series for input t1ce: SeriesDescription is "AX FLAIR"')
    assert (judge.jobs(), judge.view()["state"]) == ([], "done")
    shown = StringIO()
    Console(file=shown, width=200).print(look.render_studies([judge.view()], detailed=True, nothing=""))
    whole = shown.getvalue().partition("the study as a whole")[2]
    assert "✗ glioma: no series for input t1ce" in whole


@pytest.mark.parametrize("then", ["run", "give_up"])
def test_nothing_runs_until_the_wait_for_an_input_ends_and_then_what_the_rule_says(
    ledger: Ledger, home: Path, then: str
) -> None:
    judge = Judge(home, ledger, rule(f"{{for: 30m, then: {then}}}"))
    judge.receives("1", **FLAIR)
    judge.study_quiet()
    assert judge.view()["state"] == "complete"
    (waiting,) = judge.view()["waits"]
    assert (waiting["rule"], waiting["missing"]) == ("glioma", ["t1ce"])
    skip(ledger, 29 * 60)
    judge.completion.end_waits(judge.routing)
    assert judge.jobs() == []
    again = Judge(home, ledger, rule(f"{{for: 30m, then: {then}}}"))  # core was started anew
    with ledger.begin() as tx:
        waits.after_restart(tx, ledger.now())
    skip(ledger, 61)
    again.completion.end_waits(again.routing)
    (job,) = again.jobs()
    assert again.inputs(job) == {"flair": {"1"}}
    (ended,) = again.events("wait over")
    assert (ended["missing"], ended["then"]) == ("t1ce", then)
    assert again.view()["waits"] == []
    if then == "run":
        assert (job["state"], again.tickets.sent) == ("waiting", ["cpu"])
        return
    assert (job["state"], job["error"], again.tickets.sent) == ("held", "input t1ce never came", [])
    assert again.view()["state"] == "attention"
    with ledger.begin() as tx:
        assert generations.again(tx, job["id"], "anna")  # run it without
    assert again.jobs()[0]["state"] == "waiting"


def test_an_input_that_comes_while_it_is_waited_for_makes_the_one_job(ledger: Ledger, home: Path) -> None:
    judge = Judge(home, ledger, rule("30m"))
    judge.receives("1", **FLAIR)
    judge.study_quiet()
    judge.receives("2", **T1CE)
    skip(ledger, 31 * 60)
    judge.completion.end_waits(judge.routing)  # the study receives again: what comes may be what is missing
    assert judge.jobs() == []
    judge.series_quiet("2")
    (job,) = judge.jobs()
    assert judge.inputs(job) == {"flair": {"1"}, "t1ce": {"2"}}
    assert judge.view()["waits"] == []
    judge.study_quiet()
    judge.completion.end_waits(judge.routing)
    assert len(judge.jobs()) == 1


def test_an_input_that_comes_after_its_rule_gave_up_takes_the_held_jobs_place(ledger: Ledger, home: Path) -> None:
    judge = Judge(home, ledger, rule("30m"))
    judge.receives("1", **FLAIR)
    judge.study_quiet()
    skip(ledger, 31 * 60)
    judge.completion.end_waits(judge.routing)
    judge.receives("2", **T1CE)
    judge.series_quiet("2")
    held, whole = judge.jobs()
    assert (held["state"], whole["state"]) == ("cancelled", "waiting")
    assert judge.inputs(whole) == {"flair": {"1"}, "t1ce": {"2"}}


def test_a_wait_is_not_begun_anew_by_other_series_and_outlives_a_reboot(ledger: Ledger, home: Path) -> None:
    judge = Judge(home, ledger, rule("30m"))
    judge.receives("1", **FLAIR)
    judge.study_quiet()
    skip(ledger, 20 * 60)
    judge.receives("5", Modality="MR", SeriesDescription="DTI")
    judge.study_quiet()
    skip(ledger, 11 * 60)
    judge.completion.end_waits(judge.routing)
    assert [each["state"] for each in judge.jobs()] == ["held"]
    with ledger.begin() as tx:  # the clock of the host starts at 0 again
        waits.begin(tx, 1, "another", ["x"], 60, ledger.now() + 1e6)
        waits.after_restart(tx, ledger.now())
        (left,) = waits.of_study(tx, 1)
    assert left.until <= ledger.now() + 60
