"""Files -> series in order, and the volume a series makes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from radnode.dicom import geometry, pixels
from radnode.dicom.frames import attributes, frames_of
from radnode.domain.errors import GeometryError, NotDicomError, PixelsError
from radnode.domain.study import Instance, Series

if TYPE_CHECKING:
    import SimpleITK as sitk

LONGEST = 64 * 1024
"""Bytes; longer values than this are not read into attributes: what a peer sends is not held in memory twice."""


class FileReader:
    """Reads what lies behind a series' files (`radnode.domain.study.Reader`). Keeps nothing."""

    def dataset(self, instance: Instance) -> pydicom.Dataset:
        """The header, PixelData left out. Raises NotDicomError."""
        return _header(instance.path)

    def frames(self, instance: Instance) -> tuple[Instance, ...]:
        """The frames of an enhanced multi-frame instance; any other, or a frame, as it is. Raises NotDicomError."""
        if instance.frame or not instance.get("NumberOfFrames"):
            return (instance,)
        return tuple(frames_of(instance, _header(instance.path)))

    def in_order(self, planes: tuple[Instance, ...]) -> tuple[Instance, ...]:
        return geometry.in_order(planes)

    def split(self, series: Series, keywords: tuple[str, ...]) -> tuple[Series, ...]:
        if keywords:
            groups = geometry.grouped(series.planes, lambda each: tuple(map(each.attributes.get, keywords)))
        else:
            groups = geometry.split(series)
        return tuple(Series(each, self) for each in groups)

    def pixels(self, instance: Instance) -> NDArray[Any]:
        """Decoded stored values; colour as RGB. Raises PixelsError."""
        return pixels.stored(instance)

    def units(self, instance: Instance) -> NDArray[np.float32]:
        """Modality units (HU for CT): stored values through RescaleSlope and RescaleIntercept. Raises PixelsError."""
        slope, intercept = pixels.rescale(instance)
        return self.pixels(instance).astype(np.float32) * np.float32(slope) + np.float32(intercept)

    def volume(self, series: Series, irregular: str = "resample") -> sitk.Image:
        """The series on its regular grid, float32, LPS mm. Raises GeometryError, PixelsError.

        Its meta data name the series, and under `resampled` why it is not the source's own grid, where it is not.
        """
        grid = geometry.grid(series, irregular)
        _refuse_unitless(series)
        first = series.planes[0]
        stack = np.empty((len(series.planes), int(first.get("Rows")), int(first.get("Columns"))), np.float32)
        for index, instance in enumerate(series.planes):
            plane = self.units(instance)
            if plane.shape != stack.shape[1:]:
                raise GeometryError(f"image {instance.SOPInstanceUID} has pixels of shape {plane.shape}: no grey plane")
            stack[index] = plane
        image = image_on(grid, _resampled(stack, grid) if grid.why else stack)
        image.SetMetaData("SeriesInstanceUID", series.SeriesInstanceUID)
        if grid.why:
            image.SetMetaData("resampled", grid.why)
        return image

    def nifti(self, series: Series, path: Path, irregular: str = "resample") -> Path:
        """Writes `volume()` as NIfTI, which has its axes in RAS."""
        import SimpleITK as sitk  # noqa: PLC0415 - 0.3 s that only volumes pay

        sitk.WriteImage(self.volume(series, irregular), str(path))
        return path


def read_series(paths: Iterable[Path], reader: FileReader | None = None) -> list[Series]:
    """The series these files make, in order of appearance; the images of each in order of their place.

    Raises NotDicomError for a file that is none, or lacks its UIDs.
    """
    reader = reader or FileReader()
    groups: dict[str, list[Instance]] = {}
    for path in paths:
        instance = Instance(path, attributes(_header(path, LONGEST)), reader)
        for keyword in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID"):
            if not instance.get(keyword):
                raise NotDicomError(f"{path.name} has no {keyword}", remedy="leave the file out")
        groups.setdefault(instance.text("SeriesInstanceUID"), []).append(instance)
    return [Series(geometry.in_order(group), reader) for group in groups.values()]


def image_on(grid: geometry.Grid, array: NDArray[Any]) -> sitk.Image:
    """`(slices, rows, columns)` as an image on that grid."""
    import SimpleITK as sitk  # noqa: PLC0415

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing)
    image.SetOrigin([float(each) for each in grid.origin])
    image.SetDirection(grid.direction)
    return image


def _refuse_unitless(series: Series) -> None:
    """Stored values that pass for Hounsfield units are off by a thousand, and nothing shows it (PS3.3 C.8.2.1)."""
    for each in series.planes if series.first.get("Modality") == "CT" else ():
        if each.get("RescaleSlope") is None or each.get("RescaleIntercept") is None:
            raise PixelsError(
                f"image {each.SOPInstanceUID} has no Hounsfield units: a CT without RescaleSlope or RescaleIntercept",
                remedy="have the sender push the original images; instance.pixels() has their stored values",
            )


def _resampled(stack: NDArray[np.float32], grid: geometry.Grid) -> NDArray[np.float32]:
    """`(n, rows, columns)` of the source -> the grid: each slice moved in its plane, then linear along the normal."""
    fill = float(stack.min())
    planes = np.stack([_moved(plane, place, grid, fill) for plane, place in zip(stack, grid.uvz, strict=True)])
    z = grid.uvz[:, 2]
    at = np.clip(z[0] + grid.spacing[2] * np.arange(grid.size[2]), z[0], z[-1])
    above = np.clip(np.searchsorted(z, at - 1e-6), 1, len(z) - 1)
    weight = ((at - z[above - 1]) / (z[above] - z[above - 1])).astype(np.float32)
    out = np.empty(grid.shape, np.float32)
    for index, (upper, share) in enumerate(zip(above, weight, strict=True)):
        out[index] = planes[upper - 1] * (1 - share) + planes[upper] * share
    return out


def _moved(plane: NDArray[np.float32], place: geometry.Floats, grid: geometry.Grid, fill: float) -> NDArray[np.float32]:
    import SimpleITK as sitk  # noqa: PLC0415

    image = sitk.GetImageFromArray(plane)
    image.SetSpacing(grid.spacing[:2])
    image.SetOrigin([float(each) for each in place[:2]])
    origin = [float(each) for each in (grid.axes @ grid.origin)[:2]]
    moved = sitk.Resample(
        image, grid.size[:2], sitk.Transform(), sitk.sitkLinear, origin, grid.spacing[:2], image.GetDirection(), fill
    )
    return np.asarray(sitk.GetArrayFromImage(moved))


def _header(path: Path, longest: int | None = None) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, defer_size=longest)
    except FileNotFoundError:
        raise NotDicomError(f"{path.name} is gone", remedy="name a file that exists") from None
    except Exception as error:  # noqa: BLE001 - a damaged file makes pydicom raise nearly anything
        raise NotDicomError(f"{path.name} cannot be read as DICOM: {error}", remedy="leave the file out") from None
