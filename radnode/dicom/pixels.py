"""Pixels of one image or frame: pydicom's decoders first, then GDCM. Only the child process of a job does this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from radnode.domain.errors import PixelsError
from radnode.domain.study import Instance


def stored(instance: Instance) -> NDArray[Any]:
    """Decoded stored values; colour as RGB. Raises PixelsError."""
    index = instance.frame - 1 if instance.frame else None
    try:
        if _syntax(instance.path) == DeflatedExplicitVRLittleEndian:  # pydicom seeks in the file, which is no use here
            return np.asarray(pixel_array(pydicom.dcmread(instance.path), index=index))
        return np.asarray(pixel_array(instance.path, index=index))
    except Exception as error:  # decoders raise whatever they like
        if not _syntax(instance.path).is_compressed:
            raise _unreadable(instance, error) from error
        return _decoded_by_simpleitk(instance, error)


def rescale(instance: Instance) -> tuple[float, float]:
    slope, intercept = instance.get("RescaleSlope", 1.0), instance.get("RescaleIntercept", 0.0)
    if not isinstance(slope, int | float) or not isinstance(intercept, int | float):
        raise PixelsError(f"image {instance.SOPInstanceUID}: RescaleSlope or RescaleIntercept is no number")
    return float(slope), float(intercept)


def _syntax(path: Path) -> UID:
    return UID(pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID)


def _decoded_by_simpleitk(instance: Instance, cause: Exception) -> NDArray[Any]:
    """GDCM, inside SimpleITK, reads more JPEG processes than pydicom does here. It applies the rescale: undo that."""
    import SimpleITK as sitk  # noqa: PLC0415

    try:
        image = sitk.ReadImage(str(instance.path), imageIO="GDCMImageIO")
    except RuntimeError:
        raise _unreadable(instance, cause) from cause
    array = np.asarray(sitk.GetArrayFromImage(image))
    slope, intercept = rescale(instance)
    if image.GetNumberOfComponentsPerPixel() == 1 and (slope, intercept) != (1.0, 0.0):
        array = np.rint((array - intercept) / slope).astype(np.int32)
    return array[0] if array.shape[0] == 1 else array


def _unreadable(instance: Instance, error: Exception) -> PixelsError:
    return PixelsError(
        f"pixels of image {instance.SOPInstanceUID} cannot be read: {error}",
        remedy="have the sender push them uncompressed, or install a decoder pydicom knows",
    )
