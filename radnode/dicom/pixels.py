"""Pixels of one image or frame: pydicom's decoders first, then GDCM. Only the child process of a job does this."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, SecondaryCaptureImageStorage

from radnode.domain.errors import PixelsError
from radnode.domain.study import Instance


def stored(instance: Instance) -> NDArray[Any]:
    """Decoded stored values; colour as RGB, also where a palette holds it. Raises PixelsError."""
    values = _decoded(instance)
    return _coloured(instance, values) if instance.get("PhotometricInterpretation") == "PALETTE COLOR" else values


def _decoded(instance: Instance) -> NDArray[Any]:
    bits, high = instance.get("BitsStored"), instance.get("HighBit")
    if isinstance(bits, int) and isinstance(high, int) and high != bits - 1:  # decoders take it for what it is not
        raise PixelsError(
            f"image {instance.SOPInstanceUID}: its values end at bit {high}, not at {bits - 1} (HighBit, PS3.5 8.1.1)",
            remedy="have the sender push it as the standard wants it",
        )
    index = instance.frame - 1 if instance.frame else None
    try:
        if _syntax(instance.path) == DeflatedExplicitVRLittleEndian:  # pydicom seeks in the file, which is no use here
            return np.asarray(pixel_array(pydicom.dcmread(instance.path), index=index))
        return np.asarray(pixel_array(instance.path, index=index))
    except Exception as error:  # decoders raise whatever they like
        if not _syntax(instance.path).is_compressed:
            raise _unreadable(instance, error) from error
        return _decoded_by_gdcm(instance, error)


def _coloured(instance: Instance, indices: NDArray[Any]) -> NDArray[np.uint8]:
    """Through the palette (PS3.3 C.7.6.3.1.5), whose entries have 8 bits or 16.

    Some fill only the lower half of 16: that shows in the palette as a whole, not in a picture, which may be dark.
    """
    try:
        header = pydicom.dcmread(instance.path, stop_before_pixels=True)
        count, first, _ = header.RedPaletteColorLookupTableDescriptor
        palette = apply_color_lut(np.arange(first, first + (count or 1 << 16)), header)[..., :3]
        rgb: NDArray[Any] = apply_color_lut(indices, header)[..., :3]
    except Exception as error:
        raise _unreadable(instance, error) from error
    return rgb.astype(np.uint8) if palette.max() <= _BYTE else (rgb >> 8).astype(np.uint8)


_BYTE = 0xFF


def rescale(instance: Instance) -> tuple[float, float]:
    slope, intercept = instance.get("RescaleSlope", 1.0), instance.get("RescaleIntercept", 0.0)
    if not isinstance(slope, int | float) or not isinstance(intercept, int | float):
        raise PixelsError(f"image {instance.SOPInstanceUID}: RescaleSlope or RescaleIntercept is no number")
    return float(slope), float(intercept)


def _syntax(path: Path) -> UID:
    return UID(pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID)


def _decoded_by_gdcm(instance: Instance, cause: Exception) -> NDArray[Any]:
    """GDCM, inside SimpleITK, reads more JPEG processes than pydicom does here: each frame in a file of its own.

    So it knows no rescale, and gives stored values.
    """
    try:
        ds = pydicom.dcmread(instance.path)
        count = int(ds.get("NumberOfFrames") or 1)
        wanted = [instance.frame - 1] if instance.frame else range(count)
        frames = [_read_by_gdcm(ds, get_frame(ds.PixelData, index, number_of_frames=count)) for index in wanted]
    except Exception:  # noqa: BLE001 - what the first decoder said is worth more
        raise _unreadable(instance, cause) from cause
    return frames[0] if len(frames) == 1 else np.stack(frames)


_BARE = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
"""All that a decoder has to know (PS3.3 C.7.6.3)."""


def _read_by_gdcm(ds: pydicom.Dataset, frame: bytes) -> NDArray[Any]:
    import SimpleITK as sitk  # noqa: PLC0415

    bare = pydicom.Dataset()
    bare.SOPClassUID, bare.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.1"
    for keyword in _BARE:
        if keyword in ds:
            bare[keyword] = ds[keyword]
    bare.add_new("PixelData", "OB", encapsulate([frame]))
    bare.file_meta = pydicom.FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    with TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        pydicom.dcmwrite(path, bare, enforce_file_format=True)
        stack = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
        plane: NDArray[Any] = np.asarray(stack)[0]
        return plane


def _unreadable(instance: Instance, error: Exception) -> PixelsError:
    return PixelsError(
        f"pixels of image {instance.SOPInstanceUID} cannot be read: {error}",
        remedy="have the sender push them uncompressed, or install a decoder pydicom knows",
    )
