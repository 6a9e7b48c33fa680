"""What an app yields: plain values. The node turns them into DICOM objects (`radnode.dicom.encode`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radnode.domain.errors import ResultError

if TYPE_CHECKING:
    from radnode.domain.study import Series

PRIVATE_SCHEME = "99RADNODE"
"""Coding scheme of names an app gives as plain text (PS3.16 section 8: private designators start with 99)."""


@dataclass(frozen=True)
class Code:
    """A coded concept: `Code("12738006", "SCT", "Brain")` (PS3.3 section 8.8)."""

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        if not (self.value and self.scheme and self.meaning):
            raise ResultError(f"{self} is incomplete", remedy="give value, scheme and meaning")
        if len(self.value) > 16 or len(self.scheme) > 16 or len(self.meaning) > 64:
            raise ResultError(f"{self} is too long", remedy="at most 16, 16 and 64 characters (PS3.5 6.2: SH, SH, LO)")

    @classmethod
    def named(cls, name: Code | str) -> Code:
        """A code as it is; plain text as a code of radnode's private scheme, the same text always the same code."""
        if isinstance(name, Code):
            return name
        short = name.upper().replace(" ", "_")
        if len(short) > 16 or not short.isascii():
            short = hashlib.sha256(name.encode()).hexdigest()[:16].upper()
        return cls(short, PRIVATE_SCHEME, name)


@dataclass(frozen=True, eq=False)
class Measurement:
    """One number with its unit.

    Attributes:
        name: what was measured: a Code, or plain text.
        value: a finite number; None where it is a mask's volume, known once the mask meets its series.
        unit: UCUM code (`mL`, `mm`, `%`, `[hnsf'U]`; `1` is a plain number), or a Code.
        mask: whose volume is the value: see `volume_ml`.
        series: the series a numpy mask lies on; None: the job's only one.
    """

    name: Code | str
    value: float | None
    unit: Code | str = "1"
    mask: Any = None
    series: Series | None = None

    def __post_init__(self) -> None:
        if self.value is None and self.mask is None:
            raise ResultError(f"measurement {self.name!r} has no value", remedy="leave it out, or yield a Finding")
        if self.value is not None:
            object.__setattr__(self, "value", float(self.value))
            if not math.isfinite(float(self.value)):
                raise ResultError(f"measurement {self.name!r} is {self.value}", remedy="yield finite numbers")

    @classmethod
    def volume_ml(cls, name: Code | str, mask: Any, *, series: Series | None = None) -> Measurement:
        """The volume of a mask, in mL.

        Args:
            mask: a SimpleITK image, or a numpy array `(slices, rows, columns)` on the grid of the series' `volume()`.
            series: the series a numpy mask lies on; needed where an app has a whole study.
        """
        return cls(name, None, "mL", mask, series)


@dataclass(frozen=True)
class Finding:
    """Something looked for and found present or absent: an absent finding is a result too.

    Attributes:
        name: what was looked for: `Code("1386000", "SCT", "Intracranial hemorrhage")`, or plain text.
        probability: 0 to 1, where the algorithm gives one.
        site: the anatomic site.
    """

    name: Code | str
    present: bool
    probability: float | None = None
    site: Code | None = None

    def __post_init__(self) -> None:
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ResultError(f"finding {self.name!r}: probability {self.probability} is not within 0 and 1")


@dataclass(frozen=True, eq=False)
class MeasurementReport:
    """A Structured Report (Comprehensive 3D SR, TID 1500).

    Attributes:
        description: of the series the report goes into; ends up in every worklist.
        comment: one text a reader of the report should see.
        site: the anatomic site of the measurements.
        procedure: the procedure reported; None: the study's own procedure code, or one for its modality.
    """

    measurements: Sequence[Measurement] = ()
    findings: Sequence[Finding] = ()
    description: str = ""
    comment: str = ""
    site: Code | None = None
    procedure: Code | None = None


@dataclass(frozen=True, eq=False)
class Overlay:
    """A mask drawn over the slices of a series; made by `SecondaryCapture.overlay`."""

    volume: Any
    mask: Any
    window: tuple[float, float]
    color: tuple[int, int, int]


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
        color: tuple[int, int, int] = (255, 64, 32),
    ) -> SecondaryCapture:
        """The slices of the series, as they were received, with the mask drawn over them.

        Args:
            volume: what `series.volume()` gave: the grid a numpy mask lies on.
            mask: a numpy array `(slices, rows, columns)` of the volume, or a SimpleITK image on any grid.
            window: center and width in modality units (HU for CT).
            series: the series to draw on; None: the one `volume` came from.
        """
        center, width = (float(each) for each in window)
        if not (math.isfinite(center) and math.isfinite(width) and width > 0):
            raise ResultError(f"window {window} has no width", remedy="window=(center, width), width above 0")
        return cls(Overlay(volume, mask, (center, width), color), description, series)


@dataclass(frozen=True)
class File:
    """A file for destinations that are folders. It is copied; nothing is sent over DICOM."""

    path: Path | str


Result = SecondaryCapture | MeasurementReport | File
