"""The app hemorrhage: the right series, the right slices, and results that say what answered."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom import sr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from radnode.dicom import scu
from radnode.domain.errors import OptionsError
from radnode.run import apps
from radnode.run.local import LocalRun, run_local
from radnode.testing import head_ct
from radnode.testing.sink import SinkPacs
from tests.peers import REPO, Node, Orthanc, real_data, until
from tests.road import QUICK, destinations
from tests.test_models import serving

CATALOG = apps.find(REPO / "apps")
APP = CATALOG.get("hemorrhage")
PICTURE = REPO / "docs" / "images" / "hemorrhage.png"


def run(folder: Path, out: Path, **options: Any) -> LocalRun:
    (ran,) = run_local(APP, folder, options, out)
    return ran


def findings(ran: LocalRun) -> dict[str, tuple[str, float]]:
    """Meaning of the code -> (present or absent, probability)."""
    (report,) = (path for path in ran.files if path.name.startswith("sr"))
    found = {}
    for group in sr.srread(report).content.get_image_measurement_groups():
        for evaluation in group.get_qualitative_evaluations():
            (probability,) = group.get_measurements()
            found[evaluation.name.meaning] = (evaluation.value.meaning, float(probability.value))
    return found


def table(ran: LocalRun) -> list[dict[str, str]]:
    (path,) = (each for each in ran.files if each.suffix == ".csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def kinds(ran: LocalRun) -> list[str]:
    return sorted(path.name.split("-")[0] for path in ran.files if path.suffix == ".dcm")


def test_a_bleed_raises_the_probabilities_of_its_slices_and_of_no_other(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", bleed_ml=20)
    ran = run(tmp_path / "in", tmp_path / "out")
    *slices, series = table(ran)
    any_ = np.array([float(each["any"]) for each in slices])
    radius = (20_000 * 3 / (4 * np.pi)) ** (1 / 3)
    z = np.array([_z(tmp_path / "in", each["SOPInstanceUID"]) for each in slices])
    assert (np.diff(z) > 0).all()
    through = np.abs(z - 2.0) < radius - 4
    assert through.sum() >= 4 and any_[through].min() > 0.8
    assert any_[np.abs(z - 2.0) > radius + 5].max() < 0.1
    assert float(series["any"]) > 0.8 and float(series["intraparenchymal"]) > 0.8
    found = findings(ran)
    assert found["Intracranial hemorrhage"][0] == found["Cerebral hemorrhage"][0] == "Present"
    assert found["Subdural intracranial hemorrhage"][0] == "Absent"
    assert kinds(ran) == ["ko", "pdf", "sc", "sr"]
    made, shown = (np.asarray(Image.open(each).convert("RGB")).astype(int) for each in (page(ran), PICTURE))
    assert made.shape == shown.shape
    assert np.abs(made - shown).max() <= 2, "make it anew with `python -m tests.test_hemorrhage FOLDER`"


def page(ran: LocalRun) -> Path:
    (found,) = (path for path in ran.files if path.name.startswith("sc") and path.suffix == ".png")
    return found


def _z(folder: Path, uid: str) -> float:
    headers = (pydicom.dcmread(each, stop_before_pixels=True) for each in folder.iterdir())
    return next(float(each.ImagePositionPatient[2]) for each in headers if uid == each.SOPInstanceUID)


def test_key_images_are_those_above_the_threshold(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", bleed_ml=20)
    ran = run(tmp_path / "in", tmp_path / "out", most_key_images=3)
    (ko,) = (pydicom.dcmread(path) for path in ran.files if path.name.startswith("ko"))
    marked = {
        each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for each in ko.ContentSequence
        if "ReferencedSOPSequence" in each
    }
    slices = sorted(table(ran)[:-1], key=lambda each: -float(each["any"]))
    assert marked == {each["SOPInstanceUID"] for each in slices[:3]}


def test_a_head_without_a_bleed_has_a_report_that_says_so(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", size=256, tilt=15.0)
    ran = run(tmp_path / "in", tmp_path / "out", pdf=False)
    found = findings(ran)
    assert len(found) == 6 and {present for present, _ in found.values()} == {"Absent"}
    assert kinds(ran) == ["sc", "sr"]


def test_results_say_that_a_stand_in_answered(tmp_path: Path) -> None:
    head_ct(tmp_path / "in", size=64)
    ran = run(tmp_path / "in", tmp_path / "out")
    (report,) = (path for path in ran.files if path.name.startswith("sr"))
    data = report.read_bytes()
    assert b"STAND-IN, NO TRAINED NETWORK: not for diagnosis." in data
    assert b"asked model stand-in (no trained network) 1" in data
    assert "stand-in" in pydicom.dcmread(report).SeriesDescription
    (other,) = run_local(APP, tmp_path / "in", {}, tmp_path / "again")
    assert table(other) == table(ran)


def test_a_sites_own_model_takes_the_place_of_the_stand_in(tmp_path: Path) -> None:
    seen: list[np.ndarray] = []

    def answers(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if method == "GET":
            return 200, {}, b"{}"
        seen.append(np.load(BytesIO(body), allow_pickle=False))
        return 200, {}, repr([[0.9, 0.1, 0.2, 0.3, 0.4, 0.8]] * len(seen[-1])).encode()

    head_ct(tmp_path / "in", slices=20, size=512)
    with serving(answers) as base:
        ran = run(tmp_path / "in", tmp_path / "out", model=f"{base}/predictions/ich/7")
    assert [each.shape for each in seen] == [(16, 512, 512, 3), (4, 512, 512, 3)]
    assert findings(ran)["Subdural intracranial hemorrhage"] == ("Present", pytest.approx(0.8))
    (report,) = (path for path in ran.files if path.name.startswith("sr"))
    assert b"asked model ich 7" in report.read_bytes()
    assert b"STAND-IN" not in report.read_bytes()
    middle = seen[0][10, 256, 256]  # brain, 34 HU, through the windows (40, 80), (80, 200), (40, 380)
    assert middle == pytest.approx([34 / 80 * 255, 54 / 200 * 255, 184 / 380 * 255], abs=15)


def test_the_node_asks_a_sites_model_by_name_and_counts_it(
    tmp_path: Path, start_node: Callable[..., Node], sink: SinkPacs
) -> None:
    """The job's process has a network only because an option names a model that has an address."""
    asked: list[str] = []

    def answers(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        asked.append(f"{method} {path}")
        count = np.load(BytesIO(body), allow_pickle=False).shape[0] if body else 0
        return 200, {}, repr([[0.9, 0.1, 0.2, 0.3, 0.4, 0.8]] * count).encode()

    rule = "rules: [{name: ich, app: hemorrhage, send_to: [a], when: {SeriesClass: ct}, options: {model: ich}}]\n"
    with serving(answers) as base:
        names = {"RADNODE_MODELS": f"ich={base}/predictions/ich/7"}
        node = start_node(QUICK + destinations(a=sink) + rule, env=names)
        node.send(head_ct(tmp_path / "ct", size=64, charset="greek"))
        received = sink.wait_for(4, timeout=90)
    modalities = {pydicom.dcmread(each.path).Modality for each in received if each.path}
    assert modalities == {"OT", "SR", "KO", "DOC"}
    assert asked == ["GET /ping", *["POST /predictions/ich/7"] * 2]
    counted = 'radnode_model_requests_total{model="ich",outcome="answered"} 2.0'
    until(lambda: counted in node.get("/metrics")[1], "the requests are counted")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"Modality": "MR"}, "modality is MR, not CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "not from the scanner itself (SECONDARY)"),
        ({"ContrastBolusAgent": "Iohexol"}, "contrast-enhanced"),
        ({"slices": 7}, "7 slices, fewer than 8"),
        ({"SliceThickness": 12}, "slices of 12 mm, thicker than 10"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not axial"),
        ({"ImagePositionPatient": [0, 0, 0]}, "several images at one place"),
        ({"missing": [8, 9, 10]}, "images are missing: a gap of 20.0 mm, the others are 5.0 mm"),
        ({"spacing": 1.0, "slices": 40}, "covers 39 mm, less than 70"),
        ({"RescaleIntercept": -4000}, "shows no head: 0.0% of its pixels are denser than -150 HU"),
        ({"RescaleIntercept": None}, "its values are no Hounsfield units (RescaleSlope, RescaleIntercept)"),
        ({"RescaleType": "Z_EFF"}, "its values are no Hounsfield units (RescaleType Z_EFF)"),
        ({"SamplesPerPixel": 3}, "its images are in colour"),
    ],
    ids=str,
)
def test_a_series_that_does_not_suit_is_declined_with_the_reason(
    tmp_path: Path, how: dict[str, Any], reason: str
) -> None:
    head_ct(tmp_path / "in", **{"slices": 20, "size": 16, **how})
    ran = run(tmp_path / "in", tmp_path / "out")
    assert (ran.declined, ran.files) == (reason, ())


def test_of_a_study_the_series_that_suits_best_is_judged(tmp_path: Path) -> None:
    head_ct(tmp_path / "in" / "a", slices=60, size=32, spacing=2.5, SeriesDescription="THIN", localizer=True)
    head_ct(tmp_path / "in" / "b", slices=30, size=32, SeriesDescription="STD")
    head_ct(tmp_path / "in" / "c", slices=31, size=32, SeriesDescription="BONE")
    (ran,) = run_local(APP, tmp_path / "in", {}, tmp_path / "out", level="study")
    assert len(table(ran)) == 31
    head_ct(tmp_path / "none", slices=9, size=16, Modality="MR", localizer=True)
    (ran,) = run_local(APP, tmp_path / "none", {}, tmp_path / "out2", level="study")
    assert "HEAD 5MM STD: modality is MR" in ran.declined


def test_of_a_real_study_the_standard_series_is_judged(tmp_path: Path) -> None:
    folder = real_data("ct-head-ge")[0].parents[1] / "ct-head-philips"  # its files have no suffix
    standard = (folder / "S2010").iterdir()
    (ran,) = run_local(APP, folder, {}, tmp_path / "out", level="study")
    uids = {each["SOPInstanceUID"] for each in table(ran)[:-1]}
    assert uids == {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in standard}


def test_a_tilted_and_uneven_real_head_goes_into_an_archive(tmp_path: Path, orthanc: Orthanc) -> None:
    ran = run(real_data("ct-head-ge")[0].parent, tmp_path / "out")
    assert len(table(ran)) == 29 and kinds(ran) == ["pdf", "sc", "sr"]
    (report,) = (path for path in ran.files if path.name.startswith("sr"))
    assert b"Tilted by 18.5 degrees." in report.read_bytes()
    store(ran, orthanc)


def test_every_object_of_a_bleed_goes_into_an_archive(tmp_path: Path, orthanc: Orthanc) -> None:
    head_ct(tmp_path / "in", size=128, bleed_ml=25, charset="japanese", tilt=12.0, uneven=True)
    ran = run(tmp_path / "in", tmp_path / "out")
    assert kinds(ran) == ["ko", "pdf", "sc", "sr"]
    store(ran, orthanc)


def store(ran: LocalRun, orthanc: Orthanc) -> None:
    files = [path for path in ran.files if path.suffix == ".dcm"]
    answers = scu.send([scu.read_outgoing(each) for each in files], orthanc.peer, calling_aet="TEST")
    assert [each.status for each in answers] == [0x0000] * len(files)


def test_options_out_of_range_are_refused() -> None:
    for bad in ({"threshold": 0}, {"threshold": 1}, {"type_threshold": 2}, {"most_key_images": -1}, {"modell": "x"}):
        with pytest.raises(OptionsError):
            APP.parse_options(bad)


@given(st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=1, max_size=30))
def test_the_series_is_as_probable_as_its_slices_and_their_neighbours(answer: list[list[float]]) -> None:
    from radnode_apps.hemorrhage.classes import aggregated  # type: ignore[import-not-found]

    array = np.array(answer)
    found = aggregated(array)
    assert (found <= array.max(axis=0) + 1e-9).all()
    assert (found >= array.mean(axis=0) - 1e-9).all() or len(answer) > 1
    assert (found >= array.max(axis=0) / 2 - 1e-9).all()


if __name__ == "__main__":
    head_ct(Path(sys.argv[1]) / "in", bleed_ml=20)
    shutil.copyfile(page(run(Path(sys.argv[1]) / "in", Path(sys.argv[1]) / "out")), PICTURE)
