"""A segmentation as one picture: the slices it marks, side by side, with its segments drawn on them and letters at
their edges."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset

from radnode.dicom.encode.sc import Picture, draw, windowed
from radnode.dicom.volume import FileReader
from radnode.domain.errors import ResultError
from radnode.domain.orientation import Orientation, opposite
from radnode.domain.results import PALETTE
from radnode.domain.study import Instance, Series

MOST_TILES = 9
"""Slices that are shown: evenly picked of those that are marked."""
_SMALLEST_LETTER = 10
_Planes = dict[tuple[str, int], list[tuple[int, NDArray[np.bool_]]]]
"""SOP instance and frame of the source -> segment number and mask of each segment there."""


def sheet(ds: Dataset, sources: Iterable[Series]) -> Picture:
    """Raises ResultError where none of the slices it marks is among the sources."""
    images = {(each.SOPInstanceUID, each.frame): each for series in sources for each in series.planes}
    planes = _planes(ds)
    places = [key for key in images if key in planes]
    if not places:
        raise ResultError("a segmentation cannot be drawn: its source is not there")
    picked = [places[index] for index in np.unique(np.linspace(0, len(places) - 1, MOST_TILES).round().astype(int))]
    tiles = []
    for key in picked:
        shown = windowed(images[key], *_window(images[key]))
        for number, mask in planes[key]:
            draw(shown, mask, PALETTE[(number - 1) % len(PALETTE)])
        tiles.append(lettered(shown, images[key].orientation))
    across = int(np.ceil(np.sqrt(len(tiles))))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % across)
    return np.vstack([np.hstack(tiles[at : at + across]) for at in range(0, len(tiles), across)])


def lettered(shown: Picture, orientation: Orientation) -> Picture:
    """A picture with letters at its edges: no viewer knows which way the slices on a page lie."""
    image = Image.fromarray(shown)
    drawing = ImageDraw.Draw(image)
    width, height = image.size
    font = ImageFont.load_default(max(_SMALLEST_LETTER, height // 24))
    right, bottom = orientation
    places = {
        (4, height / 2, "lm"): opposite(right),
        (width - 4, height / 2, "rm"): right,
        (width / 2, 4, "ma"): opposite(bottom),
        (width / 2, height - 4, "md"): bottom,
    }
    for (x, y, anchor), letters in places.items():
        drawing.text((x, y), letters, "yellow", font, anchor, stroke_width=1, stroke_fill="black")
    return np.asarray(image)


def _planes(ds: Dataset) -> _Planes:
    frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    found: _Planes = {}
    for stored, groups in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        masks = found.setdefault((source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber", 0))), [])
        if ds.SegmentationType == "LABELMAP":
            masks += [(int(number), stored == number) for number in np.unique(stored) if number]
        else:
            masks.append((int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber), stored > 0))
    return found


def _window(image: Instance) -> tuple[float, float]:
    """The image's own first window; without one the range of its values."""
    center, width = (np.atleast_1d(image.get(f"Window{each}", np.nan))[0] for each in ("Center", "Width"))
    if isinstance(center, float | int) and isinstance(width, float | int) and width > 0:
        return float(center), float(width)
    low, high = np.percentile(FileReader().units(image), (1, 99))
    return float(low + high) / 2, max(float(high - low), 1.0)
