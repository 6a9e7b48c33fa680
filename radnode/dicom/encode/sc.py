"""Secondary Capture: a page, or one RGB picture per source slice with that slice's geometry (PS3.3 A.8.1).

A series of single frames, not one multi-frame object: workstations scroll it together with the source, and older ones
show of a multi-frame object only the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import SecondaryCaptureImageStorage

from radnode.dicom.encode import common
from radnode.dicom.encode.common import Context, Encoded
from radnode.dicom.volume import FileReader, mask_on_source
from radnode.domain.errors import ResultError
from radnode.domain.results import Overlay, SecondaryCapture
from radnode.domain.study import Instance, Series

SERIES_NUMBER = 9001
_GEOMETRY = (
    "FrameOfReferenceUID", "PositionReferenceIndicator", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "SliceLocation",
)  # fmt: skip
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
    ds = _begin(result, context, picture(result.pixels), "page")
    named = context.instances if len(context.instances) <= common.MOST_REFERENCES else _firsts(context)
    ds.SourceImageSequence = Sequence(common.image_reference(each, common.PURPOSE_SOURCE) for each in named)
    _refer(ds, named)
    return context.finish("sc", ds)


def _firsts(context: Context) -> tuple[Instance, ...]:
    return tuple(series.first for series in context.all_series)


def _stack(result: SecondaryCapture, context: Context, series: Series, pictures: Iterator[Any]) -> Iterator[Encoded]:
    count = len(result.pixels) if not isinstance(result.pixels, Overlay) else len(series)
    if count != len(series):
        raise ResultError(f"{count} pictures for {len(series)} slices", remedy="one picture per instance of the series")
    for instance, each in zip(series, pictures, strict=True):
        shown = picture(each)
        ds = _begin(result, context, shown, "stack")
        header = instance.dataset()
        if shown.shape[:2] == (instance.get("Rows"), instance.get("Columns")):
            for keyword in _GEOMETRY:
                common.copy(header, ds, keyword)
        ds.SourceImageSequence = Sequence([common.image_reference(instance, common.PURPOSE_SOURCE)])
        _refer(ds, (instance,))
        yield context.finish("sc", ds)


def _begin(result: SecondaryCapture, context: Context, shown: Picture, kind: str) -> Dataset:
    ds = context.begin(kind, SecondaryCaptureImageStorage, "OT", SERIES_NUMBER, common.clean(result.description))
    ds.ConversionType = "SYN"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    ds.DerivationDescription = common.clean(f"{context.assignment.app} {context.assignment.app_version}", 1024)
    ds.BurnedInAnnotation = "YES" if result.shows_identity else "NO"
    ds.LossyImageCompression = "00"
    ds.PatientOrientation = ""
    common.copy(context.header, ds, "BodyPartExamined")
    if not ds.get("BodyPartExamined"):
        ds.pop("BodyPartExamined", None)
        ds.Laterality = ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = shown.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    data = shown.tobytes()
    ds.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
    return ds


def _refer(ds: Dataset, instances: tuple[Instance, ...]) -> None:
    """Common Instance Reference (PS3.3 C.12.2): series -> instances."""
    by_series: dict[str, list[Instance]] = {}
    for instance in instances:
        by_series.setdefault(instance.text("SeriesInstanceUID"), []).append(instance)
    items = []
    for uid, members in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = Sequence(common.image_reference(each) for each in members)
        items.append(item)
    ds.ReferencedSeriesSequence = Sequence(items)


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
    mask = mask_on_source(series, overlay.mask)
    center, width = overlay.window
    for instance, plane in zip(series, mask, strict=True):
        units = FileReader().units(instance)
        if units.shape != plane.shape:
            raise ResultError(f"an overlay needs grey images of {plane.shape}, not pixels of {units.shape}")
        grey = np.clip((units - (center - width / 2)) * (255 / width), 0, 255).astype(np.uint8)
        if instance.get("PhotometricInterpretation") == "MONOCHROME1":
            grey = 255 - grey
        yield drawn(grey, plane, overlay.color)


def drawn(grey: Picture, mask: NDArray[np.bool_], color: tuple[int, int, int]) -> Picture:
    """The mask over a grey plane: translucent inside, its outline solid."""
    shown = np.repeat(grey[:, :, None], 3, axis=2)
    inside = mask.copy()
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    inside[:, 1:] &= mask[:, :-1]
    inside[:, :-1] &= mask[:, 1:]
    paint = np.array(color, np.float32)
    shown[mask] = (shown[mask] * (1 - _FILL) + paint * _FILL).astype(np.uint8)
    shown[mask & ~inside] = color
    return shown
