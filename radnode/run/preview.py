"""Pictures of results for a person at a terminal: what a viewer would show of captures and segmentations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom import Dataset, dcmread

from radnode.dicom.encode.sc import Picture
from radnode.dicom.encode.sheet import sheet
from radnode.domain.study import Series


def preview(path: Path, sources: Iterable[Series] = ()) -> Path | None:
    """Writes a `.png` beside a capture or, drawn on its source, a segmentation; None for all else, and for what cannot
    be drawn: that is no fault of the result."""
    try:
        picture = _picture(dcmread(path), sources)
    except Exception:  # noqa: BLE001 - an app may have made the object itself, of whatever pixels
        return None
    if picture is None:
        return None
    from PIL import Image  # noqa: PLC0415

    place = path.with_suffix(".png")
    Image.fromarray(picture).save(place)
    return place


def _picture(ds: Dataset, sources: Iterable[Series]) -> Picture | None:
    """Of several frames the one in the middle."""
    if "PixelData" not in ds:
        return None
    if "SegmentSequence" in ds:
        return sheet(ds, sources)
    if ds.SamplesPerPixel != 3:
        return None
    pixels: Picture = ds.pixel_array
    return pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels
