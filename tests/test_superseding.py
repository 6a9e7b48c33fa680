"""What a result says of the one it replaces, and results that get a corrected patient without being computed again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

import radnode
from radnode.dicom.encode import words
from radnode.dicom.encode.check import check
from radnode.domain.jobs import Assignment, SeriesLabel
from radnode.run.process import process
from tests.road import small_ct
from tests.test_generations import edited


class Both(radnode.App):  # type: ignore[type-arg]
    """Yields a report and a capture of each slice."""

    name, version, runs = "both", "1", 0
    shows_identity = False

    def process(self, series: radnode.Series, options: Any) -> Iterator[Any]:
        Both.runs += 1
        yield radnode.MeasurementReport([radnode.Measurement("size", 1.0, "mL")])
        yield radnode.SecondaryCapture(np.zeros((8, 8), np.uint8), "page", shows_identity=self.shows_identity)


def assignment(job_id: str, files: list[Path], **changed: Any) -> Assignment:
    inputs = {"1": [str(each) for each in files]}
    created = "2026-03-01T10:00:00+01:00"
    return replace(Assignment(job_id, "both", "1", "series", {}, inputs, created), **changed)


def made(folder: Path, app: Both, work: Assignment) -> dict[str, Path]:
    return {each["kind"]: folder / each["file"] for each in process(app, work, folder, print)["objects"]}


def after(job_id: str, files: list[Path], before: dict[str, Path], *, reissue: bool) -> Assignment:
    """The assignment of a job whose results replace these."""
    headers = [dcmread(path, stop_before_pixels=True) for path in before.values()]
    keywords = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
    return assignment(
        job_id,
        files,
        predecessors=[{keyword: str(ds[keyword].value) for keyword in keywords} for ds in headers],
        reissues=[str(path) for path in before.values()] if reissue else [],
    )


def uids(ds: Dataset) -> set[str]:
    found: set[str] = set()
    ds.walk(lambda _, each: found.update([str(each.value)]) if each.VR == "UI" and each.VM == 1 else None)
    return found


@pytest.mark.parametrize("reissue", [False, True])
def test_results_say_what_they_supersede(tmp_path: Path, reissue: bool) -> None:
    files = small_ct(tmp_path / "ct", 1)
    before = made(tmp_path / "first", Both(), assignment("a" * 32, files))
    renamed = edited(files, tmp_path / "renamed", PatientID="RIGHT", PatientName="Right^Anna", AccessionNumber="NEW")
    runs = Both.runs
    now = made(tmp_path / "second", Both(), after("b" * 32, renamed, before, reissue=reissue))
    assert Both.runs - runs == (0 if reissue else 1)
    old, new = ({kind: dcmread(path) for kind, path in each.items()} for each in (before, now))
    for kind, ds in new.items():
        assert (ds.PatientID, ds.PatientName, ds.AccessionNumber) == ("RIGHT", "Right^Anna", "NEW")
        assert ds.SOPInstanceUID != old[kind].SOPInstanceUID
        assert ds.SeriesInstanceUID != old[kind].SeriesInstanceUID
        assert ds.SeriesDescription.endswith("(revised)")
        assert check(now[kind], renamed[0]) == []
    assert new["sc"].ImageComments == "Supersedes an earlier result"
    assert new["sc"].PixelData == old["sc"].PixelData
    (study,) = new["sr"].PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (document,) = series.ReferencedSOPSequence
    assert document.ReferencedSOPInstanceUID == old["sr"].SOPInstanceUID
    assert series.SeriesInstanceUID == old["sr"].SeriesInstanceUID
    del new["sr"].PredecessorDocumentsSequence
    own = {str(each.SOPInstanceUID) for each in old.values()} | {str(each.SeriesInstanceUID) for each in old.values()}
    assert not own & (uids(new["sr"]) | uids(new["sc"]))


def test_results_made_without_images_that_exist_say_so_and_go_on_saying_it(tmp_path: Path) -> None:
    files = small_ct(tmp_path / "ct", 1)
    first = made(tmp_path / "first", Both(), assignment("a" * 32, files, label=SeriesLabel(missing=2)))
    second = made(tmp_path / "second", Both(), after("b" * 32, files, first, reissue=True))
    said = "Source images missing: at least 2"
    for paths, ends, comments in (
        (first, " - research use only (incomplete)", said),
        (second, " - research use only (incomplete) (revised)", f"{said}; Supersedes an earlier result"),
    ):
        capture, report = dcmread(paths["sc"]), dcmread(paths["sr"])
        assert capture.SeriesDescription.endswith(ends) and report.SeriesDescription.endswith(ends)
        assert capture.ImageComments == comments
        assert (report.CompletionFlag, report.CompletionFlagDescription) == ("PARTIAL", said)
        assert said in [each.value for each in report.iterall() if each.keyword == "TextValue"]
        assert [check(path, files[0]) for path in paths.values()] == [[], []]


def test_a_series_description_keeps_what_it_ends_with_however_long_it_is() -> None:
    described = words.ending("x" * 100, words.RESEARCH)
    for mark in (words.REVISED, words.INCOMPLETE, words.REVISED):
        described = words.ending(described, mark)
        assert len(described) == 64
    assert described == "x" * 21 + " - research use only (incomplete) (revised)"


def test_a_picture_that_shows_the_patient_is_computed_again(tmp_path: Path) -> None:
    files = small_ct(tmp_path / "ct", 1)
    app = Both()
    app.shows_identity = True
    before = made(tmp_path / "first", app, assignment("a" * 32, files))
    runs = Both.runs
    made(tmp_path / "second", app, after("b" * 32, files, before, reissue=True))
    assert Both.runs == runs + 1


def test_a_reissue_of_a_reissue_is_called_revised_once(tmp_path: Path) -> None:
    files = small_ct(tmp_path / "ct", 1)
    first = made(tmp_path / "first", Both(), assignment("a" * 32, files))
    second = made(tmp_path / "second", Both(), after("b" * 32, files, first, reissue=True))
    third = made(tmp_path / "third", Both(), after("c" * 32, files, second, reissue=True))
    for path in third.values():
        assert dcmread(path).SeriesDescription.count("revised") == 1
