"""Secondary Capture: a page, or one RGB picture per source slice with that slice's geometry (PS3.3 A.8.1).

A series of single frames, not one multi-frame object: workstations scroll it together with the source, and older ones
show of a multi-frame object only the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import SecondaryCaptureImageStorage

from radnode.dicom.encode import anatomy, common
from radnode.dicom.encode.common import Context, Encoded
from radnode.dicom.encode.links import Reference
from radnode.dicom.masks import mask_on_source
from radnode.dicom.volume import FileReader
from radnode.domain.errors import ResultError
from radnode.domain.results import Overlay, SecondaryCapture
from radnode.domain.study import Instance, Series

SERIES_NUMBER = 9001
_GEOMETRY = (
    "FrameOfReferenceUID", "PositionReferenceIndicator", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "SliceLocation",
)  # fmt: skip
_WRITTEN_ON = tuple(f"1.2.840.10008.5.1.4.1.1.{each}" for each in ("3.1", "6.1", "7", "77.1"))
"""Roots of the classes of ultrasound, captures and visible light, whose makers write names into pictures."""
_SHOWN = ("113076", "DCM", "Segmentation")
_FILL = 0.3
"""Opacity of an overlay inside its outline: what lies under it stays readable."""

Picture = NDArray[np.uint8]


def encode(result: SecondaryCapture, context: Context) -> Iterator[Encoded]:
    if isinstance(result.pixels, Overlay):
        series = context.only_series(result.series, _series_uid(result.pixels.volume))
        yield from _stack(result, context, series, _drawn(result.pixels, series))
    elif getattr(result.pixels, "ndim", 0) == 4:
        series = context.only_series(result.series)
        yield from _stack(result, context, series, iter(result.pixels))
    else:
        yield _page(result, context)


def _page(result: SecondaryCapture, context: Context) -> Encoded:
    named = context.representatives()
    ds = _begin(result, context, picture(result.pixels), "page", named)
    ds.SourceImageSequence = Sequence(common.image_reference(each, common.PURPOSE_SOURCE) for each in named)
    common.refer(ds, named)
    return context.finish("sc", ds)


def _stack(result: SecondaryCapture, context: Context, series: Series, pictures: Iterator[Any]) -> Iterator[Encoded]:
    overlay = result.pixels if isinstance(result.pixels, Overlay) else None
    if overlay is None and len(result.pixels) != len(series.planes):
        raise ResultError(
            f"{len(result.pixels)} pictures for {len(series.planes)} slices",
            remedy="one picture per slice of the series",
        )
    drawn_from = context.links.known(overlay.of) if overlay and overlay.of else []
    for plane, each in zip(series.planes, pictures, strict=True):
        shown = picture(each)
        ds = _begin(result, context, shown, "stack", (plane,))
        if overlay and may_name_the_patient(plane):
            ds.BurnedInAnnotation = "YES"
        if shown.shape[:2] == (plane.get("Rows"), plane.get("Columns")):
            _add_geometry(ds, plane)
        ds.SourceImageSequence = Sequence([common.image_reference(plane, common.PURPOSE_SOURCE)])
        if drawn_from:
            ds.ReferencedImageSequence = Sequence(_drawn_from(each) for each in drawn_from)
        common.refer(ds, (plane,))
        yield context.finish("sc", ds)


def _add_geometry(ds: Dataset, plane: Instance) -> None:
    """As it was received; of a frame, as its functional groups have it. Viewers that look for no place in a capture
    find the letters of its edges all the same."""
    if all(plane.orientation):
        ds.PatientOrientation = list(plane.orientation)
    header = None if plane.frame else plane.dataset()
    for keyword in _GEOMETRY:
        if header is not None:
            common.copy(header, ds, keyword)
        elif plane.get(keyword) is not None:
            values = plane.attributes[keyword]
            setattr(ds, keyword, [common.number(each) if isinstance(each, float) else each for each in values])
    if "FrameOfReferenceUID" in ds and "PositionReferenceIndicator" not in ds:
        ds.PositionReferenceIndicator = ""  # Type 2 (PS3.3 C.7.4.1)


def _drawn_from(reference: Reference) -> Dataset:
    item = reference.item()
    item.PurposeOfReferenceCodeSequence = Sequence([common.code(*_SHOWN)])
    return item


def may_name_the_patient(image: Instance) -> bool:
    """Whether letters in the pixels may say whose they are: by what the image says of itself, or else by its class."""
    said = image.text("BurnedInAnnotation")
    return said == "YES" or (not said and image.SOPClassUID.startswith(_WRITTEN_ON))


def _begin(
    result: SecondaryCapture, context: Context, shown: Picture, kind: str, images: Iterable[Instance]
) -> Dataset:
    ds = context.begin(kind, SecondaryCaptureImageStorage, "OT", SERIES_NUMBER, common.clean(result.description))
    ds.ConversionType = "SYN"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    ds.DerivationDescription = common.clean(f"{context.assignment.app} {context.assignment.app_version}", 1024)
    ds.BurnedInAnnotation = "YES" if result.shows_identity else "NO"
    common.add_compression(ds, images)
    ds.PatientOrientation = ""
    anatomy.add_body_part(ds, context)
    anatomy.add_side(ds, context, images)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = shown.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    data = shown.tobytes()
    ds.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
    return ds


def picture(page: Any) -> Picture:
    """A numpy array, PIL image or matplotlib figure as uint8 `(rows, columns, 3)`. Raises ResultError."""
    if hasattr(page, "savefig"):
        page = _drawn_by_matplotlib(page)
    if hasattr(page, "convert"):
        page = page.convert("RGB")
    array = np.asarray(page)
    if array.dtype == np.uint8 and array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ResultError(
            f"a picture of type {array.dtype} and shape {array.shape} is no page",
            remedy="uint8 (rows, columns, 3) or (rows, columns), a PIL image or a matplotlib figure",
        )
    if max(array.shape) > 0xFFFF:
        raise ResultError(f"a picture of shape {array.shape} is too large", remedy="at most 65535 a side")
    return np.ascontiguousarray(array)


def _drawn_by_matplotlib(figure: Any) -> Any:
    from PIL import Image  # noqa: PLC0415

    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def _series_uid(volume: Any) -> str:
    key = "SeriesInstanceUID"
    return str(volume.GetMetaData(key)) if hasattr(volume, "HasMetaDataKey") and volume.HasMetaDataKey(key) else ""


def _drawn(overlay: Overlay, series: Series) -> Iterator[Picture]:
    masks = [(mask_on_source(series, mask), color) for mask, color in overlay.masks]
    for index, plane in enumerate(series.planes):
        shown = windowed(plane, *overlay.window)
        for mask, color in masks:
            draw(shown, mask[index], color)
        yield shown


def windowed(plane: Instance, center: float, width: float) -> Picture:
    """Grey images through the window, colour ones as they are: `(rows, columns, 3)`."""
    units = FileReader().units(plane)
    shape = plane.get("Rows"), plane.get("Columns")
    if units.shape == (*shape, 3):
        return np.clip(units, 0, 255).astype(np.uint8)
    if units.shape != shape:
        raise ResultError(
            f"an overlay needs single pictures of {shape}, not pixels of {units.shape}",
            remedy="draw on instance.pixels(), and yield a SecondaryCapture for each picture",
        )
    grey = np.clip((units - (center - width / 2)) * (255 / width), 0, 255).astype(np.uint8)
    if plane.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = 255 - grey
    return np.repeat(grey[:, :, None], 3, axis=2)


def draw(shown: Picture, mask: NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    """The mask over a picture: translucent inside, its outline solid."""
    inside = mask.copy()
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    inside[:, 1:] &= mask[:, :-1]
    inside[:, :-1] &= mask[:, 1:]
    paint = np.array(color, np.float32)
    shown[mask] = (shown[mask] * (1 - _FILL) + paint * _FILL).astype(np.uint8)
    shown[mask & ~inside] = color
