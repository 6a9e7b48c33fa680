"""A study that a rule left only because one attribute is absent is listed; it is no alarm."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from radnode.run import look
from tests.desk import TEST_APP, Desk
from tests.road import small_ct

NEAR = "{name: near, app: test, send_to: [a], when: {Modality: CT, BodyPartExamined: HEAD, ContrastBolusAgent: IODINE}}"
FAR = "{name: far, app: test, send_to: [a], when: {Modality: MR, ContrastBolusAgent: IODINE}}"
WRONG = "{name: wrong, app: test, send_to: [a], when: {Modality: MR}}"
OF_STUDY = "{name: whole, app: test, level: study, send_to: [a], when: {Modality: CT, ContrastBolusAgent: IODINE}}"


def shown(desk: Desk, wanted: str = "") -> str:
    console = Console(width=300)
    with console.capture() as said:
        found = look.studies(desk.settings, wanted)
        console.print(look.render_studies(found, detailed=bool(wanted), nothing=""))
    return said.get()


def test_a_study_left_for_want_of_one_attribute_is_listed_with_the_rule_and_the_attribute(
    desk: Desk, tmp_path: Path
) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(NEAR, FAR, WRONG, OF_STUDY)
    desk.push(files)
    (listed,) = look.studies(desk.settings, near_misses=True)
    series = listed["series"][0]["SeriesInstanceUID"]
    found = [(each["rule"], each["keyword"], each["SeriesInstanceUID"]) for each in listed["near_misses"]]
    assert found == [("near", "ContrastBolusAgent", series), ("whole", "ContrastBolusAgent", "")]
    assert listed["near_misses"][0]["reason"] == 'ContrastBolusAgent is absent, wanted "IODINE"'
    assert listed["state"] == "done"
    assert look.studies(desk.settings, attention=True) == look.studies(desk.settings, attention=True, near_misses=True)
    assert look.studies(desk.settings, attention=True) == []
    assert "near: no ContrastBolusAgent; whole: no ContrastBolusAgent" in shown(desk)
    assert "rule whole (line 2) wants ContrastBolusAgent, which is absent" in shown(desk, listed["StudyInstanceUID"])
    desk.route(NEAR.replace(", ContrastBolusAgent: IODINE", ""))
    desk.push(files)  # the rule is changed, and the study pushed again
    assert (desk.states(), desk.study()["near_misses"]) == (["waiting"], [])


def test_a_study_that_some_rule_took_or_that_no_rule_was_near_to_is_not_listed(desk: Desk, tmp_path: Path) -> None:
    desk.route(FAR, WRONG)
    desk.push(small_ct(tmp_path / "far", 1))
    desk.route(NEAR, TEST_APP)
    desk.push(small_ct(tmp_path / "taken", 2))
    assert look.studies(desk.settings, near_misses=True) == []
    assert len(look.studies(desk.settings)) == 2


def test_no_more_studies_are_looked_at_than_are_asked_for(desk: Desk, tmp_path: Path) -> None:
    desk.route(NEAR)
    desk.push(small_ct(tmp_path / "near", 1))
    desk.route(WRONG)
    desk.push(small_ct(tmp_path / "newer", 2))
    assert look.studies(desk.settings, near_misses=True, limit=1) == []
    assert len(look.studies(desk.settings, near_misses=True, limit=2)) == 1
