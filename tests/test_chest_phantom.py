"""The chest CT that tests and app authors use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from radnode.dicom.encode.check import dciodvfy
from radnode.dicom.volume import read_series
from radnode.domain.series_class import classify
from radnode.testing import chest_ct
from radnode.testing.chest import LUNG_HU, NODULE_AT


@pytest.mark.parametrize("charset", ["ascii", "japanese", "greek"])
def test_every_image_is_valid_and_taken_for_an_axial_ct(tmp_path: Path, charset: str) -> None:
    paths = chest_ct(tmp_path, slices=3, size=32, charset=charset, tilt=10, nodule_ml=2)
    assert [dciodvfy(path) for path in paths] == [[]] * 3
    (series,) = read_series(paths)
    assert (classify(series).name, classify(series).plane) == ("ct", "axial")


def test_the_same_arguments_give_the_same_bytes_and_other_pixels_another_uid(tmp_path: Path) -> None:
    one, two = (chest_ct(tmp_path / name, slices=2, size=16, nodule_ml=1) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    ways: list[dict[str, Any]] = [{}, {"tilt": 5}, {"uneven": True}, {"nodule_ml": 3}, {"size": 24}, {"spacing": 2}]
    ways.append({"seed": 2})
    made = [chest_ct(tmp_path / str(n), **{"slices": 2, "size": 16, **way}) for n, way in enumerate(ways)]
    assert len({pydicom.dcmread(paths[0]).SOPInstanceUID for paths in made}) == len(ways)


def test_slices_and_attributes_can_be_missing(tmp_path: Path) -> None:
    paths = chest_ct(tmp_path, slices=4, size=16, missing=[1], absent=["KVP"], ContrastBolusAgent="Iohexol")
    headers = [pydicom.dcmread(path) for path in paths]
    found = [(ds.InstanceNumber, "KVP" in ds, ds.ContrastBolusAgent) for ds in headers]
    assert found == [(1, False, "Iohexol"), (3, False, "Iohexol"), (4, False, "Iohexol")]


def test_the_nodule_has_its_volume_and_lies_in_lung(tmp_path: Path) -> None:
    with_it, without = (
        read_series(chest_ct(tmp_path / str(ml), slices=44, size=190, spacing=2, nodule_ml=ml))[0].volume()
        for ml in (10.0, 0.0)
    )
    changed = np.abs(sitk.GetArrayFromImage(with_it) - sitk.GetArrayFromImage(without)) > 400
    assert changed.sum() * np.prod(with_it.GetSpacing()) / 1000 == pytest.approx(10, rel=0.05)
    middle = with_it.TransformContinuousIndexToPhysicalPoint(np.argwhere(changed).mean(axis=0)[::-1].tolist())
    assert middle == pytest.approx(NODULE_AT, abs=1.5)
    assert np.median(sitk.GetArrayFromImage(without)[changed]) == pytest.approx(LUNG_HU, abs=3)
