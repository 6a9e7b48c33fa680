"""Results as DICOM objects: valid, this patient's, the same bytes every time, and readable back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom import sr
from PIL import Image
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    UltrasoundImageStorage,
)

from radnode import (
    Code,
    EncapsulatedPdf,
    Finding,
    Measurement,
    MeasurementReport,
    ParametricMap,
    SecondaryCapture,
    Segment,
    Segmentation,
    Series,
    Study,
)
from radnode.dicom.encode import check as checking
from radnode.dicom.encode import encode
from radnode.dicom.encode.check import check, dciodvfy
from radnode.dicom.encode.common import IDENTITY
from radnode.dicom.encode.own import own_problems
from radnode.dicom.scu import read_outgoing, send
from radnode.dicom.volume import read_series
from radnode.domain.errors import ResultError
from radnode.domain.jobs import SeriesLabel
from radnode.testing.phantom import CHARSETS, head_ct
from tests.peers import Orthanc
from tests.results import BRAIN, IN_ALL, JOB, REAL, dcentvfy, enhanced, every_kind, only, phantom, real, written


@pytest.mark.parametrize("charset", CHARSETS)
def test_results_are_valid_and_agree_with_their_study_in_every_character_set(tmp_path: Path, charset: str) -> None:
    series = phantom(tmp_path / "in", charset=charset)
    paths = written(tmp_path / "out", every_kind(series), series)
    assert len(paths) == IN_ALL
    assert [dciodvfy(path) for path in paths] == [[]] * IN_ALL
    assert dcentvfy([*paths, *(each.path for each in series)]) == []
    for path in paths:
        assert str(pydicom.dcmread(path).PatientName) == CHARSETS[charset][1]
        assert pydicom.dcmread(path).get("SpecificCharacterSet") == CHARSETS[charset][0]


@pytest.mark.parametrize("name", REAL)
def test_results_of_real_series_are_valid_and_agree_with_their_study(tmp_path: Path, name: str) -> None:
    for number, series in enumerate(part for whole in real(name) for part in whole.split()):
        paths = written(tmp_path / str(number), every_kind(series), series)
        assert [dciodvfy(path) for path in paths] == [[]] * len(paths)
        sources = [each.path for each in series]
        assert set(dcentvfy([*sources, *paths])) <= set(dcentvfy(sources))
        assert check(paths[0], series.first.path) == []


def test_a_real_pacs_takes_every_kind_and_gives_it_back_equal(tmp_path: Path, orthanc: Orthanc) -> None:
    series = phantom(tmp_path / "in", charset="korean")
    paths = written(tmp_path / "out", every_kind(series), series)
    statuses = [answer.status for answer in send([read_outgoing(path) for path in paths], orthanc.peer)]
    assert statuses == [0x0000] * IN_ALL
    for path in paths:
        sent = pydicom.dcmread(path)
        (found,) = orthanc.find("Instance", "SOPInstanceUID", sent.SOPInstanceUID)
        assert pydicom.dcmread(BytesIO(orthanc.request("GET", f"/instances/{found}/file"))) == sent


def test_the_same_assignment_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in", charset="japanese")
    here = [path.read_bytes() for path in written(tmp_path / "one", every_kind(series), series)]
    program = (
        "import sys; from pathlib import Path; from tests.results import *\n"
        "series, = read_series(sorted(Path(sys.argv[1]).glob('*')))\n"
        "written(Path(sys.argv[2]), every_kind(series), series)\n"
    )
    other = tmp_path / "two"
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "in", other],
        env={**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
    )
    assert [path.read_bytes() for path in sorted(other.iterdir(), key=_number)] == here


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def test_another_job_gives_other_uids(tmp_path: Path) -> None:
    series = phantom(tmp_path)
    one = [each.SOPInstanceUID for each in encode(every_kind(series), series, JOB)]
    two = [each.SOPInstanceUID for each in encode(every_kind(series), series, replace(JOB, job_id="f" * 32))]
    assert len({*one, *two}) == 2 * IN_ALL


def test_dates_are_those_of_the_job_and_the_equipment_is_named(tmp_path: Path) -> None:
    series = phantom(tmp_path)
    for encoded in encode(every_kind(series), series, JOB):
        ds = encoded.dataset
        for kind in ("Series", "Content", "InstanceCreation"):
            assert (ds[f"{kind}Date"].value, ds[f"{kind}Time"].value) == ("20260301", "221005")
        assert (ds.ManufacturerModelName, ds.DeviceSerialNumber, ds.StationName) == ("hyperdense", "2.25.42", "RADNODE")
        acquisition, processing = ds.ContributingEquipmentSequence
        assert acquisition.ManufacturerModelName == "Phantom"
        assert processing.ContributionDescription == "radnode app hyperdense"
        assert processing.ContributionDateTime == "20260301221005+0100"


@pytest.mark.parametrize("named", ["", "东软医疗"])
def test_a_source_whose_maker_is_not_known_has_valid_results(tmp_path: Path, named: str) -> None:
    series = phantom(tmp_path, Manufacturer=named, charset="utf8")
    paths = written(tmp_path / "out", every_kind(series), series)
    acquired = [pydicom.dcmread(path).ContributingEquipmentSequence[0].Manufacturer for path in paths]
    assert acquired == ["unknown"] * IN_ALL
    assert [dciodvfy(path) for path in paths] == [[]] * IN_ALL


def test_captures_on_slices_have_the_slices_geometry_and_name_their_source(tmp_path: Path) -> None:
    series = phantom(tmp_path, tilt=15.0)
    _, overlay, *_ = every_kind(series)
    for instance, encoded in zip(series, encode([overlay], series, JOB), strict=True):
        ds, source = encoded.dataset, pydicom.dcmread(instance.path)
        for keyword in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert ds[keyword].value == source[keyword].value
        (reference,) = ds.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_an_overlay_shows_the_slice_in_its_window_and_the_mask_in_colour(tmp_path: Path) -> None:
    series = phantom(tmp_path, slices=9, size=64)
    volume = series.volume()
    mask = np.zeros((9, 64, 64), bool)
    mask[4, 20:30, 20:30] = True
    overlay = SecondaryCapture.overlay(volume, mask, window=(40, 80), color=(0, 255, 0))
    shown = [each.dataset.pixel_array for each in encode([overlay], series, JOB)]
    grey = np.clip((series.instances[4].pixels() - 1024.0) * 255 / 80, 0, 255).astype(np.uint8)
    assert np.array_equal(shown[4][~mask[4]], np.repeat(grey[~mask[4]][:, None], 3, axis=1))
    assert tuple(shown[4][20, 25]) == (0, 255, 0)
    assert shown[4][25, 25, 1] > shown[4][25, 25, 0] > 0
    assert np.ptp(shown[0], axis=2).max() == 0


def test_a_capture_says_where_its_edges_are_and_what_its_source_has_lost(tmp_path: Path) -> None:
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "12.5"}
    files = head_ct(tmp_path / "in", slices=1, size=16, Laterality="L", ImageLaterality="L", **lossy)
    (series,) = read_series(files)
    mask = np.ones((1, 16, 16), bool)
    results = [
        SecondaryCapture.overlay(series.volume(), mask, window=(40, 80)),
        Segmentation([Segment("Anything", mask)]),
        ParametricMap(mask * 1.0, "Something"),
        EncapsulatedPdf(b"%PDF-1.4"),
    ]
    capture, *others = written(tmp_path / "out", results, series)
    ds = pydicom.dcmread(capture)
    assert list(ds.PatientOrientation) == list(series.first.orientation) == ["L", "P"]
    assert ds.ImageLaterality == "L"
    for path in (capture, *others):
        ds = pydicom.dcmread(path)
        assert ds.get("Laterality") == ("L" if ds.Modality in ("CT", "DOC") else None)  # captures have ImageLaterality
        assert ds.Modality == "DOC" or (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 12.5)
        assert check(path, series.first.path) == []


@pytest.mark.parametrize(
    ("said", "class_uid", "named"),
    [
        ("", CTImageStorage, "NO"),
        ("YES", CTImageStorage, "YES"),
        ("", UltrasoundImageStorage, "YES"),
        ("NO", UltrasoundImageStorage, "NO"),
    ],
)
def test_what_is_drawn_on_a_picture_that_names_the_patient_names_the_patient(
    tmp_path: Path, said: str, class_uid: str, named: str
) -> None:
    (series,) = read_series(head_ct(tmp_path, slices=1, size=16, BurnedInAnnotation=said, SOPClassUID=class_uid))
    overlay = SecondaryCapture.overlay(series, np.ones((1, 16, 16), bool), window=(40, 80), series=series)
    (made,) = encode([overlay], series, JOB)
    assert made.dataset.BurnedInAnnotation == named


@pytest.mark.parametrize("body", ["HEAD", "KNEE", "BREAST", "LEFT HAND", None])
@pytest.mark.parametrize("side", [{}, {"Laterality": ""}, {"Laterality": "R"}, {"ImageLaterality": "L"}], ids=str)
def test_results_are_valid_whatever_the_body_part_and_whoever_states_the_side(
    tmp_path: Path, body: str | None, side: dict[str, str]
) -> None:
    """A segmentation of a knee with its side, and captures of a breast or of a knee without one, were invalid."""
    series = phantom(tmp_path / "in", BodyPartExamined=body, **side)
    paths = written(tmp_path / "out", every_kind(series), series)
    if (body, side) != ("HEAD", {"Laterality": "R"}):  # which makes no sense, in the source either
        assert [dciodvfy(path) for path in paths] == [[]] * IN_ALL
    assert [check(path, series.first.path) for path in paths] == [[]] * IN_ALL
    for path in paths:
        ds = pydicom.dcmread(path)
        assert ds.get("BodyPartExamined") in (body, None)
        if ds.Modality == "OT" and path.name.startswith("sc"):
            assert (ds.get("ImageLaterality") or ds.get("Laterality") or "") == "".join(side.values())


def test_a_page_of_both_breasts_says_both(tmp_path: Path) -> None:
    files = head_ct(tmp_path, slices=2, size=16)
    for path, side in zip(files, "LR", strict=True):
        ds = pydicom.dcmread(path)
        ds.ImageLaterality = side
        ds.save_as(path)
    (series,) = read_series(files)
    pictures = [SecondaryCapture(np.zeros((4, 4), np.uint8)), SecondaryCapture(np.zeros((2, 4, 4, 3), np.uint8))]
    sides = [each.dataset.ImageLaterality for each in encode(pictures, series, JOB)]
    assert sides == ["B", "L", "R"]


def test_both_sides_together_are_neither_side(tmp_path: Path) -> None:
    sides = [
        read_series(head_ct(tmp_path / side, slices=1, size=16, seed=seed, Laterality=side))[0]
        for seed, side in enumerate("LR")
    ]
    (made,) = encode([SecondaryCapture(np.zeros((4, 4), np.uint8))], Study(tuple(sides)), JOB)
    assert not made.dataset.get("Laterality")


def test_one_picture_per_slice_is_taken_as_it_is(tmp_path: Path) -> None:
    series = phantom(tmp_path)
    stack = np.arange(4 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(4, 32, 32, 3)
    shown = [each.dataset.pixel_array for each in encode([SecondaryCapture(stack, "Stack")], series, JOB)]
    assert np.array_equal(shown, stack)
    with pytest.raises(ResultError, match="3 pictures for 4 slices"):
        list(encode([SecondaryCapture(stack[:3], "Stack")], series, JOB))


def test_a_page_may_be_an_array_or_a_pillow_image_and_says_whether_it_shows_identity(tmp_path: Path) -> None:
    series = phantom(tmp_path)
    grey = np.arange(15, dtype=np.uint8).reshape(3, 5)
    for page in (grey, np.repeat(grey[:, :, None], 3, axis=2), Image.fromarray(grey)):
        ds = only([SecondaryCapture(page, shows_identity=page is grey)], series).dataset
        assert np.array_equal(ds.pixel_array[:, :, 2], grey)
        assert ds.BurnedInAnnotation == ("YES" if page is grey else "NO")
        assert len(ds.PixelData) % 2 == 0


def test_a_page_may_be_a_matplotlib_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2), dpi=100)
    figure.subplots().plot([1, 3, 2])
    ds = only([SecondaryCapture(figure, "Plot")], phantom(tmp_path)).dataset
    assert (ds.Rows, ds.Columns) == (200, 300)
    assert np.ptp(ds.pixel_array) > 0


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    series = phantom(tmp_path)
    for page in (np.zeros((4, 4), float), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), "page.png"):
        with pytest.raises(ResultError, match="is no page"):
            only([SecondaryCapture(page)], series)


def test_a_report_reads_back_as_it_was_written(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in")
    *_, path = written(tmp_path / "out", every_kind(series), series)
    report = sr.srread(path)
    measured, absent, present = report.content.get_image_measurement_groups()
    assert [(m.name.meaning, m.value, m.unit.value) for m in measured.get_measurements()] == [
        ("Largest diameter", 12.5, "mm"),
        ("Brain", 3.0, "1"),
    ]
    assert measured.finding_sites[0].value == PydicomCode("12738006", "SCT", "Brain")
    (evaluation,) = absent.get_qualitative_evaluations()
    assert (evaluation.name.value, evaluation.value.meaning) == ("1386000", "Absent")
    assert [(m.name.meaning, m.value) for m in absent.get_measurements()] == [("Probability", 0.125)]
    assert present.get_qualitative_evaluations()[0].value.meaning == "Present"
    assert {each.referenced_sop_instance_uid for each in measured.source_images} == {
        each.SOPInstanceUID for each in series
    }
    assert {each[2] for each in report.get_evidence()} > {each.SOPInstanceUID for each in series}
    assert b"threshold_hu=60.0" in path.read_bytes() and b"Read with care." in path.read_bytes()
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )


def test_a_report_with_nothing_in_it_is_still_valid(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in")
    (path,) = written(tmp_path / "out", [MeasurementReport(comment="Nothing to measure.")], series)
    assert check(path, series.first.path) == []
    assert len(sr.srread(path).content.get_image_measurement_groups()) == 1


NUMBERS = [9010, 9001, 9002, 9011, 9012, 9040, 9050, 9090, 9030, 9020]  # in the order of `every_kind`, documents last


@pytest.mark.parametrize(
    ("label", "numbers", "description"),
    [
        (SeriesLabel(), NUMBERS, "AI hyperdense Overlay - research use only"),
        (SeriesLabel(700), list(range(700, 710)), "AI hyperdense Overlay - research use only"),
        (SeriesLabel(9100, "AI hemorrhage"), list(range(9100, 9110)), "AI hemorrhage"),
    ],
)
def test_each_kind_of_result_is_a_series_labelled_as_the_rule_says(
    tmp_path: Path, label: SeriesLabel, numbers: list[int], description: str
) -> None:
    series = phantom(tmp_path)
    made = [each.dataset for each in encode(every_kind(series), series, replace(JOB, label=label))]
    assert list(dict.fromkeys(int(ds.SeriesNumber) for ds in made)) == numbers
    assert len({ds.SeriesInstanceUID for ds in made}) == len(numbers)
    assert series.SeriesInstanceUID not in {ds.SeriesInstanceUID for ds in made}
    assert made[1].SeriesDescription == description
    assert [ds.InstanceNumber for ds in made] == [1, 1, 2, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1]


def test_a_long_description_keeps_its_warning(tmp_path: Path) -> None:
    ds = only([MeasurementReport(description="x\n\\" * 60)], phantom(tmp_path)).dataset
    assert len(ds.SeriesDescription) <= 64
    assert ds.SeriesDescription.endswith(" - research use only")
    assert "\\" not in ds.SeriesDescription


@pytest.mark.parametrize("charset", CHARSETS)
def test_a_label_outside_ascii_turns_the_object_into_utf8_and_names_survive(tmp_path: Path, charset: str) -> None:
    series = phantom(tmp_path / "in", charset=charset)
    job = replace(JOB, label=SeriesLabel(9001, "KI Blutung, Größe"))
    paths = written(tmp_path / "out", every_kind(series), series, job)
    for path in paths:
        ds = pydicom.dcmread(path)
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert (str(ds.PatientName), ds.SeriesDescription) == (CHARSETS[charset][1], "KI Blutung, Größe")
        assert check(path, series.first.path) == []


def test_patient_and_study_are_copied_byte_for_byte(tmp_path: Path) -> None:
    source = head_ct(tmp_path / "in", slices=1, size=16, charset="utf8")[0]
    source.write_bytes(source.read_bytes().replace("Анна".encode(), b"A\x81\xff\xfe\x80na\xc3"))
    (series,) = read_series([source])
    for path in written(tmp_path / "out", every_kind(series), series):
        assert b"^A\x81\xff\xfe\x80na\xc3" in path.read_bytes()
        assert check(path, source) == []


def test_attributes_the_source_lacks_are_present_and_empty(tmp_path: Path) -> None:
    path = head_ct(tmp_path / "in", slices=1, size=16)[0]
    ds = pydicom.dcmread(path)
    for keyword in ("PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"):
        del ds[keyword]
    ds.save_as(path)
    (series,) = read_series([path])
    for made in written(tmp_path / "out", every_kind(series), series):
        assert pydicom.dcmread(made).PatientBirthDate == ""
        assert (check(made, path), dciodvfy(made)) == ([], [])


def test_a_flaw_in_the_sources_own_identity_does_not_hold_its_results_back(tmp_path: Path) -> None:
    path = head_ct(tmp_path / "in", slices=1, size=16)[0]
    path.write_bytes(path.read_bytes().replace(b"CS\x02\x00F ", b"CS\x02\x00U ").replace(b"19600229", b"1960.2.9"))
    (series,) = read_series([path])
    for made in written(tmp_path / "out", every_kind(series), series):
        errors = dciodvfy(made)
        assert {"PatientSex", "PatientBirthDate"} == {each.split("</")[1].split("(")[0] for each in errors}
        assert "1960" not in str(errors)
        assert check(made, path) == []


@pytest.mark.parametrize("keyword", IDENTITY)
def test_an_object_of_another_patient_or_study_is_refused(tmp_path: Path, keyword: str) -> None:
    series = phantom(tmp_path / "in")
    path = written(tmp_path / "out", every_kind(series), series)[-1]
    ds = pydicom.dcmread(path)
    other = {"StudyInstanceUID": "1.2.3", "StudyDate": "20200101", "PatientBirthDate": "19990101", "PatientSex": "M"}
    setattr(ds, keyword, other.get(keyword, "101010"))
    ds.save_as(path)
    assert check(path, series.first.path) == [f"{keyword} is not the source's"]


def test_an_invalid_object_is_refused_with_the_reason(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in")
    path = written(tmp_path / "out", every_kind(series), series)[1]
    ds = pydicom.dcmread(path)
    del ds.ConversionType
    ds.save_as(path)
    (problem,) = check(path, series.first.path)
    assert "ConversionType" in problem


def test_what_dciodvfy_does_not_see_is_refused_too(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in")
    segmentation, capture, *_, report = written(tmp_path / "out", every_kind(series), series)

    def problems(path: Path, change: Callable[[pydicom.Dataset], None]) -> list[str]:
        ds = pydicom.dcmread(path)
        change(ds)
        return own_problems(ds, series.first.dataset())

    def of_the_source(ds: pydicom.Dataset) -> None:
        ds.SeriesInstanceUID = series.SeriesInstanceUID

    def too_short(ds: pydicom.Dataset) -> None:
        ds.PixelData = ds.PixelData[:-2]

    def a_frame_more(ds: pydicom.Dataset) -> None:
        ds.PerFrameFunctionalGroupsSequence.append(ds.PerFrameFunctionalGroupsSequence[0])

    def no_evidence(ds: pydicom.Dataset) -> None:
        del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]

    assert [problems(path, lambda ds: None) for path in (segmentation, capture, report)] == [[]] * 3
    assert problems(capture, of_the_source) == ["SeriesInstanceUID is the source's own"]
    assert problems(capture, too_short) == ["PixelData has 3070 bytes, not 3072"]
    assert "functional groups for" in problems(segmentation, a_frame_more)[0]
    assert "not among the evidence" in problems(report, no_evidence)[0]


def test_volumes_of_masks_are_measured_on_the_series_they_belong_to(tmp_path: Path) -> None:
    one = phantom(tmp_path / "one", slices=4)
    two = phantom(tmp_path / "two", slices=4, spacing=2.5)
    study = Study((one, two), {"thick": one, "thin": two})
    mask = np.ones((4, 32, 32), bool)
    report = MeasurementReport([Measurement.volume_ml(name, mask, series=study[name]) for name in ("thick", "thin")])
    path = tmp_path / "report.dcm"
    path.write_bytes(only([report], study).data())
    (group,) = sr.srread(path).content.get_image_measurement_groups()
    thick, thin = (each.value for each in group.get_measurements())
    assert thick == pytest.approx(4 * 230 * 230 * 5 / 1000)
    assert thin == pytest.approx(thick / 2)


def test_a_result_of_a_study_has_to_say_which_series_it_is_about(tmp_path: Path) -> None:
    one, two = phantom(tmp_path / "one"), phantom(tmp_path / "two", spacing=2.5)
    report = MeasurementReport([Measurement.volume_ml("x", np.ones((4, 32, 32)))])
    with pytest.raises(ResultError, match="which of 2 series"):
        only([report], Study((one, two)))


def test_an_overlay_finds_its_series_by_its_volume(tmp_path: Path) -> None:
    one, two = phantom(tmp_path / "one"), phantom(tmp_path / "two", spacing=2.5)
    volume = two.volume()
    made = list(encode([SecondaryCapture.overlay(volume, volume > 50, window=(40, 80))], Study((one, two)), JOB))
    named = [each.dataset.SourceImageSequence[0].ReferencedSOPInstanceUID for each in made]
    assert named == [each.SOPInstanceUID for each in two]


def test_values_that_dicom_cannot_hold_are_refused_where_they_are_made() -> None:
    for value in (float("nan"), float("inf"), np.float32("nan"), None):
        with pytest.raises(ResultError):
            Measurement("volume", value, "mL")
    with pytest.raises(ResultError, match="incomplete"):
        Code("", "SCT", "Brain")
    with pytest.raises(ResultError, match="too long"):
        Code("1" * 17, "SCT", "Brain")
    with pytest.raises(ResultError, match="probability"):
        Finding("bleed", True, 1.5)
    with pytest.raises(ResultError, match="no width"):
        SecondaryCapture.overlay(None, None, window=(40, 0))


def test_a_plain_name_always_becomes_the_same_code() -> None:
    assert Code.named("Largest diameter") == Code("LARGEST_DIAMETER", "99RADNODE", "Largest diameter")
    assert Code.named("Größe") == Code.named("Größe") != Code.named("Grösse")
    assert len(Code.named("Volume of hyperdense tissue").value) == 16
    assert Code.named(BRAIN) is BRAIN


def test_what_is_no_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="'hyperdense' yielded dict"):
        only([{"volume": 3}], phantom(tmp_path))


def test_a_large_series_is_named_by_its_evidence_not_image_by_image(tmp_path: Path) -> None:
    series = phantom(tmp_path, slices=1, size=16)
    one = series.first
    copies = [{**one.attributes, "SOPInstanceUID": (f"{one.SOPInstanceUID}.{number}",)} for number in range(600)]
    large = Series(tuple(replace(one, attributes=each) for each in copies), series.reader)
    results = [SecondaryCapture(np.zeros((4, 4), np.uint8)), MeasurementReport([Measurement("n", 1)])]
    page, report = encode(results, large, JOB)
    assert len(page.dataset.SourceImageSequence) == 1
    (study,) = report.dataset.CurrentRequestedProcedureEvidenceSequence
    images, pages = study.ReferencedSeriesSequence
    assert (len(images.ReferencedSOPSequence), len(pages.ReferencedSOPSequence)) == (600, 1)


@pytest.mark.parametrize("charset", ["ISO 2022 IR 100", "ISO_IR_100", "UTF-8", ["ISO_IR 100", "ISO 2022 IR 149"]])
def test_a_source_with_a_wrong_character_set_still_has_results(tmp_path: Path, charset: str | list[str]) -> None:
    path = head_ct(tmp_path / "in", slices=1, size=16, charset="latin1")[0]
    raw = path.read_bytes()
    name = charset if isinstance(charset, str) else "\\".join(charset)
    value = name.encode() + b" " * (len(name) % 2)
    old = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"
    assert old in raw
    path.write_bytes(raw.replace(old, b"\x08\x00\x05\x00CS" + len(value).to_bytes(2, "little") + value))
    (series,) = read_series([path])
    for label in (SeriesLabel(), SeriesLabel(9001, "Größe")):
        for made in written(tmp_path / "out", every_kind(series), series, replace(JOB, label=label)):
            assert check(made, path) == []


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_identity_survives_whatever_the_sources_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    path = head_ct(tmp_path / "in", slices=1, size=16, charset="japanese")[0]
    ds = pydicom.dcmread(path)
    other, procedure = pydicom.Dataset(), pydicom.Dataset()
    other.PatientID, other.TypeOfPatientID = "山田1", "TEXT"
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "24725-4", "LN", "CT Head"
    ds.OtherPatientIDsSequence, ds.ProcedureCodeSequence = [other], [procedure]
    ds.file_meta.TransferSyntaxUID = syntax
    implicit, big = syntax == ImplicitVRLittleEndian, syntax == ExplicitVRBigEndian
    pydicom.dcmwrite(path, ds, implicit_vr=implicit, little_endian=not big)
    (series,) = read_series([path])
    for made in written(tmp_path / "out", every_kind(series), series):
        assert (check(made, path), dciodvfy(made)) == ([], [])
        assert pydicom.dcmread(made).OtherPatientIDsSequence[0].PatientID == "山田1"
    (reported,) = sr.srread(made).content[0].ContentSequence.find(PydicomCode("121058", "DCM", "Procedure reported"))
    assert reported.value == PydicomCode("24725-4", "LN", "CT Head")


def test_results_of_an_enhanced_multi_frame_image_refer_to_its_frames(tmp_path: Path) -> None:
    files = head_ct(tmp_path / "in", slices=4, size=32, tilt=10)
    (series,) = read_series([enhanced(files, tmp_path / "multi.dcm")])
    paths = written(tmp_path / "out", every_kind(series), series)
    assert len(paths) == IN_ALL
    assert [check(path, series.first.path) for path in paths] == [[]] * IN_ALL
    segmentation, *captures = (pydicom.dcmread(path) for path in paths[:5])
    for ds, plane in zip(captures, series.planes, strict=True):
        assert ds.SourceImageSequence[0].ReferencedFrameNumber == plane.frame
        assert tuple(map(float, ds.ImagePositionPatient)) == pytest.approx(plane.get("ImagePositionPatient"))
    (source,) = segmentation.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    assert source.ReferencedFrameNumber == series.planes[0].frame


@pytest.mark.parametrize(("deaths", "errors"), [(2, 0), (3, 1)])
def test_a_validator_that_was_killed_is_asked_again_before_its_death_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, errors: int
) -> None:
    (image,) = head_ct(tmp_path, slices=1, size=32)
    real_one = checking._program("dciodvfy")
    dying = tmp_path / "dying"
    dying.write_text(
        f"#!/bin/sh\necho >> {tmp_path}/tries\n"
        f"[ $(wc -l < {tmp_path}/tries) -le {deaths} ] && kill -9 $$\nexec {real_one} \"$@\"\n"
    )
    dying.chmod(0o755)
    monkeypatch.setattr(checking, "_program", lambda name: str(dying))
    assert len(dciodvfy(image)) == errors
