"""The phantom head CT that tests, demos and app authors use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from radnode.dicom.encode.check import dciodvfy
from radnode.testing.phantom import BLEED_HU, CHARSETS, FIELD_OF_VIEW, head_ct


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    one = head_ct(tmp_path / "one", slices=3, size=32, bleed_ml=5, seed=7, localizer=True)
    two = head_ct(tmp_path / "two", slices=3, size=32, bleed_ml=5, seed=7, localizer=True)
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_another_seed_is_another_patient_and_study(tmp_path: Path) -> None:
    (one,) = map(pydicom.dcmread, head_ct(tmp_path / "one", slices=1, size=32, seed=1))
    (two,) = map(pydicom.dcmread, head_ct(tmp_path / "two", slices=1, size=32, seed=2))
    for keyword in ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert one[keyword].value != two[keyword].value, keyword


def test_other_pixels_never_come_under_the_same_instance_uid(tmp_path: Path) -> None:
    ways = [{}, {"tilt": 10.0}, {"uneven": True}, {"bleed_ml": 9}, {"charset": "greek"}, {"size": 48}, {"spacing": 2.5}]
    uids = set()
    for number, way in enumerate(ways):
        paths = head_ct(tmp_path / str(number), **{"slices": 3, "size": 32, **way})
        uids |= {pydicom.dcmread(path).SOPInstanceUID for path in paths}
    assert len(uids) == 3 * len(ways)


@pytest.mark.parametrize("charset", CHARSETS)
def test_every_image_is_valid_in_every_character_set(tmp_path: Path, charset: str) -> None:
    paths = head_ct(tmp_path, slices=2, size=32, charset=charset, tilt=12.0, localizer=True)
    assert [dciodvfy(path) for path in paths] == [[]] * 4
    assert str(pydicom.dcmread(paths[0]).PatientName) == CHARSETS[charset][1]


def test_the_bleed_has_the_volume_asked_for(tmp_path: Path) -> None:
    planes = [pydicom.dcmread(path) for path in head_ct(tmp_path, slices=28, size=128, bleed_ml=30)]
    hu = np.stack([each.pixel_array for each in planes]) - 1024.0
    voxels = np.count_nonzero(np.abs(hu - BLEED_HU) < 15)
    assert voxels * (FIELD_OF_VIEW / 128) ** 2 * 5 / 1000 == pytest.approx(30, rel=0.05)


def test_attributes_can_be_replaced(tmp_path: Path) -> None:
    paths = head_ct(tmp_path, slices=2, size=32, StudyInstanceUID="1.2.3", AccessionNumber="A1", PatientID="P")
    for ds in map(pydicom.dcmread, paths):
        assert (ds.StudyInstanceUID, ds.AccessionNumber, ds.PatientID) == ("1.2.3", "A1", "P")


def test_missing_slices_are_left_out_and_a_localizer_is_a_series_of_its_own(tmp_path: Path) -> None:
    paths = head_ct(tmp_path, slices=5, size=32, missing=[2], localizer=True)
    seen = [(ds.SeriesDescription, ds.InstanceNumber) for ds in map(pydicom.dcmread, paths)]
    assert seen == [("HEAD 5MM STD", n) for n in (1, 2, 4, 5)] + [("LOCALIZER", 1), ("LOCALIZER", 2)]
