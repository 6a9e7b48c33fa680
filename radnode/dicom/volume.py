"""Files -> series in order, pixels, volumes; and the way a mask on a volume takes back to the source's slices."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.pixels import pixel_array

from radnode.dicom import geometry
from radnode.dicom.values import charset_of, decode
from radnode.domain.errors import GeometryError, NotDicomError, PixelsError, ResultError
from radnode.domain.study import Instance, Series, Value

if TYPE_CHECKING:
    import SimpleITK as sitk

LONGEST = 64 * 1024
"""Bytes; longer values than this are not read into attributes: what a peer sends is not held in memory twice."""

SPECIFIC_CHARACTER_SET = 0x00080005


class FileReader:
    """Reads what lies behind a series' files (`radnode.domain.study.Reader`). Keeps nothing."""

    def dataset(self, instance: Instance) -> pydicom.Dataset:
        """The header, PixelData left out. Raises NotDicomError."""
        return _header(instance.path)

    def pixels(self, instance: Instance) -> NDArray[Any]:
        """Decoded stored values; colour as RGB. Raises PixelsError."""
        try:
            return np.asarray(pixel_array(instance.path))
        except Exception as error:  # decoders raise whatever they like
            if not _is_compressed(instance.path):
                raise _unreadable(instance, error) from error
            return _decoded_by_simpleitk(instance, error)

    def units(self, instance: Instance) -> NDArray[np.float32]:
        """Modality units (HU for CT): stored values through RescaleSlope and RescaleIntercept. Raises PixelsError."""
        slope, intercept = _rescale(instance)
        return self.pixels(instance).astype(np.float32) * np.float32(slope) + np.float32(intercept)

    def volume(self, series: Series) -> sitk.Image:
        """The series on its regular grid, float32, LPS mm. Raises GeometryError, PixelsError.

        Its meta data name the series, and under `resampled` why it is not the source's own grid, where it is not.
        """
        grid = geometry.grid(series)
        first = series.instances[0]
        stack = np.empty((len(series), int(first.get("Rows")), int(first.get("Columns"))), np.float32)
        for index, instance in enumerate(series):
            plane = self.units(instance)
            if plane.shape != stack.shape[1:]:
                raise GeometryError(f"image {instance.SOPInstanceUID} has pixels of shape {plane.shape}: no grey plane")
            stack[index] = plane
        image = _image(_resampled(stack, grid) if grid.why else stack, grid)
        image.SetMetaData("SeriesInstanceUID", series.SeriesInstanceUID)
        if grid.why:
            image.SetMetaData("resampled", grid.why)
        return image

    def nifti(self, series: Series, path: Path) -> Path:
        """Writes `volume()` as NIfTI, which has its axes in RAS."""
        import SimpleITK as sitk  # noqa: PLC0415 - 0.3 s that only volumes pay

        image = self.volume(series)
        sitk.WriteImage(image, str(path))
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


def attributes(header: pydicom.Dataset) -> dict[str, tuple[Value, ...]]:
    """Keyword -> values of all standard attributes that are neither empty, sequences nor binary."""
    charset = charset_of(_bytes(header, SPECIFIC_CHARACTER_SET))
    big = header.original_encoding[1] is False
    found: dict[str, tuple[Value, ...]] = {}
    for tag in header.keys():  # noqa: SIM118 - iterating a Dataset itself would convert every element
        raw = header.get_item(tag)
        if tag.is_private or not isinstance(raw, RawDataElement) or not raw.value:
            continue
        keyword = keyword_for_tag(tag)
        values = decode(raw.VR or dictionary_VR(tag), raw.value, charset, big) if keyword else ()
        if values:
            found[keyword] = values
    return found


def _bytes(header: pydicom.Dataset, tag: int) -> bytes:
    raw = header.get_item(tag) if tag in header else None
    return raw.value or b"" if isinstance(raw, RawDataElement) else b""


def mask_on_source(series: Series, mask: Any) -> NDArray[np.bool_]:
    """A mask on the series' volume, or on any grid as a SimpleITK image, at the series' own slices.

    Args:
        mask: a SimpleITK image, or an array `(slices, rows, columns)` of the volume or of the source itself.

    Returns:
        `(slices, rows, columns)` bool, in the order of `series.instances`.

    Raises ResultError where an array fits neither, GeometryError where the series makes no volume.
    """
    import SimpleITK as sitk  # noqa: PLC0415

    rows, columns = int(series.first.get("Rows")), int(series.first.get("Columns"))
    if not isinstance(mask, sitk.Image):
        array: NDArray[np.bool_] = np.asarray(mask).astype(np.bool_)
        if array.shape == (len(series), rows, columns):
            return array
        mask = _image(array.astype(np.uint8), _grid_of(series, array))
    grid = geometry.grid(series)
    found = np.empty((len(series), rows, columns), np.bool_)
    flat = sitk.Cast(mask != 0, sitk.sitkUInt8)
    for index, place in enumerate(grid.uvz):
        plane = sitk.Image(columns, rows, 1, sitk.sitkUInt8)
        plane.SetSpacing(grid.spacing)
        plane.SetOrigin([float(each) for each in place @ grid.axes])
        plane.SetDirection(grid.direction)
        there = sitk.Resample(flat, plane, sitk.Transform(), sitk.sitkNearestNeighbor)
        found[index] = sitk.GetArrayViewFromImage(there)[0]
    return found


def mask_ml(mask: Any, series: Series | None) -> float:
    """The volume of a mask in mL: of a SimpleITK image by its own spacing, of an array by the series' grid."""
    if hasattr(mask, "GetSpacing"):
        import SimpleITK as sitk  # noqa: PLC0415

        voxels = int(np.count_nonzero(sitk.GetArrayViewFromImage(mask)))
        return voxels * float(np.prod(mask.GetSpacing())) / 1000
    if series is None:
        raise ResultError("a numpy mask needs its series", remedy="Measurement.volume_ml(name, mask, series=…)")
    array = np.asarray(mask)
    return int(np.count_nonzero(array)) * _grid_of(series, array).voxel_ml


def _grid_of(series: Series, array: NDArray[Any]) -> geometry.Grid:
    grid = geometry.grid(series)
    if array.shape != grid.shape:
        raise ResultError(
            f"a mask of shape {array.shape} does not lie on the volume of shape {grid.shape}",
            remedy="numpy masks are (slices, rows, columns) of series.volume(); others must be SimpleITK images",
        )
    return grid


def _image(array: NDArray[Any], grid: geometry.Grid) -> sitk.Image:
    import SimpleITK as sitk  # noqa: PLC0415

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing)
    image.SetOrigin([float(each) for each in grid.origin])
    image.SetDirection(grid.direction)
    return image


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


def _rescale(instance: Instance) -> tuple[float, float]:
    slope, intercept = instance.get("RescaleSlope", 1.0), instance.get("RescaleIntercept", 0.0)
    if not isinstance(slope, int | float) or not isinstance(intercept, int | float):
        raise PixelsError(f"image {instance.SOPInstanceUID}: RescaleSlope or RescaleIntercept is no number")
    return float(slope), float(intercept)


def _is_compressed(path: Path) -> bool:
    meta = pydicom.filereader.read_file_meta_info(path)
    return bool(meta.TransferSyntaxUID.is_compressed)


def _decoded_by_simpleitk(instance: Instance, cause: Exception) -> NDArray[Any]:
    """GDCM, inside SimpleITK, reads more JPEG processes than pydicom does here. It applies the rescale: undo that."""
    import SimpleITK as sitk  # noqa: PLC0415

    try:
        image = sitk.ReadImage(str(instance.path), imageIO="GDCMImageIO")
    except RuntimeError:
        raise _unreadable(instance, cause) from cause
    array = np.asarray(sitk.GetArrayFromImage(image))
    slope, intercept = _rescale(instance)
    if image.GetNumberOfComponentsPerPixel() == 1 and (slope, intercept) != (1.0, 0.0):
        array = np.rint((array - intercept) / slope).astype(np.int32)
    return array[0] if array.shape[0] == 1 else array


def _unreadable(instance: Instance, error: Exception) -> PixelsError:
    return PixelsError(
        f"pixels of image {instance.SOPInstanceUID} cannot be read: {error}",
        remedy="have the sender push them uncompressed, or install a decoder pydicom knows",
    )
