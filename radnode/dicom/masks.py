"""The way a mask on a volume takes back to the source's own slices, and how much it measures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from radnode.dicom import geometry
from radnode.dicom.volume import image_on
from radnode.domain.errors import ResultError
from radnode.domain.study import Series

if TYPE_CHECKING:
    import SimpleITK as sitk


def mask_on_source(series: Series, mask: Any) -> NDArray[np.bool_]:
    """A mask on the series' volume, or on any grid as a SimpleITK image, at the series' own slices.

    Args:
        mask: a SimpleITK image, or an array `(slices, rows, columns)` of the volume or of the source itself.

    Returns:
        `(slices, rows, columns)` bool, in the order of `series.planes`.

    Raises ResultError where an array fits neither, GeometryError where the series makes no volume.
    """
    if not hasattr(mask, "GetSpacing"):
        mask = np.asarray(mask).astype(np.bool_)
        return mask if mask.shape == _shape(series) else _resampled(series, _placed(series, mask.astype(np.uint8)))
    import SimpleITK as sitk  # noqa: PLC0415

    return _resampled(series, sitk.Cast(mask != 0, sitk.sitkUInt8))


def values_on_source(series: Series, values: Any) -> NDArray[np.float32]:
    """The same for numbers, interpolated."""
    if not hasattr(values, "GetSpacing"):
        array = np.asarray(values, np.float32)
        return array if array.shape == _shape(series) else _interpolated(series, _placed(series, array))
    import SimpleITK as sitk  # noqa: PLC0415

    return _interpolated(series, sitk.Cast(values, sitk.sitkFloat32))


def shares_on_source(series: Series, shares: Any) -> NDArray[np.float32]:
    """The same for values from 0 to 1. Raises ResultError also where they are not within these."""
    found = values_on_source(series, shares)
    if not (np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1):
        raise ResultError("a fractional mask has values that are not within 0 and 1", remedy="scale them")
    return found


def mask_ml(mask: Any, series: Series | None) -> float:
    """The volume of a mask in mL: of a SimpleITK image by its own spacing, of an array by the series' grid.

    An array on the source's own slices is measured slice by slice, each as thick as its neighbours are apart.
    """
    if hasattr(mask, "GetSpacing"):
        import SimpleITK as sitk  # noqa: PLC0415

        voxels = int(np.count_nonzero(sitk.GetArrayViewFromImage(mask)))
        return voxels * float(np.prod(mask.GetSpacing())) / 1000
    if series is None:
        raise ResultError("a numpy mask needs its series", remedy="Measurement.volume_ml(name, mask, series=…)")
    array = np.asarray(mask)
    grid = geometry.grid(series)
    if grid.why and array.shape == _shape(series):
        thick = np.gradient(grid.uvz[:, 2])
        area = float(grid.spacing[0] * grid.spacing[1])
        return float((np.count_nonzero(array, axis=(1, 2)) * thick).sum()) * area / 1000
    return int(np.count_nonzero(array)) * _grid_of(series, array).voxel_ml


def _shape(series: Series) -> tuple[int, int, int]:
    sizes = {(int(each.get("Rows", 0)), int(each.get("Columns", 0))) for each in series.planes}
    if len(sizes) > 1:
        raise ResultError(
            f"series {series.SeriesInstanceUID} has images of {len(sizes)} sizes, a mask has one",
            remedy="series.split() gives parts of one size: yield a result for each",
        )
    return len(series.planes), *sizes.pop()


def _placed(series: Series, array: NDArray[Any]) -> sitk.Image:
    return image_on(_grid_of(series, array), array)


def _grid_of(series: Series, array: NDArray[Any]) -> geometry.Grid:
    grid = geometry.grid(series)
    if array.shape != grid.shape:
        raise ResultError(
            f"a mask of shape {array.shape} does not lie on the volume of shape {grid.shape}",
            remedy="numpy masks are (slices, rows, columns) of series.volume(); others must be SimpleITK images",
        )
    return grid


def _resampled(series: Series, mask: sitk.Image) -> NDArray[np.bool_]:
    import SimpleITK as sitk  # noqa: PLC0415

    return np.stack([each != 0 for each in _planes(series, mask, sitk.sitkNearestNeighbor)])


def _interpolated(series: Series, values: sitk.Image) -> NDArray[np.float32]:
    import SimpleITK as sitk  # noqa: PLC0415

    return np.stack(list(_planes(series, values, sitk.sitkLinear)))


def _planes(series: Series, image: sitk.Image, interpolator: int) -> Iterator[NDArray[Any]]:
    import SimpleITK as sitk  # noqa: PLC0415

    grid = geometry.grid(series)
    _, rows, columns = _shape(series)
    for place in grid.uvz:
        plane = sitk.Image(columns, rows, 1, image.GetPixelID())
        plane.SetSpacing(grid.spacing)
        plane.SetOrigin([float(each) for each in place @ grid.axes])
        plane.SetDirection(grid.direction)
        there = sitk.Resample(image, plane, sitk.Transform(), interpolator)
        yield sitk.GetArrayFromImage(there)[0]
