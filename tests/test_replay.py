"""What another routing file would have done: from what the ledger kept, from the spool, or unknown."""

from __future__ import annotations

from typing import Any

import pytest

from radnode.domain.routing import parse_routing
from radnode.run.replay import Replay, render, replay
from radnode.state.ledger import Ledger
from tests.databases import Database
from tests.judging import Apps, Judge

CT = {"Modality": "CT", "StudyDescription": "CT HEAD"}
RULES = """\
defaults: {send_to: []}
rules:
  - {name: head, app: test, when: {Modality: CT, SliceThickness: {max: 5}}}
  - {name: all-mr, app: test, level: study, when: {Modality: MR}}
"""


@pytest.fixture
def judge(database: Database, ledger: Ledger) -> Judge:
    judge = Judge(database.home, ledger, RULES)
    judge.receives("1", SliceThickness="5", KVP="120", **CT)
    judge.receives("2", SliceThickness="1", KVP="80", **CT)
    judge.receives("3", study="1.2.4", Modality="MR", SeriesDescription="FLAIR")
    judge.receives("4", study="1.2.5", **CT)
    judge.study_quiet()
    judge.study_quiet(study="1.2.4")
    return judge


pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def replayed(judge: Judge, text: str) -> Replay:
    return replay(judge.settings, parse_routing(text, catalog=Apps()), "30d")


def said(found: Replay, rule: str) -> dict[str, Any]:
    (one,) = [each for each in found.to_json()["rules"] if each["rule"] == rule]
    return {key: [each["SeriesInstanceUID"] for each in value] if isinstance(value, list) else value
            for key, value in one.items()}  # fmt: skip


def test_the_same_file_would_have_done_what_happened(judge: Judge) -> None:
    found = replayed(judge, RULES)
    assert (found.studies, found.receiving) == (2, 1)
    assert said(found, "head") == {
        "rule": "head", "before": 2, "after": 2, "gained": [], "lost": [], "unknown": [],
    }  # fmt: skip
    assert said(found, "all-mr")["after"] == 1


def test_the_difference_names_what_would_come_and_go_and_why(judge: Judge) -> None:
    found = replayed(judge, RULES.replace("{max: 5}", "{max: 3}").replace("level: study, when: {Modality: MR}", ""))
    assert said(found, "head") == {
        "rule": "head", "before": 2, "after": 1, "gained": [], "lost": ["1"], "unknown": [],
    }  # fmt: skip
    (reason,) = found.differences[0].lost.values()
    assert reason == 'SliceThickness is "5", wanted at most 3'
    assert said(found, "all-mr")["gained"] == ["1", "2", "3"]
    assert said(found, "all-mr")["lost"] == [""]  # of level study before
    gone = replayed(judge, "rules: []\n")
    assert {each.rule: (each.before, each.after) for each in gone.differences} == {"all-mr": (1, 0), "head": (2, 0)}


def test_an_attribute_that_was_not_kept_is_read_from_the_spool_and_unknown_without_it(judge: Judge) -> None:
    asks = "InstanceNumber: {max: 9}, '(0019,xx10) A': absent, DateOfSecondaryCapture: absent"
    text = RULES.replace("SliceThickness: {max: 5}", asks)
    assert said(replayed(judge, text), "head")["after"] == 2
    for path in judge.settings.spool.glob("instances/*/a-1-*.dcm"):
        path.unlink()
    found = said(replayed(judge, text), "head")
    assert (found["after"], found["unknown"]) == (1, ["1"])
    certain = said(replayed(judge, text.replace("Modality: CT", "Modality: US")), "head")
    assert (certain["unknown"], certain["lost"]) == ([], ["1", "2"])  # it fails whatever the unknown was


def test_what_is_shown_names_each_difference(judge: Judge) -> None:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as shown:
        console.print(render(replayed(judge, RULES.replace("{max: 5}", "{max: 3}"))))
    assert "head: matched 2, would match 1" in shown.get()
    assert '- 1.2.3 1  SliceThickness is "5", wanted at most 3' in shown.get()


def test_the_study_level_is_replayed_with_its_inputs(judge: Judge) -> None:
    rule = "{name: one, app: test, level: study, inputs: {thin: {SliceThickness: {max: 2}}}}"
    found = replayed(judge, f"defaults: {{send_to: []}}\nrules: [{rule}]\n")
    assert list(found.differences[0].gained) == [("1.2.3", "")]
    assert found.differences[0].gained["1.2.3", ""] == "thin is a series of 2 instances"
