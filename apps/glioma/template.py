"""The MNI152 template, as the package nilearn ships it, and the grid that BraTS models expect.

BraTS volumes are 240 x 240 x 155 voxels of 1 mm, their axes towards left, posterior and superior: in LPS that is the
identity. MNI space has its origin in voxel (118, 103, 58), counted from 0, as in the reference volume of
https://github.com/johncolby/brats_preprocessing, which pads FSL's template to that size: models prepared with the one
find heads in the same place with the other.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import SimpleITK as sitk

SIZE = (240, 240, 155)
ORIGIN_VOXEL = (118, 103, 58)
_FILE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def brats_grid() -> sitk.Image:
    """An empty image on the BraTS grid, in MNI space."""
    grid = sitk.Image(SIZE, sitk.sitkUInt8)
    grid.SetOrigin([-float(each) for each in ORIGIN_VOXEL])
    return grid


@cache
def mni() -> sitk.Image:
    """The template's brain, T1-weighted, 1 mm. Raises RuntimeError where nilearn is not installed."""
    found = find_spec("nilearn")
    if found is None or found.origin is None:
        raise RuntimeError("the MNI152 template comes with the package nilearn: pip install 'radnode[glioma]'")
    return sitk.ReadImage(str(Path(found.origin).parent / "datasets" / "data" / _FILE), sitk.sitkFloat32)


@cache
def mni_mask() -> sitk.Image:
    """What is brain in the template: the package has it cut out already."""
    return mni() > 0
