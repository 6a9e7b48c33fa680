"""Images that come late, again, or corrected: one current result per rule, and what it replaces stays unsent."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from radnode.domain.generations import Asked, Step, next_step
from radnode.domain.jobs import JobState
from radnode.run import act
from radnode.state import claims, deliveries, generations, jobs, schema
from tests.databases import rows
from tests.desk import Desk
from tests.road import small_ct, two_series

STUDY_APP = "{name: wiring, app: test, level: study, send_to: [a]}"


def with_late(policy: str) -> str:
    return f"{{name: wiring, app: test, send_to: [a], late: {policy}, notify: [late], mail_to: [a@b.org]}}"


def told(desk: Desk) -> list[tuple[str, str, str]]:
    """(channel, event, reason) of what others are to be told."""
    return [(each.channel, each.event, each.reason) for each in rows(desk.ledger, schema.notification)]


def edited(files: list[Path], folder: Path, **changes: object) -> list[Path]:
    """Copies with other values of some attributes."""
    folder.mkdir(exist_ok=True)
    made = []
    for file in files:
        ds = dcmread(file)
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
        ds.save_as(folder / file.name)
        made.append(folder / file.name)
    return made


def other(files: list[Path], folder: Path, sop_class: str, modality: str) -> list[Path]:
    """One object of another kind in a series of its own, in the study of these files."""
    ds = dcmread(files[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SeriesInstanceUID += ".7"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID}.7"
    ds.Modality = modality
    folder.mkdir()
    ds.save_as(folder / "other.dcm")
    return [folder / "other.dcm"]


# ---- late ------------------------------------------------------------------------------------------------------------


def test_late_images_make_a_job_of_the_whole_series_that_supersedes_the_one_before(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files[:3])
    desk.run()
    desk.deliver()
    desk.push(files[3:])
    first, second = desk.jobs()
    assert (second.predecessor, second.supersedes, first.superseded_by) == (first.id, first.id, second.id)
    assert len(desk.inputs(second)) == 4
    assert [each["why"] for each in desk.events("job")] == ["", "late images"]
    desk.run()
    desk.deliver()
    assert desk.sent() == [("a", "delivered")] * 2
    assert desk.study()["state"] == "done"


def test_what_the_generation_before_had_not_sent_is_not_sent_any_more(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: wiring, app: test, send_to: [a, b]}")
    desk.push(files[:3])
    desk.run()
    served = desk.deliver().destination
    desk.push(files[3:])
    first, second = desk.jobs()
    assert dict(desk.sent()) == {"a": "cancelled", "b": "cancelled"} | {served: "delivered"}
    assert second.supersedes == first.id
    desk.run()
    assert sorted(desk.sent()[2:]) == [("a", "waiting"), ("b", "waiting")]


@pytest.mark.parametrize("how", ["postpone", "park", "give back", "release lost"])
def test_a_delivery_in_hand_that_fails_after_it_was_superseded_is_not_tried_again(
    desk: Desk, tmp_path: Path, how: str
) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files[:3])
    desk.run()
    delivery = desk.deliver(stored=False)
    desk.push(files[3:])
    assert desk.sent() == [("a", "sending")]
    assert desk.jobs()[1].supersedes == desk.jobs()[0].id
    with desk.ledger.begin() as tx:
        match how:
            case "postpone":
                deliveries.postpone(tx, delivery, "no answer", 0.0, peer_down=False)
            case "park":
                deliveries.park(tx, delivery, "refused")
            case "give back":
                deliveries.give_back(tx, delivery)
            case _:
                deliveries.release_lost(tx, "worker-2")
    assert desk.sent() == [("a", "cancelled")]


def test_a_job_that_had_not_ended_is_cancelled_and_cannot_deliver_beside_the_new_one(
    desk: Desk, tmp_path: Path
) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files[:2])
    running = desk.start()
    desk.push(files[2:3])
    assert desk.states() == ["cancelled", "waiting"]
    assert not desk.end(running)
    desk.push(files[3:])
    assert desk.states() == ["cancelled", "cancelled", "waiting"]
    assert desk.jobs()[2].supersedes == ""  # nobody has seen anything yet
    desk.run()
    assert desk.sent() == [("a", "waiting")]


def test_a_superseded_job_is_neither_retried_nor_a_matter_for_a_person(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files[:3])
    job = desk.start()
    with desk.ledger.begin() as tx:
        claims.fail(tx, job, "broken")
    assert desk.study()["state"] == "attention"
    desk.push(files[3:])
    assert desk.states() == ["failed", "waiting"]
    assert desk.study()["state"] == "complete"
    with desk.ledger.begin() as tx:
        assert not jobs.retry(tx, job.id, "me")


def test_ignored_late_images_are_noted_and_start_nothing(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(with_late("ignore"))
    desk.push(files[:3])
    desk.run()
    desk.push(files[3:])
    desk.push(files)
    assert desk.states() == ["done"]
    assert [each["images"] for each in desk.events("late images ignored")] == [1, 1]
    assert told(desk) == [(channel, "late", "they are ignored") for channel in ("webhook", "mail")]


def test_held_late_images_wait_for_a_person_beside_the_result_there_is(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(with_late("hold"))
    desk.push(files[:2])
    desk.run()
    desk.push(files[2:3])
    desk.push(files)
    assert desk.states() == ["done", "cancelled", "held"]
    assert desk.sent() == [("a", "waiting")]
    assert desk.study()["state"] == "attention"
    assert {reason for _, _, reason in told(desk)} == {"the new job is held"}
    with desk.ledger.begin() as tx:
        assert generations.again(tx, desk.jobs()[2].id, "me")
    assert desk.states() == ["done", "cancelled", "waiting"]
    assert desk.sent() == [("a", "cancelled")]


def test_a_held_job_that_a_person_cancels_leaves_the_result_there_is(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(with_late("hold"))
    desk.push(files[:3])
    desk.run()
    desk.push(files[3:])
    with desk.ledger.begin() as tx:
        assert jobs.cancel(tx, desk.jobs()[1].id, "me")
    desk.push(files)
    assert desk.states() == ["done", "cancelled"]
    assert desk.sent() == [("a", "waiting")]


def test_a_failed_job_that_is_cancelled_waits_for_nobody_and_can_be_retried(desk: Desk, tmp_path: Path) -> None:
    desk.push(small_ct(tmp_path / "study", 1))
    job = desk.start()
    with desk.ledger.begin() as tx:
        claims.fail(tx, job, "out of memory")
    assert desk.study()["state"] == "attention"
    chosen = act.Filter(state="failed")
    settled = ([f"job {job.id}"], [])
    assert act.cancel(desk.settings, chosen, dry_run=True) == act.cancel(desk.settings, chosen) == settled
    assert (desk.states(), desk.study()["state"]) == (["cancelled"], "done")
    assert [each["job"] for each in desk.events("cancelled")] == [job.id]
    assert act.retry(desk.settings, act.Filter((job.id,))) == [f"job {job.id}"]


def test_notes_and_pictures_made_of_a_study_are_no_late_images(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(STUDY_APP)
    desk.push(files)
    desk.run()
    for number, (sop_class, modality) in enumerate(
        [
            ("1.2.840.10008.5.1.4.1.1.11.1", "PR"),
            ("1.2.840.10008.5.1.4.1.1.88.59", "KO"),
            ("1.2.840.10008.5.1.4.1.1.88.67", "SR"),
            ("1.2.840.10008.5.1.4.1.1.7", "CT"),
        ]
    ):
        desk.push(other(files, tmp_path / f"other{number}", sop_class, modality))
    assert desk.states() == ["done"]
    _, scouts = two_series(tmp_path / "two", 1)
    desk.push(scouts)
    assert desk.states() == ["done", "waiting"]


def test_a_rule_that_asks_for_captures_takes_them(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: wiring, app: test, level: study, when: {Modality: OT}, send_to: [a]}")
    desk.push(files)
    assert desk.states() == []
    desk.push(other(files, tmp_path / "capture", "1.2.840.10008.5.1.4.1.1.7", "OT"))
    assert desk.states() == ["waiting"]


def test_two_rules_that_share_a_job_share_the_next_one_too(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: one, app: test, send_to: [a]}", "{name: two, app: test, send_to: [b]}")
    desk.push(files[:3])
    desk.run()
    desk.push(files[3:])
    assert desk.states() == ["done", "waiting"]
    assert {state for _, state in desk.sent()} == {"cancelled"}
    desk.run()
    assert sorted(desk.sent()[2:]) == [("a", "waiting"), ("b", "waiting")]


def test_a_rule_that_comes_back_to_a_job_that_another_has_kept_stands_with_it_again(
    desk: Desk, tmp_path: Path
) -> None:
    def rules(threshold: int) -> tuple[str, str]:
        bleed = "app: hyperdense, options: {threshold_hu: %d}, send_to: [%s]"
        return f"{{name: one, {bleed % (threshold, 'a')}}}", f"{{name: two, {bleed % (60, 'b')}}}"

    files = small_ct(tmp_path / "study", 1)
    for threshold in (60, 70, 60):
        desk.route(*rules(threshold))
        desk.push(files[:3])
    shared, other = desk.jobs()
    assert (shared.superseded_by, other.superseded_by) == ("", shared.id)
    desk.push(files[3:])
    assert desk.jobs()[2].predecessor == shared.id
    desk.run()
    assert sorted(desk.sent()) == [("a", "waiting"), ("b", "waiting")]


def test_a_rule_that_stays_with_the_earlier_result_still_gets_it(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: one, app: test, send_to: [a]}", "{name: two, app: test, send_to: [b], late: ignore}")
    desk.push(files[:3])
    desk.run()
    desk.push(files[3:])
    assert sorted(desk.sent()) == [("a", "cancelled"), ("b", "waiting")]
    first, second = desk.jobs()
    assert (first.state, first.superseded_by, second.send_to) == ("done", "", ["a"])


def test_a_delivery_in_hand_that_is_withdrawn_and_then_wanted_again_is_tried_until_it_is_there(
    desk: Desk, tmp_path: Path
) -> None:
    files = small_ct(tmp_path / "study", 1)
    one = "{name: one, app: test, send_to: [a]}"
    desk.route(one, "{name: two, app: test, send_to: [b], late: ignore}")
    desk.push(files[:3])
    desk.run()
    delivery = desk.deliver(stored=False)
    assert delivery.destination == "a"
    desk.push(files[3:])
    desk.route(one, "{name: two, app: test, send_to: [a, b], late: ignore}")
    desk.push(files)
    with desk.ledger.begin() as tx:
        assert deliveries.postpone(tx, delivery, "no answer", 0.0, peer_down=False)
    assert sorted(desk.sent()) == [("a", "waiting"), ("b", "waiting")]


# ---- again -----------------------------------------------------------------------------------------------------------


def test_the_same_study_again_computes_nothing_and_sends_what_a_destination_lacks(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files)
    desk.run()
    desk.deliver()
    desk.push(files)
    assert (desk.states(), desk.sent()) == (["done"], [("a", "delivered")])
    desk.route("{name: wiring, app: test, send_to: [a, b]}")
    desk.push(files)
    assert (desk.states(), desk.sent()) == (["done"], [("a", "delivered"), ("b", "waiting")])


def test_a_changed_option_makes_a_result_that_supersedes_the_one_before(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: bleed, app: hyperdense, options: {threshold_hu: 60}, send_to: [a]}")
    desk.push(files)
    desk.run()
    desk.deliver()
    desk.route("{name: bleed, app: hyperdense, options: {threshold_hu: 70}, send_to: [a]}")
    desk.push(files)
    first, second = desk.jobs()
    assert (second.supersedes, desk.events("job")[1]["why"]) == (first.id, "the rule or its app has changed")


def test_a_renamed_rule_takes_the_place_of_its_former_self(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files[:3])
    desk.run()
    desk.deliver()
    desk.route("{name: rewired, app: test, send_to: [a]}")
    desk.push(files[:3])
    assert (desk.states(), desk.sent()) == (["done"], [("a", "delivered")])
    assert [(each["was"], each["rule"]) for each in desk.events("taken over")] == [("wiring", "rewired")]
    desk.push(files[3:])
    first, second = desk.jobs()
    assert (second.supersedes, first.superseded_by) == (first.id, second.id)


@pytest.mark.parametrize(
    "rules",
    [
        ("{name: wiring, app: test, send_to: [a]}", "{name: new, app: test, send_to: [b]}"),  # nothing was renamed
        ("{name: new, app: hyperdense, send_to: [b]}",),  # another app's results are other results
        ("{name: new, app: test, send_to: [b], mode: shadow}",),  # what stands in the PACS is not a trial's
    ],
)
def test_a_rule_that_is_no_renamed_one_leaves_the_results_of_others_alone(
    desk: Desk, tmp_path: Path, rules: tuple[str, ...]
) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files[:3])
    desk.run()
    desk.deliver()
    desk.route(*rules)
    desk.push(files[:3])
    assert desk.events("taken over") == []
    assert desk.jobs()[0].superseded_by == ""


def test_a_rule_that_could_be_one_of_two_that_are_gone_is_neither(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: one, app: test, send_to: [a]}", "{name: two, app: test, send_to: [b]}")
    desk.push(files[:3])
    desk.run()
    desk.route("{name: three, app: test, send_to: [a]}")
    desk.push(files[:3])
    assert desk.events("taken over") == []


def test_a_person_has_a_job_run_again_and_its_result_supersedes_the_one_before(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: one, app: test, send_to: [a]}", "{name: two, app: test, send_to: [b]}")
    desk.push(files)
    job = desk.run()
    desk.deliver()
    with desk.ledger.begin() as tx:
        new = generations.rerun(tx, job.id, "me", job.app_version)
    first, second = desk.jobs()
    assert (second.id, second.predecessor, second.supersedes) == (new, first.id, first.id)
    assert desk.inputs(second) == desk.inputs(first)
    desk.push(files)
    assert desk.states() == ["done", "waiting"]
    desk.run()
    assert sorted(desk.sent()[2:]) == [("a", "waiting"), ("b", "waiting")]


# ---- corrected -------------------------------------------------------------------------------------------------------


def test_another_syntax_or_bookkeeping_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: wiring, app: test, send_to: [a]}", "{name: copy, send_to: [b]}")
    desk.push(files)
    desk.run()
    before = (desk.states(), desk.sent())
    desk.push(edited(files, tmp_path / "noted", InstitutionName="Another"))
    recoded = tmp_path / "recoded"
    recoded.mkdir()
    for file in files:
        ds = dcmread(file)
        assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(recoded / file.name, implicit_vr=True, little_endian=True)
    desk.push(sorted(recoded.iterdir()))
    assert (desk.states(), desk.sent()) == before
    assert [each["differs"] for each in desk.events("differing copy")] == ["syntax or bookkeeping"] * 2


def test_a_corrected_patient_reissues_the_results_without_running_again(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files)
    desk.run()
    desk.deliver()
    desk.push(edited(files, tmp_path / "renamed", PatientID="RIGHT"))
    first, second = desk.jobs()
    assert (second.reissues, second.supersedes, second.work) == (first.id, first.id, first.work)
    assert desk.study()["PatientID"] == "RIGHT"
    assert desk.inputs(second) != desk.inputs(first)
    desk.push(edited(files, tmp_path / "renamed", PatientID="RIGHT"))
    assert len(desk.jobs()) == 2


def test_a_correction_before_the_job_ran_makes_it_run_on_the_corrected_copies(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files)
    desk.push(edited(files, tmp_path / "renamed", PatientID="RIGHT"))
    first, second = desk.jobs()
    assert (first.state, second.state, second.reissues, second.supersedes) == ("cancelled", "waiting", "", "")


@pytest.mark.parametrize("late", ["rerun", "hold"])
def test_images_of_another_patient_hold_the_job_until_they_are_corrected(
    desk: Desk, tmp_path: Path, late: str
) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(with_late(late))
    desk.push(files[:3])
    desk.run()
    desk.push(edited(files[3:], tmp_path / "stray", PatientID="STRAY"))
    assert (desk.states(), desk.sent()) == (["done", "held"], [("a", "waiting")])
    assert desk.study()["state"] == "attention"
    assert desk.study()["jobs"][1]["error"].startswith("its images name several patients")
    desk.deliver()
    desk.push(files[3:])
    first, held, last = desk.jobs()
    assert (held.state, last.state) == ("cancelled", "waiting" if late == "rerun" else "held")
    assert (held.superseded_by, last.supersedes) == (last.id, first.id)


def test_corrected_pixels_are_computed_again(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files)
    desk.run()
    desk.deliver()
    desk.push(edited(files[:1], tmp_path / "corrected", PixelSpacing=[0.6, 0.6]))
    first, second = desk.jobs()
    assert (second.reissues, second.supersedes) == ("", first.id)
    assert second.work != first.work
    assert desk.events("job")[1]["why"] == "pixels or geometry were corrected"


def test_a_corrected_copy_is_forwarded_again_and_only_it(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: copy, send_to: [a]}")
    desk.push(files)
    desk.deliver()
    desk.push(edited(files[:1], tmp_path / "renamed", PatientID="RIGHT"))
    assert desk.sent() == [("a", "delivered"), ("a", "waiting")]
    with desk.ledger.read() as tx:
        assert len(jobs.results(tx, desk.jobs()[1].id)) == 1


# ---- the decision ----------------------------------------------------------------------------------------------------

IMAGES = st.frozensets(st.sampled_from("abcd"), min_size=1)
ASKED = st.builds(
    Asked, IMAGES, st.sampled_from(["w1", "w2"]), st.just(("1.0", {})), st.sampled_from(JobState), st.booleans()
)


@given(ASKED, ASKED, st.sampled_from(["rerun", "ignore", "hold"]))
def test_a_person_is_asked_only_about_late_images_or_what_was_held_before(last: Asked, new: Asked, late: str) -> None:
    step, why = next_step(last, new, late)  # type: ignore[arg-type]
    came_late = bool(new.images - last.images)
    assert (why == "late images") is came_late
    assert (step is Step.HOLD) is ((came_late and late == "hold") or (not came_late and last.state is JobState.HELD))


@given(ASKED, ASKED)
def test_results_are_reissued_only_where_the_same_work_has_left_some(last: Asked, new: Asked) -> None:
    step, _ = next_step(last, new, "rerun")
    same = new.images <= last.images and new.work == last.work
    assert (step is Step.REISSUE) is (same and last.state is JobState.DONE and last.has_results)
