"""IHE IOCM: a rejection note takes images back, out of their series and out of what was made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from radnode.dicom.rejection import KEY_OBJECT_SELECTION, read_rejection
from radnode.state import claims, holds, jobs, views
from tests.desk import Desk
from tests.road import small_ct, uids

CT_ONLY = "{name: wiring, app: test, when: {Modality: CT}, send_to: [a]}"


def rejection_note(files: list[Path], path: Path, code: str = "113001") -> Path:
    """A Key Object Selection about these images."""
    first = dcmread(files[0], stop_before_pixels=True)
    ds = Dataset()
    ds.file_meta = first.file_meta
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = KEY_OBJECT_SELECTION
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.1{abs(hash(path.name)) % 10**9}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = first.StudyInstanceUID, f"2.25.2{abs(hash(path.name)) % 10**9}"
    ds.PatientID, ds.AccessionNumber, ds.Modality = first.PatientID, first.AccessionNumber, "KO"
    title, study, series = Dataset(), Dataset(), Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = code, "DCM", "a title"
    ds.ConceptNameCodeSequence = Sequence([title])
    series.SeriesInstanceUID, series.ReferencedSOPSequence = first.SeriesInstanceUID, Sequence()
    for file in files:
        image = dcmread(file, stop_before_pixels=True)
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        series.ReferencedSOPSequence.append(item)
    study.StudyInstanceUID, study.ReferencedSeriesSequence = first.StudyInstanceUID, Sequence([series])
    ds.CurrentRequestedProcedureEvidenceSequence = Sequence([study])
    ds.save_as(path, enforce_file_format=True)
    return path


def test_a_note_is_read_and_other_key_objects_are_none(tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1, slices=300, size=8)
    said = read_rejection(rejection_note(files, tmp_path / "note.dcm", "113038"))
    assert said is not None
    assert (said.code, sorted(said.uids)) == ("113038", uids(files))
    assert read_rejection(rejection_note(files, tmp_path / "key.dcm", "113000")) is None


def test_waiting_work_on_rejected_images_stops_and_the_rest_is_judged_anew(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(CT_ONLY)
    desk.push(files)
    desk.push([rejection_note(files[:1], tmp_path / "note.dcm")])
    desk.judge()
    assert desk.states() == ["cancelled", "waiting"]
    assert len(desk.inputs(desk.jobs()[1])) == 3
    assert desk.study()["state"] == "complete"
    desk.push(files)
    assert desk.states() == ["cancelled", "waiting"]  # a rejected image does not come back


def test_results_that_went_are_flagged_until_a_person_has_seen_to_them(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(CT_ONLY)
    desk.push(files)
    desk.run()
    desk.deliver()
    note = rejection_note(files, tmp_path / "note.dcm")
    desk.push([note])
    desk.judge()
    study = desk.study()
    assert (study["state"], desk.states()) == ("attention", ["done"])
    assert "quality" in study["jobs"][0]["flag"]
    desk.push([note])
    with desk.ledger.begin() as tx:
        assert holds.unflag(tx, study["jobs"][0]["id"], "me")
    assert desk.study()["state"] == "done"


def test_what_was_made_of_rejected_images_is_meant_only_by_its_name(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(CT_ONLY, CT_ONLY.replace("wiring, ", "tried, mode: shadow, options: {greeting: Hi}, "))
    desk.push(files)
    for _ in range(2):
        desk.run()
    desk.deliver()
    desk.push([rejection_note(files, tmp_path / "note.dcm", "113038")])
    with desk.ledger.read() as tx:
        assert views.select_jobs(tx, (), states=("done",)) == []
        assert views.select_deliveries(tx, (), states=("delivered",), destination="a") == []
        assert jobs.shadows(tx, "tried", None) == []
        (live,) = (each.id for each in desk.jobs() if each.rule == "wiring")
        assert views.select_jobs(tx, (live,), states=("done",)) == [live]
        assert len(views.select_deliveries(tx, (live[:12],), states=("delivered",))) == 1


def test_results_of_rejected_images_that_were_not_sent_are_not_sent(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(CT_ONLY)
    desk.push(files)
    desk.run()
    desk.push([rejection_note(files, tmp_path / "note.dcm", "113037")])
    assert desk.sent() == [("a", "cancelled")]


def test_a_worker_whose_images_are_rejected_leaves_nothing(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(CT_ONLY)
    desk.push(files)
    job = desk.start()
    desk.push([rejection_note(files, tmp_path / "note.dcm")])
    assert not desk.end(job)
    with desk.ledger.read() as tx:
        assert not claims.is_ours(tx, job)


@pytest.mark.parametrize(("code", "comes_back"), [("113001", False), ("113039", True)])
def test_expired_images_may_come_again(desk: Desk, tmp_path: Path, code: str, comes_back: bool) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(CT_ONLY)
    desk.push([rejection_note(files, tmp_path / "note.dcm", code)])
    desk.judge()
    desk.push(files)
    assert (len(desk.jobs()) == 1) is comes_back


def test_images_that_expired_while_their_job_waited_are_run_when_they_come_again(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(CT_ONLY)
    desk.push(files)
    desk.push([rejection_note(files, tmp_path / "note.dcm", "113039")])
    desk.judge()
    assert desk.states() == ["cancelled"]
    desk.push(files)
    assert desk.states() == ["cancelled", "waiting"]
