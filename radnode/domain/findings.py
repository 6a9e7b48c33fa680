"""What an app measured and found, and where: the values a Structured Report is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radnode.domain.codes import Code
from radnode.domain.errors import ResultError

if TYPE_CHECKING:
    from radnode.domain.results import Segment
    from radnode.domain.study import Instance, Series

SHAPES = {"point": (1, 1), "line": (2, None), "polygon": (3, None), "circle": (2, 2), "ellipse": (4, 4)}
"""Shape of a Location -> fewest and most points it has (PS3.3 C.18.6.1.1)."""


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
            mask: a Segment, a SimpleITK image, or a numpy array `(slices, rows, columns)` on the grid of the series'
                `volume()`.
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
class Location:
    """A place: drawn on one image, or a point in the patient.

    Attributes:
        points: on an image `(column, row)`, counted from 0, whole numbers being pixel centres; without an image one
            `(x, y, z)`, LPS mm, which is marked on the slice of `series` that lies nearest.
        shape: `point`, `line`, `polygon` (closed by itself), `circle` (its centre and a point on it), `ellipse` (both
            ends of the long axis, then of the short one).
        image: the image, or frame, that was drawn on.
    """

    points: Sequence[tuple[float, ...]]
    shape: str = "point"
    image: Instance | None = None
    series: Series | None = None

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ResultError(f"there is no shape {self.shape!r}", remedy=f"one of {', '.join(SHAPES)}")
        fewest, most = SHAPES[self.shape]
        if len(self.points) < fewest or (most and len(self.points) > most):
            raise ResultError(f"a {self.shape} of {len(self.points)} points", remedy=f"it has at least {fewest}")
        numbers = 3 if self.image is None else 2
        if any(len(each) != numbers or not all(map(math.isfinite, each)) for each in self.points):
            raise ResultError(
                f"location {self.points!r} is not made of {numbers} finite numbers a point",
                remedy="(column, row) on an image; (x, y, z) in the patient",
            )
        if self.image is None and self.shape != "point":
            raise ResultError(f"a {self.shape} needs its image", remedy="Location(points, shape, image=…)")

    @classmethod
    def at(cls, x: float, y: float, z: float, series: Series | None = None) -> Location:
        """A point in the patient, LPS mm; `series` is needed where an app has a whole study."""
        return cls(((float(x), float(y), float(z)),), series=series)


@dataclass(frozen=True, eq=False)
class Region:
    """One lesion or structure with what was measured and found in it (PS3.16 TID 1410, 1411).

    Attributes:
        where: a Segment of a Segmentation that is yielded as well (volumetric), or a Location (planar).
        name: what it is; None: the segment's name.
        measurements: of this region.
        findings: qualitative, of this region.
        site: the anatomic site; None: the segment's.
        tracking: its name over time; the same text in two results of a job gives the same tracking UID. Empty: the
            segment's own.
    """

    where: Segment | Location
    name: Code | str | None = None
    measurements: Sequence[Measurement] = ()
    findings: Sequence[Finding] = ()
    site: Code | None = None
    tracking: str = ""

    def __post_init__(self) -> None:
        if self.name is None and isinstance(self.where, Location):
            raise ResultError("a region at a Location has no name", remedy='Region(location, "nodule")')


@dataclass(frozen=True, eq=False)
class MeasurementReport:
    """A Structured Report (Comprehensive 3D SR, TID 1500). Nothing found is a result: yield absent findings.

    Attributes:
        measurements: of the images as a whole (TID 1501).
        findings: looked for in the images as a whole: present or absent.
        regions: lesions and structures, each with what was measured in it.
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
    regions: Sequence[Region] = ()
