"""Pictures of results for a person at a terminal: what a viewer would show of captures and segmentations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom import dcmread

from radnode.dicom.encode.sheet import sheet
from radnode.domain.study import Series


def preview(path: Path, sources: Iterable[Series] = ()) -> Path | None:
    """Writes a `.png` beside a capture or, drawn on its source, a segmentation; None for all else."""
    ds = dcmread(path)
    if "PixelData" not in ds:
        return None
    if "SegmentSequence" in ds:
        picture = sheet(ds, sources)
    elif ds.SamplesPerPixel == 3:
        picture = ds.pixel_array
    else:
        return None
    from PIL import Image  # noqa: PLC0415

    place = path.with_suffix(".png")
    Image.fromarray(picture).save(place)
    return place
