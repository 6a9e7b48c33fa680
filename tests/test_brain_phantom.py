"""The four-contrast brain MR that tests and app authors use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from radnode.dicom.encode.check import dciodvfy
from radnode.dicom.volume import read_series
from radnode.domain.series_class import classify
from radnode.testing import brain_mr
from radnode.testing.brain import CONTRASTS, TUMOUR_RADII, in_tumour, matrix


def test_each_contrast_is_a_valid_series_that_is_taken_for_what_it_is(tmp_path: Path) -> None:
    found = brain_mr(tmp_path, slices=3, size=32, charset="japanese", tilt=10)
    assert set(found) == set(CONTRASTS)
    for contrast, paths in found.items():
        assert [dciodvfy(path) for path in paths] == [[]] * 3
        (series,) = read_series(paths)
        assert (classify(series).name, classify(series).plane) == (contrast, "axial")
    assert len({pydicom.dcmread(path).StudyInstanceUID for paths in found.values() for path in paths}) == 1


def test_the_same_arguments_give_the_same_bytes_and_other_pixels_another_uid(tmp_path: Path) -> None:
    one, two = (brain_mr(tmp_path / name, contrasts=["t1"], slices=2, size=16)["t1"] for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    ways: list[dict[str, Any]] = [{}, {"poses": {"t1": (1, 0, 0, 0, 0, 0)}}, {"tumour": False}, {"tilt": 5}]
    made = [brain_mr(tmp_path / str(n), contrasts=["t1"], slices=2, size=16, **way) for n, way in enumerate(ways)]
    assert len({pydicom.dcmread(paths["t1"][0]).SOPInstanceUID for paths in made}) == len(ways)


def test_slices_and_attributes_can_be_missing(tmp_path: Path) -> None:
    how = {"slices": 4, "size": 16, "missing": [1], "absent": ["EchoTime"], "PatientID": "P"}
    headers = [pydicom.dcmread(path) for path in brain_mr(tmp_path, contrasts=["t2"], **how)["t2"]]
    found = [(ds.InstanceNumber, "EchoTime" in ds, ds.PatientID) for ds in headers]
    assert found == [(1, False, "P"), (3, False, "P"), (4, False, "P")]


def test_the_tumour_lies_where_the_pose_puts_it(tmp_path: Path) -> None:
    pose = (6.0, 2.0, -3.0, -5.0, 4.0, -3.0)
    paths = brain_mr(tmp_path, contrasts=["flair"], slices=36, size=64, poses={"flair": pose})["flair"]
    volume = read_series(paths)[0].volume()
    z, y, x = np.meshgrid(*(np.arange(n) for n in volume.GetSize()[::-1]), indexing="ij")
    points = np.stack([x, y, z], -1) * np.array(volume.GetSpacing()) + np.array(volume.GetOrigin())
    inside = in_tumour(points, pose)
    ml = inside.sum() * np.prod(volume.GetSpacing()) / 1000
    assert ml == pytest.approx(4 / 3 * np.pi * np.prod(TUMOUR_RADII) / 1000, rel=0.05)
    from SimpleITK import GetArrayFromImage

    assert np.median(GetArrayFromImage(volume)[inside]) > 1.5 * np.median(GetArrayFromImage(volume)[~inside & (x > 20)])
    turned = matrix(pose)
    assert np.allclose(turned[:3, :3] @ turned[:3, :3].T, np.eye(3))
