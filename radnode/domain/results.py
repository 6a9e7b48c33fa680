"""What an app yields: plain values. The node turns them into DICOM objects (`radnode.dicom.encode`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from radnode.domain.codes import Code
from radnode.domain.errors import ResultError

if TYPE_CHECKING:
    from pydicom import Dataset

    from radnode.domain.findings import MeasurementReport
    from radnode.domain.study import Instance, Series

Color = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

PALETTE: Sequence[Color] = ((255, 64, 32), (64, 160, 255), (255, 208, 0), (64, 208, 96), (208, 96, 255), (0, 208, 208))
"""Colours of segments that name none, in their order."""

SEGMENTATION_KINDS = ("BINARY", "LABELMAP", "FRACTIONAL")


@dataclass(frozen=True, eq=False)
class Segment:
    """One structure of a Segmentation.

    Attributes:
        name: what it is: a Code, or plain text.
        mask: a SimpleITK image on any grid, or a numpy array `(slices, rows, columns)` of the series' `volume()` or of
            its own slices. Non-zero is inside; for FRACTIONAL, values are 0 to 1.
        category: what kind of thing it is (PS3.16 CID 7150); None: a morphologically abnormal structure.
        site: the anatomic site.
        color: for viewers; None: the next of `PALETTE`.
        tracking: its name over time; the same text in two results of a job gives the same tracking UID.
    """

    name: Code | str
    mask: Any
    category: Code | None = None
    site: Code | None = None
    color: Color | None = None
    tracking: str = ""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Segments on the source's own slices, also where these are tilted or unevenly spaced (PS3.3 A.51).

    Segments that are empty are left out; where all are, there is no object: an absent Finding says it in the report.

    Attributes:
        series: the series the masks lie on; needed where an app has a whole study.
        kind: `BINARY`, which every archive knows; `LABELMAP`, small and new; `FRACTIONAL`, probabilities.
        description: of the series it goes into.
    """

    segments: Sequence[Segment]
    series: Series | None = None
    kind: str = "BINARY"
    description: str = "segmentation"

    def __post_init__(self) -> None:
        if self.kind not in SEGMENTATION_KINDS:
            raise ResultError(f"there is no segmentation {self.kind!r}", remedy=f"one of {SEGMENTATION_KINDS}")
        if not self.segments:
            raise ResultError("a segmentation without segments", remedy="yield a report with an absent Finding")


@dataclass(frozen=True, eq=False)
class Overlay:
    """Masks drawn over the slices of a series; made by `SecondaryCapture.overlay`."""

    volume: Any
    masks: Sequence[tuple[Any, Color]]
    window: tuple[float, float]
    of: Segmentation | None = None


@dataclass(frozen=True, eq=False)
class SecondaryCapture:
    """Pictures for every PACS.

    Attributes:
        pixels: one page: uint8 `(rows, columns, 3)` RGB or `(rows, columns)` grey, a PIL image or a matplotlib figure;
            or one picture per slice of the series, in its order, with its geometry: uint8 `(slices, rows, columns, 3)`.
        description: of the series the captures go into.
        series: the series of a stack; needed where an app has a whole study.
        shows_identity: True where the picture shows who the patient is (BurnedInAnnotation, PS3.3 C.7.6.1).
    """

    pixels: Any
    description: str = ""
    series: Series | None = None
    shows_identity: bool = False

    @classmethod
    def overlay(
        cls,
        volume: Any,
        mask: Any,
        *,
        window: tuple[float, float],
        description: str = "Overlay",
        series: Series | None = None,
        color: Color = PALETTE[0],
    ) -> SecondaryCapture:
        """The slices of the series, as they were received, with the mask drawn over them.

        Args:
            volume: what `series.volume()` gave: the grid a numpy mask lies on.
            mask: a numpy array `(slices, rows, columns)` of the volume, a SimpleITK image on any grid, or a
                Segmentation: each segment in its colour; the captures refer to it where it was yielded before.
            window: center and width in modality units (HU for CT).
            series: the series to draw on; None: the one `volume` came from.
        """
        center, width = (float(each) for each in window)
        if not (math.isfinite(center) and math.isfinite(width) and width > 0):
            raise ResultError(f"window {window} has no width", remedy="window=(center, width), width above 0")
        if isinstance(mask, Segmentation):
            masks = [(each.mask, color_of(each, number)) for number, each in enumerate(mask.segments)]
            overlay = Overlay(volume, masks, (center, width), mask)
            return cls(overlay, description, series or mask.series)
        return cls(Overlay(volume, [(mask, color)], (center, width)), description, series)


def color_of(segment: Segment, number: int) -> Color:
    """The segment's own colour, or the palette's for the place it has, counted from 0."""
    return segment.color or PALETTE[number % len(PALETTE)]


@dataclass(frozen=True, eq=False)
class KeyImages:
    """Images a reader should look at first (Key Object Selection, PS3.3 A.35.4).

    Attributes:
        images: images or frames of the source, and results of this job that are pictures.
        title: why they were chosen (PS3.16 CID 7010); None: "Of Interest".
        note: one text for the reader.
        description: of the series it goes into.
    """

    images: Sequence[Instance | SecondaryCapture]
    title: Code | None = None
    note: str = ""
    description: str = "key images"

    def __post_init__(self) -> None:
        if not self.images:
            raise ResultError("key images without an image", remedy="yield nothing where nothing is of interest")


@dataclass(frozen=True, eq=False)
class ParametricMap:
    """A number per voxel, on the source's own slices (PS3.3 A.75).

    Attributes:
        values: a SimpleITK image on any grid, or a numpy array `(slices, rows, columns)` of the series' `volume()` or
            of its own slices; finite.
        quantity: what the numbers are: a Code, or plain text.
        unit: UCUM code (`1` is a plain number), or a Code.
        series: the series the values lie on; needed where an app has a whole study.
        description: of the series it goes into.
    """

    values: Any
    quantity: Code | str
    unit: Code | str = "1"
    series: Series | None = None
    description: str = "map"


@dataclass(frozen=True, eq=False)
class EncapsulatedPdf:
    """A PDF in the study (PS3.3 A.45.1).

    Attributes:
        document: the PDF's bytes, its path, or a matplotlib figure.
        title: of the document, as a viewer shows it.
        description: of the series it goes into.
        shows_identity: False only where the document names no patient.
    """

    document: Any
    title: str = "Report"
    description: str = "report"
    shows_identity: bool = True


@dataclass(frozen=True)
class File:
    """A file for destinations that are folders. It is copied; nothing is sent over DICOM."""

    path: Path | str


Result: TypeAlias = (
    "SecondaryCapture | MeasurementReport | Segmentation | KeyImages | ParametricMap | EncapsulatedPdf | File | Dataset"
)
"""A pydicom Dataset is for those who know DICOM: identity, UIDs and times are radnode's all the same."""
