"""Segmentations, regions, key images, PDFs and raw data sets: read back equal, and referring to each other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom import seg, sr

from radnode import (
    Code,
    EncapsulatedPdf,
    Finding,
    KeyImages,
    Location,
    Measurement,
    MeasurementReport,
    ParametricMap,
    Region,
    SecondaryCapture,
    Segment,
    Segmentation,
    Series,
)
from radnode.dicom.encode import encode
from radnode.dicom.encode.check import check
from radnode.dicom.masks import mask_on_source
from radnode.dicom.volume import read_series
from radnode.domain.errors import ResultError
from radnode.testing.phantom import head_ct
from tests.results import JOB, enhanced, only, phantom, raw_object, written


def blob(series: Series, *, at: int = 0) -> np.ndarray:
    mask = np.zeros((len(series.planes), series.first.get("Rows"), series.first.get("Columns")), bool)
    mask[at : at + 2, 5:12, 6:14] = True
    return mask


def made(folder: Path, results: Iterable[Any], series: Series) -> dict[str, pydicom.Dataset]:
    """kind -> the last object of it, as it is read from its file, checked."""
    found = {}
    for path in written(folder / "out", results, series):
        assert check(path, series.first.path) == []
        found[path.stem.partition("-")[0]] = pydicom.dcmread(path)
    return found


@pytest.mark.parametrize("how", [{}, {"tilt": 18.5}, {"uneven": True}, {"size": 31}], ids=str)
def test_a_segmentation_reads_back_on_the_slices_it_was_made_on(tmp_path: Path, how: dict[str, Any]) -> None:
    series = phantom(tmp_path / "in", slices=6, **how)
    one, two = blob(series), blob(series, at=3) ^ blob(series, at=4)
    ds = made(tmp_path, [Segmentation([Segment("One", one), Segment("Two", two)])], series)["seg"]
    read = seg.Segmentation.from_dataset(ds)
    uids = [each.SOPInstanceUID for each in series]
    pixels = read.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert np.array_equal(pixels[..., 0], one)
    assert np.array_equal(pixels[..., 1], two)
    places = {each.SOPInstanceUID: each.get("ImagePositionPatient") for each in series}
    for frame in ds.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert tuple(map(float, place)) == pytest.approx(places[source])


def test_a_mask_made_on_the_volume_of_a_tilted_series_lies_on_its_slices(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in", slices=8, size=64, tilt=15, uneven=True, bleed_ml=40)
    volume = series.volume()
    mask = sitk.And(volume > 55, volume < 100)
    ds = made(tmp_path, [Segmentation([Segment("Bleed", mask)])], series)["seg"]
    shown = [
        int(each.FrameContentSequence[0].DimensionIndexValues[1]) - 1 for each in ds.PerFrameFunctionalGroupsSequence
    ]
    wanted = mask_on_source(series, mask)
    assert shown == [index for index, plane in enumerate(wanted) if plane.any()]
    assert np.array_equal(ds.pixel_array.reshape(len(shown), 64, 64), wanted[shown])


def test_a_labelmap_and_a_probability_map_read_back(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in")
    one, two = blob(series), blob(series, at=2)
    labels = only([Segmentation([Segment("One", one), Segment("Two", two)], kind="LABELMAP")], series).dataset
    assert np.array_equal(labels.pixel_array, one * 1 + two * 2)
    share = np.where(blob(series), 0.25, 0)
    fractional = only([Segmentation([Segment("Risk", share)], kind="FRACTIONAL")], series).dataset
    assert fractional.MaximumFractionalValue == 255
    assert np.unique(fractional.pixel_array).tolist() == [0, 64]
    with pytest.raises(ResultError, match="overlap"):
        only([Segmentation([Segment("One", one), Segment("Two", one)], kind="LABELMAP")], series)
    with pytest.raises(ResultError, match="not within 0 and 1"):
        only([Segmentation([Segment("Risk", share * 8)], kind="FRACTIONAL")], series)


def test_report_segmentation_and_captures_refer_to_each_other(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in")
    lesion, other = Segment("Lesion", blob(series)), Segment("Other", blob(series, at=2), tracking="lesion 2")
    segmentation = Segmentation([Segment("Nothing", blob(series) & False), lesion, other])
    report = MeasurementReport(
        regions=[
            Region(
                lesion, measurements=[Measurement.volume_ml("Volume", lesion)], findings=[Finding("Acute", True, 0.5)]
            ),
            Region(other),
        ]
    )
    captures = SecondaryCapture.overlay(series, segmentation, window=(40, 80), series=series)
    found = made(tmp_path, [report, segmentation, captures], series)  # the report first: it is written last
    ds = found["seg"]
    parsed = sr.srread(next((tmp_path / "out").glob("sr-*.dcm")))
    one, two = parsed.content.get_volumetric_roi_measurement_groups()
    assert [each.SegmentLabel for each in ds.SegmentSequence] == ["Lesion", "lesion 2"]
    for group, segment in zip((one, two), ds.SegmentSequence, strict=True):
        assert group.tracking_uid == segment.TrackingUID
        assert group.tracking_identifier == segment.TrackingID
        (reference,) = (
            each for each in group[0].ContentSequence if each.ConceptNameCodeSequence[0].CodeValue == "121191"
        )
        (item,) = reference.ReferencedSOPSequence
        assert item.ReferencedSOPInstanceUID == ds.SOPInstanceUID
        assert item.ReferencedSegmentNumber == segment.SegmentNumber
    (volume, probability) = one.get_measurements()
    assert volume.value == pytest.approx(2 * 7 * 8 * (230 / 32) ** 2 * 5 / 1000)
    assert probability.value == 0.5
    assert ds.SOPInstanceUID in {each[2] for each in parsed.get_evidence()}
    assert found["sc"].ReferencedImageSequence[0].ReferencedSOPInstanceUID == ds.SOPInstanceUID


def test_a_region_that_is_empty_or_unknown_has_no_segment(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in")
    nothing = Segment("Nothing", blob(series) & False)
    absent = Region(
        nothing, findings=[Finding("Bleed", False)], measurements=[Measurement.volume_ml("Volume", nothing)]
    )
    found = made(tmp_path, [Segmentation([nothing]), MeasurementReport(regions=[absent])], series)
    assert list(found) == ["sr"]
    with pytest.raises(ResultError, match="'Nothing', which was not yielded"):
        list(encode([MeasurementReport(regions=[absent])], series, JOB))


def test_locations_are_drawn_where_they_were_said_to_be(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in", slices=5, tilt=10)
    image = series.instances[2]
    regions = [
        Region(Location([(3, 4), (9, 4), (9, 8)], "polygon", image), "Contour", [Measurement("Area", 12, "mm2")]),
        Region(Location([(10, 10), (12, 10)], "circle", image), Code("27925004", "SCT", "Nodule")),
        Region(Location.at(30, -8, 2), "Centre"),
    ]
    made(tmp_path, [MeasurementReport(regions=regions)], series)
    parsed = sr.srread(next((tmp_path / "out").glob("sr-*.dcm")))
    contour, circle, centre = parsed.content.get_planar_roi_measurement_groups()
    assert contour.roi.value.tolist() == [[3.5, 4.5], [9.5, 4.5], [9.5, 8.5], [3.5, 4.5]]
    assert circle.roi.graphic_type.value == "CIRCLE"
    ((column, row),) = centre.roi.value - 0.5
    named = centre.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    plane = next(each for each in series if each.SOPInstanceUID == named)
    dy, dx = plane.get("PixelSpacing")
    along = np.array(plane.get("ImageOrientationPatient"))
    point = np.array(plane.get("ImagePositionPatient")) + column * dx * along[:3] + row * dy * along[3:]
    assert np.linalg.norm(point - (30, -8, 2)) <= 2.6  # half a slice
    with pytest.raises(ResultError, match="outside"):
        only([MeasurementReport(regions=[Region(Location.at(900, 0, 0), "Far")])], series)


def test_a_parametric_map_has_the_numbers_it_was_given(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in", tilt=10, slices=6)
    numbers = np.random.default_rng(1).normal(size=(6, 32, 32)).astype(np.float32)
    quantity = Code("113041", "DCM", "Apparent Diffusion Coefficient")
    ds = made(tmp_path, [ParametricMap(numbers, quantity, "um2/s")], series)["pm"]
    assert np.array_equal(ds.pixel_array, numbers)
    (meaning,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert meaning.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "113041"
    assert meaning.MeasurementUnitsCodeSequence[0].CodeValue == "um2/s"
    on_volume = only([ParametricMap(series.volume(), "Density", "[hnsf'U]")], series).dataset
    stored = np.stack([plane.pixels() for plane in series])
    assert np.corrcoef(on_volume.pixel_array.ravel(), stored.ravel())[0, 1] > 0.98  # twice interpolated: tilted
    with pytest.raises(ResultError, match="not finite"):
        only([ParametricMap(numbers * np.nan, "x")], series)


def test_key_images_name_images_and_captures(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in")
    page = SecondaryCapture(np.zeros((4, 4), np.uint8))
    found = made(tmp_path, [KeyImages([series.instances[1], page], note="Bleed here."), page], series)
    content = found["ko"].ContentSequence
    assert "Bleed here." in [each.TextValue for each in content if each.ValueType == "TEXT"]
    images = [each for each in content if each.ValueType == "IMAGE"]
    assert [each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for each in images] == [
        series.instances[1].SOPInstanceUID,
        found["sc"].SOPInstanceUID,
    ]
    listed = found["ko"].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [each.SeriesInstanceUID for each in listed] == [series.SeriesInstanceUID, found["sc"].SeriesInstanceUID]
    assert [len(each.ReferencedSOPSequence) for each in listed] == [1, 1]
    with pytest.raises(ResultError, match="was not yielded"):
        only([KeyImages([page])], series)
    with pytest.raises(ResultError, match="would take images back"):
        only([KeyImages([series.first], Code("113001", "DCM", "Rejected for Quality Reasons"))], series)


def test_key_images_name_the_frames_of_a_multi_frame_image(tmp_path: Path) -> None:
    (series,) = read_series([enhanced(head_ct(tmp_path, slices=3, size=16), tmp_path / "all.dcm")])
    document = made(tmp_path, [KeyImages(series.planes[1:])], series)["ko"]
    items = [each.ReferencedSOPSequence[0] for each in document.ContentSequence if each.ValueType == "IMAGE"]
    assert [each.ReferencedFrameNumber for each in items] == [each.frame for each in series.planes[1:]]


def test_a_pdf_comes_out_as_it_went_in_and_figures_always_alike(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    series = phantom(tmp_path / "in")
    for document in (b"%PDF-1.4\nodd\n%%EOF", b"%PDF-1.4\neven\n%%EOF\n"):
        ds = only([EncapsulatedPdf(document, "Letter")], series).dataset
        assert ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength] == document
        assert (ds.DocumentTitle, len(ds.EncapsulatedDocument) % 2) == ("Letter", 0)
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([1, 2])
    one, two = (only([EncapsulatedPdf(figure)], series).data() for _ in range(2))
    assert one == two
    for wrong in (b"<html>", tmp_path / "none.pdf", 7):
        with pytest.raises(ResultError, match="PDF"):
            only([EncapsulatedPdf(wrong)], series)


def test_a_raw_data_set_gets_identity_and_uids_and_one_of_a_stranger_is_refused(tmp_path: Path) -> None:
    series = phantom(tmp_path / "in", charset="greek")
    given = raw_object()
    given.SOPInstanceUID, given.SeriesDate, given.PatientID = "1.2.3", "19990101", "PHANTOM0001"
    ds = made(tmp_path, [given], series)["raw"]
    assert (str(ds.PatientName), ds.SeriesDate) == ("Φάντασμα^Άννα", "20260301")
    assert ds.SOPInstanceUID.startswith("2.25.")
    assert np.array_equal(ds.pixel_array, [[0, 1, 2], [3, 4, 5]])
    for keyword, value in (("PatientID", "X1"), ("StudyInstanceUID", "1.2.3"), ("PatientName", "Else^Somebody")):
        stranger = raw_object()
        setattr(stranger, keyword, value)
        with pytest.raises(ResultError, match=f"{keyword} is not the source's"):
            only([stranger], series)


def test_values_that_make_no_result_are_refused_where_they_are_made(tmp_path: Path) -> None:
    series = phantom(tmp_path)
    wrong = [
        lambda: Segmentation([]),
        lambda: Segmentation([Segment("x", None)], kind="OTHER"),
        lambda: KeyImages([]),
        lambda: Location([(1, 2)], "blob", series.first),
        lambda: Location([(1, 2)], "circle", series.first),
        lambda: Location([(1, 2, 3), (1, 2, 4)], "line"),
        lambda: Location.at(float("nan"), 0, 0),
        lambda: Region(Location.at(0, 0, 0)),
    ]
    for make in wrong:
        with pytest.raises(ResultError):
            make()
