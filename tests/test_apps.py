"""The apps that come with radnode, the road every app's job takes, and the page that explains how to write one."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom import sr
from PIL import Image
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage
from rich.console import Console

from radnode import (
    App,
    AppOptions,
    Declined,
    Field,
    File,
    Measurement,
    MeasurementReport,
    SecondaryCapture,
    Segment,
    Segmentation,
)
from radnode.domain.app import Resources
from radnode.domain.errors import NotDicomError, NotFoundError, OptionsError, ResultError
from radnode.domain.jobs import Assignment
from radnode.run import apps
from radnode.run.local import LocalRun, run_local
from radnode.run.process import process
from radnode.run.tools import run_app
from radnode.settings import load as load_settings
from radnode.testing.phantom import head_ct
from tests.results import enhanced

REPO = Path(__file__).parents[1]
CATALOG = apps.find(REPO / "apps")
HYPERDENSE, TEST = CATALOG.get("hyperdense"), CATALOG.get("test")


def assignment(app: type[App[Any]], *folders: Path, level: str = "series", **options: Any) -> Assignment:
    inputs = {each.name: [str(path) for path in sorted(each.iterdir())] for each in folders}
    parsed = app.parse_options(options).model_dump(mode="json")
    return Assignment("ab" * 16, app.name, app.version, level, parsed, inputs, "2026-03-01T22:10:05+01:00")


def silent(text: str) -> None:
    pass


def measured(run: LocalRun) -> dict[str, float]:
    (report,) = (path for path in run.files if path.name.startswith("sr"))
    groups = sr.srread(report).content.get_image_measurement_groups()
    return {each.name.meaning: each.value for group in groups for each in group.get_measurements()}


class Yields(App):
    """An app that yields what its class attribute makes."""

    name, version = "yields", "1"
    make: Callable[[Any], Iterator[Any]]

    def process(self, series: Any, options: Any) -> Any:
        return type(self).make(series)


def yielding(make: Callable[[Any], Any]) -> type[App[Any]]:
    return type("Made", (Yields,), {"make": staticmethod(make)})


# ---- hyperdense ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "within"),
    [
        ({}, 0.1),
        ({"size": 256, "tilt": 18.5}, 0.1),
        ({"tilt": -12.0}, 0.1),
        ({"spacing": 2.5, "slices": 56}, 0.1),
        ({"uneven": True, "tilt": 18.5}, 0.3),  # 20 mL between slices 8.75 mm apart is a guess for anyone
    ],
    ids=str,
)
def test_the_bleed_of_the_phantom_is_measured(tmp_path: Path, how: dict[str, Any], within: float) -> None:
    head_ct(tmp_path / "in", **{"size": 128, "bleed_ml": 20, **how})
    (run,) = run_local(HYPERDENSE, tmp_path / "in", {}, tmp_path / "out")
    assert measured(run)["Hyperdense volume"] == pytest.approx(20, rel=within)


def test_a_head_without_a_bleed_has_a_report_too(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", size=128)
    (run,) = run_local(HYPERDENSE, tmp_path / "in", {}, tmp_path / "out")
    assert measured(run)["Hyperdense volume"] == pytest.approx(0, abs=0.2)
    assert sum(path.suffix == ".dcm" for path in run.files) == 29


def test_results_say_that_they_are_a_demonstration(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", size=64, slices=8)
    (run,) = run_local(HYPERDENSE, tmp_path / "in", {}, tmp_path / "out")
    for path in run.files:
        if path.suffix == ".dcm":
            assert "(demonstration) - research use only" in pydicom.dcmread(path).SeriesDescription
    assert b"not for diagnosis" in run.files[0].read_bytes()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"ContrastBolusAgent": "Iohexol"}, "contrast-enhanced"),
        ({"Modality": "MR"}, "modality is MR, not CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
        ({"RescaleType": "Z_EFF"}, "its values are no Hounsfield units but Z_EFF"),
        ({"slices": 7}, "7 slices, fewer than 8"),
    ],
    ids=str,
)
def test_unsuitable_series_are_declined_with_the_reason(tmp_path: Path, how: dict[str, Any], reason: str) -> None:
    head_ct(tmp_path / "in", **{"slices": 8, "size": 16, **how})
    manifest = process(HYPERDENSE(), assignment(HYPERDENSE, tmp_path / "in"), tmp_path / "out", silent)
    assert (manifest["state"], manifest["reason"], manifest["objects"]) == ("declined", reason, [])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"missing": range(3, 10)}, "a gap of 40.0 mm after image 3, the others are 5.0 mm"),
        ({"ImagePositionPatient": [0, 0, 0]}, "images 1 and 2 lie at the same place"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no usable ImageOrientationPatient"),
        ({"RescaleSlope": None}, "its values are no Hounsfield units"),
    ],
    ids=str,
)
def test_a_series_that_is_no_single_stack_is_declined_with_what_can_be_done(
    tmp_path: Path, how: dict[str, Any], reason: str
) -> None:
    head_ct(tmp_path / "in", **{"slices": 20, "size": 16, **how})
    manifest = process(HYPERDENSE(), assignment(HYPERDENSE, tmp_path / "in"), tmp_path / "out", silent)
    assert manifest["state"] == "declined"
    assert reason in manifest["reason"] and " -> push the " in manifest["reason"]


@pytest.mark.parametrize("name", ["hyperdense", "hemorrhage"])
def test_an_enhanced_multi_frame_head_has_the_results_of_its_slices(tmp_path: Path, name: str) -> None:
    files = head_ct(tmp_path / "slices", slices=20, size=64, bleed_ml=30)
    (tmp_path / "frames").mkdir()
    enhanced(files, tmp_path / "frames" / "all.dcm")
    app, found = CATALOG.get(name), []
    for form in ("slices", "frames"):
        (run,) = run_local(app, tmp_path / form, {}, tmp_path / f"out-{form}")
        assert run.declined == ""
        found.append((measured(run), [path.name for path in run.files]))
    assert found[0] == found[1]


def test_a_report_says_that_a_series_was_resampled(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=20, size=64, missing=[9])
    (run,) = run_local(HYPERDENSE, tmp_path / "in", {}, tmp_path / "out")
    (report,) = (each for each in run.files if each.name.startswith("sr"))
    assert b"unevenly spaced, 5.00 to 10.00 mm: between its slices" in report.read_bytes()


# ---- the test app --------------------------------------------------------------------------------------------------


def test_the_test_app_says_what_a_series_was(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=3, size=16, AccessionNumber="A4711")
    (run,) = run_local(TEST, tmp_path / "in", {"greeting": "Hello"}, tmp_path / "out")
    assert measured(run) == {"Number of series": 1, "Number of instances": 3}
    page, preview, report = run.files
    assert pydicom.dcmread(page).BurnedInAnnotation == "YES"
    assert np.array_equal(np.asarray(Image.open(preview)), pydicom.dcmread(page).pixel_array)
    for text in (b"Accession number A4711", b"Hello", b"HEAD 5MM STD: 3"):
        assert text in report.read_bytes()


def test_the_test_app_takes_a_whole_study(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=3, size=16, localizer=True)
    (run,) = run_local(TEST, tmp_path / "in", {}, tmp_path / "out", level="study")
    assert measured(run) == {"Number of series": 2, "Number of instances": 5}


def test_the_test_app_fails_the_way_it_is_told(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=1, size=16)
    declined = process(TEST(), assignment(TEST, tmp_path / "in", fail="declined"), tmp_path / "out", silent)
    assert (declined["state"], declined["reason"]) == ("declined", "asked to decline")
    with pytest.raises(RuntimeError, match="asked to fail"):
        process(TEST(), assignment(TEST, tmp_path / "in", fail="error"), tmp_path / "out", silent)
    for bad in ({"fail": "explode"}, {"sleep": -1}, {"sleep": 3601}, {"colour": "red"}):
        with pytest.raises(OptionsError, match=f"app 'test': {next(iter(bad))}"):
            TEST.parse_options(bad)


# ---- options -------------------------------------------------------------------------------------------------------


class ManyOptions(AppOptions):
    levels: list[float] = Field([])
    window: tuple[int, int] = (40, 80)
    names: dict[str, str] = Field({})
    text: str = ""
    either: str | list[int] = ""


class Many(App[ManyOptions]):
    name, version = "many", "1"


def test_several_values_of_an_option_can_be_written_on_the_command_line() -> None:
    given = {"levels": "[1, 2.5]", "window": "[30, 90]", "names": '{"a": "b"}', "text": "[1, 2]", "either": "[1]"}
    read = Many.parse_options(given).model_dump(mode="json")
    assert read == {"levels": [1, 2.5], "window": [30, 90], "names": {"a": "b"}, "text": "[1, 2]", "either": "[1]"}
    for wrong in ("1, 2", "[1", '["a"]', "{}"):
        with pytest.raises(OptionsError, match="app 'many': levels"):
            Many.parse_options({"levels": wrong})
    with pytest.raises(OptionsError, match="there is no such option"):
        Many.parse_options({"level": "[1]"})


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("name = 'a'", "class A lacks a `name` or a `version`"),
        ("name, version = 'a', 1.0", "class A: its version, 1.0, is no text"),
        ("name, version = 'a' * 65, '1'", "class A: its name is longer than 64 characters"),
        (r"name, version = 'head\\ct', '1'", "class A: its name is longer than 64 characters, or has some"),
        ("name, version, description = 'a', '1', ('x',)", "its description, ('x',), is no text"),
        ("name, version, resources = 'a', '1', {'cpu': 2}", "class A: its resources are no radnode.Resources"),
        ("name, version, resources = 'a', '1', radnode.Resources(memory=1.5)", "memory=1.5) is no whole number"),
        ("name, version, resources = 'a', '1', radnode.Resources(cpu=0)", "no whole number of at least 1"),
        ("name, version, resources = 'a', '1', radnode.Resources(timeout='1h')", "timeout='1h') is no number"),
        ("name, version = 'a', '1'\nclass B(radnode.App[int]):\n    name, version = 'b', '1'", "options, int, are not"),
        ("name, version = 'a', '1'\nclass O(radnode.AppOptions):\n    x: type = int\n"
         "class B(radnode.App[O]):\n    name, version = 'b', '1'", "class B: its options cannot be written as JSON"),
    ],
    ids=range(11),
)  # fmt: skip
def test_an_app_that_cannot_be_one_is_broken_and_harms_no_other(tmp_path: Path, body: str, fault: str) -> None:
    (tmp_path / "bad.py").write_text(f"import radnode\n\nclass A(radnode.App):\n    {body}\n")
    (tmp_path / "good.py").write_text("import radnode\n\nclass Good(radnode.App):\n    name, version = 'good', '1'\n")
    found = apps.find(tmp_path)
    assert "good" in found.apps
    assert fault in found.faults["bad"]


# ---- one job -------------------------------------------------------------------------------------------------------


def test_the_manifest_names_every_object_and_the_same_job_makes_the_same_bytes(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=8, size=32)
    job = assignment(HYPERDENSE, tmp_path / "in")
    one = process(HYPERDENSE(), job, tmp_path / "one", silent)
    two = process(HYPERDENSE(), job, tmp_path / "two", silent)
    assert one["objects"] == two["objects"]
    assert json.loads((tmp_path / "one" / "manifest.json").read_text()) == one
    assert [each["file"] for each in one["objects"]] == [*(f"sc-{n:04d}.dcm" for n in range(1, 9)), "sr-0001.dcm"]
    for each in one["objects"]:
        ds = pydicom.dcmread(tmp_path / "one" / each["file"])
        assert (each["SOPInstanceUID"], each["SOPClassUID"]) == (ds.SOPInstanceUID, ds.SOPClassUID)
        assert each["TransferSyntaxUID"] == ds.file_meta.TransferSyntaxUID
        assert each["size"] == (tmp_path / "one" / each["file"]).stat().st_size


def test_declining_late_takes_back_what_was_yielded_and_nothing_else(tmp_path: Path) -> None:
    def make(series: Any) -> Iterator[Any]:
        yield SecondaryCapture(np.zeros((4, 4), np.uint8))
        raise Declined("thought better of it", remedy="send thinner slices")

    head_ct(tmp_path / "in", slices=1, size=16)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    manifest = process(yielding(make)(), assignment(yielding(make), tmp_path / "in"), tmp_path / "out", silent)
    assert manifest["reason"] == "thought better of it -> send thinner slices"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"notes.txt", "manifest.json"}


def test_an_app_that_raises_leaves_no_manifest(tmp_path: Path) -> None:
    def make(series: Any) -> Iterator[Any]:
        yield SecondaryCapture(np.zeros((4, 4), np.uint8))
        raise ZeroDivisionError

    head_ct(tmp_path / "in", slices=1, size=16)
    with pytest.raises(ZeroDivisionError):
        process(yielding(make)(), assignment(yielding(make), tmp_path / "in"), tmp_path / "out", silent)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_files_are_copied_aside_and_are_no_objects(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("1;2\n")
    app = yielding(lambda series: [File(tmp_path / "table.csv")])
    head_ct(tmp_path / "in", slices=1, size=16)
    manifest = process(app(), assignment(app, tmp_path / "in"), tmp_path / "out", silent)
    assert (manifest["objects"], manifest["files"]) == ([], ["file-0001-table.csv"])
    assert (tmp_path / "out" / "file-0001-table.csv").read_text() == "1;2\n"


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda series: None, "returned nothing"),
        (lambda series: [3], "yielded int, which is no result"),
        (lambda series: [MeasurementReport([Measurement("Size", 1)]), None], "yielded NoneType, which is no result"),
        (lambda series: MeasurementReport([Measurement("Size", 1)]), "returned one MeasurementReport"),
        (lambda series: pydicom.Dataset(), "returned one Dataset"),
        (lambda series: [File("nowhere.csv")], "does not exist"),
    ],
)
def test_what_an_app_must_not_do_is_said(tmp_path: Path, make: Callable[[Any], Any], fault: str) -> None:
    head_ct(tmp_path / "in", slices=1, size=16)
    with pytest.raises(ResultError, match=fault):
        process(yielding(make)(), assignment(yielding(make), tmp_path / "in"), tmp_path / "out", silent)


def test_a_job_on_files_of_two_series_is_refused(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=1, size=16, localizer=True)
    with pytest.raises(NotDicomError, match="input 'in' holds 2 series"):
        process(TEST(), assignment(TEST, tmp_path / "in"), tmp_path / "out", silent)


@pytest.mark.parametrize("level", ["series", "study"])
@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "StudyInstanceUID"])
def test_images_of_two_patients_make_nobodys_result(tmp_path: Path, level: str, keyword: str) -> None:
    one, other = head_ct(tmp_path / "in", slices=2, size=16)
    ds = pydicom.dcmread(other)
    ds[keyword].value = "9.9"
    if level == "study":
        ds.SeriesInstanceUID = "2.25.7"
    if keyword == "PatientName":
        ds.PatientID = ""
        first = pydicom.dcmread(one)
        first.PatientID = ""
        first.save_as(one)
    ds.save_as(other)
    job = replace(assignment(TEST, tmp_path / "in"), level=level)
    if level == "study":
        job = replace(job, inputs={"one": [str(one)], "other": [str(other)]})
    with pytest.raises(ResultError, match=f"2 different {keyword}"):
        process(TEST(), job, tmp_path / "out", silent)
    ds[keyword].value = pydicom.dcmread(one)[keyword].value
    ds.save_as(other)
    assert process(TEST(), job, tmp_path / "out", silent)["state"] == "done"


# ---- radnode run ---------------------------------------------------------------------------------------------------


def test_a_folder_of_several_series_is_run_series_by_series(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=8, size=32, localizer=True)
    (tmp_path / "in" / "README.txt").write_text("no DICOM")
    bone = load(python_blocks()[1], tmp_path, "bone")
    head, scouts = run_local(bone, tmp_path / "in", {}, tmp_path / "out")
    assert head.files and head.files[0].parent == tmp_path / "out" / "series-1"
    assert (scouts.files, scouts.declined) == ((), "")
    assert "not parallel" in scouts.error


def test_one_series_can_be_chosen_by_description_number_or_uid(tmp_path: Path) -> None:
    paths = head_ct(tmp_path / "in", slices=2, size=16, localizer=True)
    for choice in ("head*", "2", pydicom.dcmread(paths[0]).SeriesInstanceUID):
        (run,) = run_local(TEST, tmp_path / "in", {}, tmp_path / "out", only=choice)
        assert run.name == "HEAD 5MM STD"
    with pytest.raises(NotFoundError, match="no series fits 'abdomen'") as refused:
        run_local(TEST, tmp_path / "in", {}, tmp_path / "out", only="abdomen")
    assert refused.value.remedy == "there are: 2 HEAD 5MM STD; 1 LOCALIZER"


def test_two_series_of_the_same_description_are_two_inputs(tmp_path: Path) -> None:
    head_ct(tmp_path / "in" / "a", slices=2, size=16)
    head_ct(tmp_path / "in" / "b", slices=3, size=16)
    (run,) = run_local(TEST, tmp_path / "in", {}, tmp_path / "out", level="study")
    assert run.name == "HEAD 5MM STD, HEAD 5MM STD (2)"
    assert measured(run) == {"Number of series": 2, "Number of instances": 5}
    head_ct(tmp_path / "in" / "c", slices=1, size=16, seed=2)
    with pytest.raises(NotFoundError, match="several studies"):
        run_local(TEST, tmp_path / "in", {}, tmp_path / "out", level="study")


def test_an_earlier_runs_results_do_not_stay_behind(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=8, size=32)
    run_local(HYPERDENSE, tmp_path / "in", {}, tmp_path / "out")
    (run,) = run_local(TEST, tmp_path / "in", {}, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*(path.name for path in run.files), "manifest.json"}


def test_two_runs_by_hand_never_share_a_uid(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=1, size=16)
    (one,) = run_local(TEST, tmp_path / "in", {}, tmp_path / "one")
    (two,) = run_local(TEST, tmp_path / "in", {}, tmp_path / "two")
    uids = [pydicom.dcmread(path).SOPInstanceUID for run in (one, two) for path in run.files if path.suffix == ".dcm"]
    assert len(set(uids)) == 4


def test_a_result_that_cannot_be_drawn_is_a_result_without_a_picture(tmp_path: Path) -> None:
    """A clip of ultrasound has frames that a segmentation's picture cannot choose from; a film has many pictures."""

    def make(series: Any) -> Iterator[Any]:
        yield Segmentation([Segment("Heart", np.ones((1, 16, 16)))])
        film = pydicom.Dataset()
        film.SOPClassUID, film.Modality = MultiFrameTrueColorSecondaryCaptureImageStorage, "OT"
        film.NumberOfFrames, film.Rows, film.Columns, film.SamplesPerPixel = 3, 2, 2, 3
        film.PhotometricInterpretation, film.PlanarConfiguration = "RGB", 0
        film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 8, 8, 7, 0
        film.ConversionType, film.BurnedInAnnotation, film.ImageType = "SYN", "NO", ["DERIVED", "SECONDARY"]
        film.FrameIncrementPointer, film.PatientOrientation, film.Laterality = 0x00182001, "", ""
        film.PageNumberVector = [1, 2, 3]
        film.PixelData = bytes(range(36))
        yield film

    (path,) = head_ct(tmp_path / "in", slices=1, size=16)
    ds = pydicom.dcmread(path)
    ds.NumberOfFrames = 2
    ds.PixelData *= 2
    ds.save_as(path)
    (run,) = run_local(yielding(make), tmp_path / "in", {}, tmp_path / "out")
    assert [each.name for each in run.files] == ["seg-0001.dcm", "raw-0001.dcm", "raw-0001.png"]
    assert Image.open(run.files[2]).size == (2, 2)


def test_a_source_without_a_window_is_drawn_in_its_own_range(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=1, size=64, WindowCenter=None, WindowWidth=None)
    app = yielding(lambda series: [Segmentation([Segment("Corner", np.eye(64)[None])])])
    (run,) = run_local(app, tmp_path / "in", {}, tmp_path / "out")
    shown = np.asarray(Image.open(run.files[1]))
    assert shown[2, 40:60].max() < 20  # air
    assert shown[32, 14:28].min() > 100  # brain


def test_an_app_takes_a_study_however_its_author_says_so(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=1, size=16, localizer=True)
    for number, written in enumerate(["Study", "'Study'", "radnode.Study", "'radnode.Study'"]):
        source = "import radnode\nfrom radnode import Measurement, MeasurementReport, Study\n\n"
        source += "class Counts(radnode.App):\n    name, version = 'counts', '1'\n"
        source += f"    def process(self, study: {written}, options):\n"
        source += "        yield MeasurementReport([Measurement('Series', len(study))])\n"
        (tmp_path / str(number)).mkdir()
        (run,) = run_local(load(source, tmp_path / str(number), "counts"), tmp_path / "in", {}, tmp_path / "out")
        assert measured(run) == {"Series": 2}


def test_a_folder_without_dicom_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotDicomError, match="holds no DICOM file"):
        run_local(TEST, tmp_path, {}, tmp_path / "out")
    with pytest.raises(NotFoundError, match="does not exist"):
        run_local(TEST, tmp_path / "nowhere", {}, tmp_path / "out")


# ---- docs/apps.md, and what importing costs ------------------------------------------------------------------------


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPO / "docs" / "apps.md").read_text(), re.DOTALL)


def load(source: str, folder: Path, name: str) -> type[App[Any]]:
    place = folder / f"apps-{name}"
    place.mkdir()
    (place / f"{name}.py").write_text(source)
    catalog = apps.find(place)
    assert catalog.faults == {}
    return catalog.get(name)


def test_the_smallest_app_of_the_page_runs(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=2, size=16)
    (run,) = run_local(load(python_blocks()[0], tmp_path, "brightness"), tmp_path / "in", {}, tmp_path / "out")
    assert measured(run)["Mean of the first corner"] == pytest.approx(-1000, abs=10)


def test_the_app_with_options_runs(tmp_path: Path) -> None:
    bone = load(python_blocks()[1], tmp_path, "bone")
    head_ct(tmp_path / "in", slices=4, size=64)
    (overlay,) = run_local(bone, tmp_path / "in", {}, tmp_path / "one")
    (report,) = run_local(bone, tmp_path / "in", {"detail": "report", "threshold_hu": "1000"}, tmp_path / "two")
    assert sum(path.suffix == ".dcm" for path in overlay.files) == 5
    assert measured(overlay)["Bone"] > measured(report)["Bone"] == 0
    assert len(report.files) == 1


def test_the_app_for_a_study_runs(tmp_path: Path) -> None:
    pair = load(python_blocks()[2], tmp_path, "pair")
    head_ct(tmp_path / "in" / "thick", slices=3, size=16)
    head_ct(tmp_path / "in" / "thin", slices=9, size=16, spacing=1, SeriesDescription="HEAD 1MM")
    inputs = {"thick": "*5MM*", "thin": "*1MM*"}
    (run,) = run_local(pair, tmp_path / "in", {}, tmp_path / "out", inputs=inputs)
    assert measured(run)["Slices of the thick series"] == 3
    assert measured(run)["Air"] > 10
    with pytest.raises(NotFoundError, match="2 series fit input thick"):
        run_local(pair, tmp_path / "in", {}, tmp_path / "out", inputs={"thick": "*"})


def test_the_app_that_declines_what_makes_no_volume_runs(tmp_path: Path) -> None:
    stack = load(python_blocks()[3], tmp_path, "stack")
    head_ct(tmp_path / "in", slices=20, size=16, missing=range(3, 10))
    (run,) = run_local(stack, tmp_path / "in", {}, tmp_path / "out")
    assert run.declined.endswith("the others are 5.0 mm -> push the whole series")


def test_the_app_with_a_finding_and_a_page_runs(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=2, size=16)
    (run,) = run_local(load(python_blocks()[4], tmp_path, "air"), tmp_path / "in", {}, tmp_path / "out")
    assert [path.name for path in run.files] == ["sc-0001.dcm", "sc-0001.png", "sr-0001.dcm"]


def test_the_app_with_a_model_runs(tmp_path: Path) -> None:
    classifier = load(python_blocks()[5], tmp_path, "classifier")
    head_ct(tmp_path / "in", slices=3, size=16)
    (run,) = run_local(classifier, tmp_path / "in", {}, tmp_path / "out")
    assert measured(run) == {"Score": 0.75}
    assert classifier.resources == Resources(cpu=2, memory=2048, timeout=120)


def test_the_authors_own_test_passes(tmp_path: Path) -> None:
    blocks = python_blocks()
    assert len(blocks) == 7
    (tmp_path / "bone.py").write_text(blocks[1])
    (tmp_path / "test_bone.py").write_text(blocks[6])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bone.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout


def test_the_commands_of_the_page_do_what_they_say(tmp_path: Path) -> None:
    blocks = python_blocks()
    (tmp_path / "apps").mkdir()
    for name, source in {"brightness": blocks[0], "bone": blocks[1], "pair": blocks[2]}.items():
        (tmp_path / "apps" / f"{name}.py").write_text(source)
    head_ct(tmp_path / "head-ct", slices=4, size=32)
    head_ct(tmp_path / "study" / "thick", slices=4, size=32)
    head_ct(tmp_path / "study" / "thin", slices=4, size=32, spacing=1, SeriesDescription="HEAD 1MM")
    commands = re.findall(r"^\$ radnode (run .*)$", (REPO / "docs" / "apps.md").read_text(), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        line = [sys.executable, "-m", "radnode.cli", *shlex.split(command)]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "results/sr-0001.dcm" in done.stdout


@pytest.mark.parametrize(
    ("line", "said_last"),
    [("return 1 / 0", "ZeroDivisionError: division by zero"), ("raise SystemExit(0)", "SystemExit: 0")],
)
def test_an_app_that_raises_shows_its_own_lines_and_none_of_the_nodes(
    tmp_path: Path, line: str, said_last: str
) -> None:
    (tmp_path / "apps").mkdir()
    source = "from radnode import App\n\nclass Bad(App):\n    name, version = 'bad', '1'\n"
    source += f"    def process(self, series, options):\n        {line}\n"
    (tmp_path / "apps" / "bad.py").write_text(source)
    head_ct(tmp_path / "in", slices=2, size=16)
    said = StringIO()
    console = Console(file=said, width=200)
    known = load_settings({"RADNODE_APPS": str(tmp_path / "apps")}, tmp_path / "no.env")
    assert run_app(known, "bad", tmp_path / "in", [], tmp_path / "out", console, console) == 1
    assert re.findall(r"File .*/(\w+\.py)\", line (\d+)", said.getvalue()) == [("bad.py", "6")]
    assert said_last in said.getvalue()


def test_importing_radnode_and_listing_its_apps_loads_no_heavy_library() -> None:
    program = (
        "import sys, radnode; assert 'pydantic' not in sys.modules\n"
        "from pathlib import Path; from radnode.run import apps; assert not apps.find(Path('apps')).faults\n"
        "print([each for each in ('SimpleITK', 'highdicom', 'pydicom', 'torch') if each in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_an_app_may_import_is_there() -> None:
    import radnode

    assert all(getattr(radnode, name) for name in radnode.__all__)
    with pytest.raises(AttributeError, match="it offers App"):
        _ = radnode.Spool


def test_measurements_of_numpy_masks_serve_as_well(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", slices=4, size=16, spacing=4)
    app = yielding(lambda series: [MeasurementReport([Measurement.volume_ml("all", np.ones((4, 16, 16)))])])
    (run,) = run_local(app, tmp_path / "in", {}, tmp_path / "out")
    assert measured(run)["all"] == pytest.approx(4 * 4 * 230 * 230 / 1000)
