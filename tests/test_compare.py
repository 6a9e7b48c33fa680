"""What two copies of one instance differ in decides whether a result computed from the first is still right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from radnode.dicom.compare import Difference, difference
from radnode.dicom.elements import EXPLICIT_LE, IMPLICIT_LE, File, source_of
from radnode.dicom.places import Places
from tests.peers import Node
from tests.road import events, push, settled

BOOKKEEPING, IDENTITY, CONTENT = Difference.BOOKKEEPING, Difference.IDENTITY, Difference.CONTENT


def written(path: Path, name: str = "CT_small.dcm", syntax: str = ExplicitVRLittleEndian, **changes: Any) -> Path:
    """A test file of pydicom's in another syntax, with changes; one to None removes the attribute."""
    ds = pydicom.dcmread(get_testdata_file(name))
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    implicit, big = syntax == ImplicitVRLittleEndian, syntax == ExplicitVRBigEndian
    pydicom.dcmwrite(path, ds, implicit_vr=implicit, little_endian=not big)
    return path


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"InstanceCreationTime": "115959"}, BOOKKEEPING),
        ({"SeriesDescription": "RENAMED"}, BOOKKEEPING),
        ({"PatientName": "Married^Name"}, IDENTITY),
        ({"AccessionNumber": "4711"}, IDENTITY),
        ({"PatientBirthDate": "19700101"}, IDENTITY),
        ({"ImagePositionPatient": [-158.1, -179.0, -75.6]}, CONTENT),
        ({"PixelSpacing": [0.6, 0.6]}, CONTENT),
        ({"RescaleIntercept": -1000}, CONTENT),
        ({"PixelData": bytes(128 * 128 * 2)}, CONTENT),
        ({"PixelData": None}, CONTENT),
        ({"PatientName": "Married^Name", "PixelData": bytes(128 * 128 * 2)}, CONTENT),
    ],
)
def test_the_gravest_difference_counts(tmp_path: Path, changes: dict[str, Any], wanted: Difference) -> None:
    first, second = written(tmp_path / "a.dcm"), written(tmp_path / "b.dcm", **changes)
    assert difference(first, second) == difference(second, first) == wanted


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
def test_a_copy_in_another_syntax_is_the_same_picture(tmp_path: Path, syntax: str) -> None:
    first, second = written(tmp_path / "a.dcm"), written(tmp_path / "b.dcm", syntax=syntax)
    assert difference(first, second) == BOOKKEEPING
    renamed = written(tmp_path / "c.dcm", syntax=syntax, PatientID="ANOTHER")
    assert difference(first, renamed) == IDENTITY


def test_pixels_are_compared_where_two_syntaxes_lay_them_out_alike(tmp_path: Path) -> None:
    first = written(tmp_path / "a.dcm", syntax=DeflatedExplicitVRLittleEndian)
    second = written(tmp_path / "b.dcm", syntax=ImplicitVRLittleEndian, PixelData=bytes(128 * 128 * 2))
    assert difference(first, second) == CONTENT
    first, second = written(tmp_path / "c.dcm", syntax=RLELossless), tmp_path / "d.dcm"
    ds = pydicom.dcmread(first)
    ds.PixelData = encapsulate([bytes(64) + bytes(1000)])
    ds.save_as(second)
    assert difference(first, second) == CONTENT


def test_a_copy_that_lost_something_is_another_picture(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.dcm"), tmp_path / "b.dcm"
    ds = pydicom.dcmread(first)
    ds.PixelData, ds.LossyImageCompression = encapsulate([bytes(1000)]), "01"
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds["PixelData"].is_undefined_length = True
    ds.save_as(second)
    assert difference(first, second) == CONTENT


def test_the_content_of_a_report_and_the_geometry_of_frames_count(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.dcm", "reportsi.dcm"), tmp_path / "b.dcm"
    ds = pydicom.dcmread(first)
    ds.ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning = "Another"
    ds.save_as(second)
    assert difference(first, second) == CONTENT
    ds = pydicom.dcmread(first)
    ds.InstanceCreationTime = "115959"
    ds.save_as(second)
    assert difference(first, second) == BOOKKEEPING


def test_a_file_that_cannot_be_read_counts_as_another_picture(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.dcm"), tmp_path / "b.dcm"
    whole = first.read_bytes()
    for size in (0, 100, 200, 1000, len(whole) - 100):
        second.write_bytes(whole[:size])
        assert difference(first, second) == CONTENT


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_places_are_those_of_the_values(tmp_path: Path, syntax: str, undefined: bool) -> None:
    path = written(tmp_path / "a.dcm", "reportsi.dcm", syntax)
    ds = pydicom.dcmread(path)
    ds["ContentSequence"].is_undefined_length = undefined
    ds.save_as(path)
    ds = pydicom.dcmread(path)
    encoding = IMPLICIT_LE if syntax == ImplicitVRLittleEndian else EXPLICIT_LE
    with path.open("rb") as file:
        data = file.read()
        start = data.index(b"DICM") + 4 + 12 + ds.file_meta.FileMetaInformationGroupLength
        source = source_of(file.fileno(), start, len(data) - start, syntax)
        assert isinstance(source, File)
        walk = Places(source, encoding, (0x00080018, 0x0040A730))
        walk.run()
    at, end = walk.places[0x00080018]
    assert data[start + at : start + end].rstrip(b"\0").decode() == ds.SOPInstanceUID
    at, end = walk.places[0x0040A730]
    assert data[start + at : start + at + 4] == b"\xfe\xff\x00\xe0"
    assert data[start + end :].startswith(b"\xfe\xff\xdd\xe0") == undefined


def test_the_timeline_says_in_what_a_copy_differs(start_node: Callable[..., Node], tmp_path: Path) -> None:
    node = start_node("complete: {series: 1s, study: 2s}\nrules: []\n")
    first = written(tmp_path / "a.dcm")
    changes: list[dict[str, Any]] = [{}, {"PatientName": "Married^Name"}, {"PixelSpacing": [0.6, 0.6]}]
    copies = [written(tmp_path / f"{number}.dcm", **each) for number, each in enumerate(changes)]
    uid = push(node, [first, *copies])
    found = settled(node, uid)
    assert [each["differs"] for each in events(found, "differing copy")] == [IDENTITY, CONTENT]
    assert [each["instances"] for each in found["series"]] == [1]
    assert len(list((node.home / "spool").rglob("*.dcm"))) == 3
