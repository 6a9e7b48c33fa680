"""Where a series' slices lie, and the regular grid that holds them: from attributes alone, no pixels.

Frame: the patient's, LPS, in mm (PS3.3 C.7.6.2.1.1). A slice's own axes are `row` (along a row, towards higher
columns), `column` and their cross product `normal`; `u, v, z` are coordinates along these three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radnode.domain.errors import GeometryError
from radnode.domain.study import Instance, Series

Floats = NDArray[np.float64]

UNEVEN = 0.05
"""Share of the spacing by which a slice may be off its place before the series counts as unevenly spaced."""
SHEARED = 0.1
"""Share of a pixel by which slices may be shifted against each other before the series counts as tilted."""
GAP = 4.0
"""A gap of more than this many times the median is a hole, not a spacing: nothing is interpolated across it."""
CLOSEST = 0.1
"""Quantile of the gaps that counts as the closest: where two blocks of slices meet, one gap may be tiny."""
FINEST = 4
"""A resampled grid has at most this many times the slices of its source."""

SAME_PLACE = 0.01
"""Images closer than this, in mm along the normal, lie at the same place."""

PHASES = (
    "EchoTime", "EffectiveEchoTime", "EchoNumbers", "TemporalPositionIdentifier", "TemporalPositionIndex",
    "DiffusionBValue", "TriggerTime", "AcquisitionNumber", "ImageType", "FrameType", "ComplexImageComponent",
    "ConvolutionKernel", "AcquisitionTime", "ContentTime",
)  # fmt: skip
"""Attributes that tell images at the same place apart, the most telling first."""

SPLIT = "series.split() gives the parts that can make volumes; series.split(keyword, ...) those an attribute names"
SINGLE = "read single images: series.images()"


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid in SimpleITK's terms: x along rows, y along columns, z along the normal.

    Attributes:
        spacing: mm, of x, y, z.
        origin: centre of the first voxel, LPS mm.
        axes: rows are the directions of x, y and z.
        uvz: `(slices, 3)`, where the source's slices lie along those axes.
        why: what made resampling necessary; empty where source slices are the grid's slices.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: Floats
    axes: Floats
    uvz: Floats
    why: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a numpy array on this grid: `(slices, rows, columns)`."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000

    @property
    def direction(self) -> list[float]:
        """SimpleITK's: the axes as columns, row by row."""
        return [float(each) for each in self.axes.T.ravel()]


def grid(series: Series, irregular: str = "resample") -> Grid:
    """The regular grid of a series. Raises GeometryError saying what is irregular, and what an app may choose.

    Args:
        irregular: `resample` tilted and uneven series, or `refuse` them.
    """
    if irregular not in ("resample", "refuse"):
        raise GeometryError(f"volume(irregular={irregular!r})", remedy='irregular="resample" or irregular="refuse"')
    planes = series.planes
    _refuse_differences(series)
    axes = _axes(planes[0])
    if axes is None:
        raise _irregular(series, "images have no usable ImageOrientationPatient", SINGLE)
    uvz = _positions(series) @ axes.T
    rows, columns = int(planes[0].get("Rows")), int(planes[0].get("Columns"))
    dy, dx = (float(each) for each in planes[0].get("PixelSpacing"))
    gaps = np.diff(uvz[:, 2])
    if not len(gaps):
        return Grid((columns, rows, 1), (dx, dy, _thickness(planes[0])), uvz[0] @ axes, axes, uvz, "")
    _refuse_gaps(series, gaps)
    why = _why(uvz, gaps, (dx, dy))
    if why and irregular == "refuse":
        raise _irregular(series, why, 'volume(irregular="resample") resamples it; or read its slices: series.planes')
    if not why:
        dz = float(uvz[-1, 2] - uvz[0, 2]) / len(gaps)
        return Grid((columns, rows, len(planes)), (dx, dy, dz), uvz[0] @ axes, axes, uvz, "")
    return _wider((columns, rows, len(planes)), (dx, dy), uvz, axes, why)


def _thickness(plane: Instance) -> float:
    """mm, of a slice that lies alone; 1 where nothing tells."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        said = plane.get(keyword)
        if isinstance(said, int | float) and said != 0:
            return abs(float(said))
    return 1.0


def _wider(size: tuple[int, int, int], pixel: tuple[float, float], uvz: Floats, axes: Floats, why: str) -> Grid:
    """The grid that holds every slice: in-plane shifts widen it, its slices lie as close as the series' closest do."""
    low, high = uvz.min(axis=0), uvz.max(axis=0)
    height = float(high[2] - low[2])
    closest = float(np.quantile(np.diff(uvz[:, 2]), CLOSEST))
    steps = round(height / max(closest, height / (FINEST * size[2])))
    x, y = (size[i] + int(np.ceil((high[i] - low[i]) / pixel[i] - SHEARED)) for i in (0, 1))
    return Grid((x, y, steps + 1), (*pixel, height / steps), low @ axes, axes, uvz, why)


def _why(uvz: Floats, gaps: Floats, pixel: tuple[float, float]) -> str:
    mean = (uvz[-1, 2] - uvz[0, 2]) / len(gaps)
    off = np.abs(uvz[:, 2] - uvz[0, 2] - mean * np.arange(len(uvz))).max()
    shift = np.abs(uvz[:, :2] - uvz[0, :2]).max(axis=0)
    reasons = []
    if (shift > SHEARED * np.array(pixel)).any():
        drift = np.hypot(*(uvz[-1, :2] - uvz[0, :2])) / (uvz[-1, 2] - uvz[0, 2])
        reasons.append(f"tilted by {np.degrees(np.arctan(drift)):.1f} degrees")
    if off > UNEVEN * mean:
        reasons.append(f"unevenly spaced, {gaps.min():.2f} to {gaps.max():.2f} mm")
    return ", ".join(reasons)


def in_order(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Instances by their place along the slice normal; by InstanceNumber where they have no common one."""
    axes = _axes(instances[0])
    placed = [_triple(each, "ImagePositionPatient") for each in instances]
    same = {each.attributes.get("ImageOrientationPatient") for each in instances}
    if axes is None or None in placed or not _parallel(same):
        return tuple(sorted(instances, key=_number))
    along = np.array(placed, dtype=float) @ axes[2]
    keys = [(round(float(at), 3), *_number(each)) for at, each in zip(along, instances, strict=True)]
    return tuple(instances[index] for index in sorted(range(len(instances)), key=keys.__getitem__))


def _number(instance: Instance) -> tuple[float, str]:
    number = instance.get("InstanceNumber")
    return (float(number) if isinstance(number, int | float) else 0.0), instance.SOPInstanceUID


def _triple(instance: Instance, keyword: str) -> tuple[float, ...] | None:
    values = instance.attributes.get(keyword, ())
    numbers = tuple(float(each) for each in values if isinstance(each, int | float))
    return numbers if len(numbers) == 3 and np.isfinite(numbers).all() else None


def _axes(instance: Instance) -> Floats | None:
    values = instance.attributes.get("ImageOrientationPatient", ())
    numbers = np.array([each for each in values if isinstance(each, int | float)], dtype=float)
    if numbers.shape != (6,) or not np.isfinite(numbers).all():
        return None
    row, column = numbers[:3], numbers[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1, atol=0.01) or abs(float(row @ column)) > 0.01:
        return None
    row = row / lengths[0]
    column = column - row * (row @ column)
    column = column / np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)])


def _parallel(orientations: set[tuple[Any, ...] | None]) -> bool:
    if None in orientations:
        return False
    first, *others = (np.array(each, dtype=float) for each in orientations)
    return all(each.shape == first.shape and np.allclose(each, first, atol=1e-3) for each in others)


def _positions(series: Series) -> Floats:
    places = [_triple(each, "ImagePositionPatient") for each in series.planes]
    if None in places:
        raise _irregular(series, f"{places.count(None)} images have no ImagePositionPatient", SINGLE)
    return np.array(places, dtype=float)


def _refuse_differences(series: Series) -> None:
    planes = series.planes
    for keyword in ("Rows", "Columns", "PixelSpacing"):
        values = {each.attributes.get(keyword, ()): None for each in planes}
        if not any(values):
            raise _irregular(series, f"{keyword} is missing", SINGLE)
        if len(values) != 1:
            shown = ", ".join("\\".join(map(str, each)) for each in list(values)[:4] if each)
            raise _irregular(series, f"{keyword} is missing or differs between images: {shown}", SPLIT)
    spacing = planes[0].attributes["PixelSpacing"]
    if len(spacing) != 2 or not all(isinstance(each, int | float) and each > 0 for each in spacing):
        shown = "\\".join(map(str, spacing))
        raise _irregular(series, f"PixelSpacing is {shown}, not two numbers above 0", SINGLE)
    if any(int(each.get("NumberOfFrames", 1)) > 1 and not each.frame for each in planes):
        raise _irregular(series, "images are multi-frame and their frames have no place", SINGLE)
    if not _parallel({each.attributes.get("ImageOrientationPatient") for each in planes}):
        raise _irregular(series, "images are not parallel (ImageOrientationPatient)", SPLIT)


def _refuse_gaps(series: Series, gaps: Floats) -> None:
    if gaps.min() < SAME_PLACE:
        at = int(gaps.argmin())
        one, two = (_shown(each) for each in series.planes[at : at + 2])
        differing = ", ".join(_differing(series)) or "nothing that is known"
        raise _irregular(
            series,
            f"images {one} and {two} lie at the same place; they differ in {differing}",
            f"several phases or echoes in one series? {SPLIT}",
        )
    median = float(np.median(gaps))
    if gaps.max() > GAP * median:
        number = _shown(series.planes[int(gaps.argmax())])
        raise _irregular(
            series,
            f"a gap of {gaps.max():.1f} mm after image {number}, the others are {median:.1f} mm",
            "images are missing: send the series again",
        )


def _shown(plane: Instance) -> str:
    return f"frame {plane.frame}" if plane.frame else plane.text("InstanceNumber")


def nearest(series: Series, point: Sequence[float]) -> tuple[Instance, float, float]:
    """The slice that lies nearest to a point, LPS mm, and where on it: column and row, 0 at the first pixel's centre.

    Raises GeometryError where the images have no common place.
    """
    _refuse_differences(series)
    axes = _axes(series.planes[0])
    if axes is None:
        raise _irregular(series, "images have no usable ImageOrientationPatient", SINGLE)
    off = (np.array(point, dtype=float) - _positions(series)) @ axes.T
    index = int(np.abs(off[:, 2]).argmin())
    dy, dx = (float(each) for each in series.planes[index].get("PixelSpacing"))
    return series.planes[index], float(off[index, 0]) / dx, float(off[index, 1]) / dy


def split(series: Series) -> list[tuple[Instance, ...]]:
    """The planes in groups of one size and orientation; where `PHASES` tell them apart, no two at the same place."""
    groups: list[tuple[Instance, ...]] = []
    for alike in grouped(series.planes, _form):
        apart = _differing(Series(alike, series.reader)) if _same_places(alike) else []
        if apart:
            groups += _by_keyword(alike, apart[0])
        else:
            groups.append(alike)
    return [in_order(each) for each in groups]


def grouped(planes: Sequence[Instance], key: Callable[[Instance], Any]) -> list[tuple[Instance, ...]]:
    """Planes with the same key together, in order of appearance."""
    groups: dict[Any, list[Instance]] = {}
    for each in planes:
        groups.setdefault(key(each), []).append(each)
    return [tuple(each) for each in groups.values()]


def _by_keyword(planes: Sequence[Instance], keyword: str) -> list[tuple[Instance, ...]]:
    return grouped(planes, lambda each: each.attributes.get(keyword))


def _form(plane: Instance) -> tuple[Any, ...]:
    axes = _axes(plane)
    orientation = None if axes is None else tuple(np.round(axes[:2].ravel(), 2) + 0.0)
    return (*(plane.attributes.get(each) for each in ("Rows", "Columns", "PixelSpacing")), orientation)


def _same_places(planes: Sequence[Instance]) -> bool:
    axes, places = _axes(planes[0]), [_triple(each, "ImagePositionPatient") for each in planes]
    if axes is None or None in places:
        return False
    along = np.sort(np.array(places, dtype=float) @ axes[2])
    return bool(len(along) > 1 and np.diff(along).min() < SAME_PLACE)


def _differing(series: Series) -> list[str]:
    """Of `PHASES`, the attributes by which images at the same place can be told apart."""
    return [
        keyword
        for keyword in PHASES
        if len(groups := _by_keyword(series.planes, keyword)) > 1 and not any(map(_same_places, groups))
    ]


def _irregular(series: Series, what: str, remedy: str) -> GeometryError:
    return GeometryError(f"series {series.SeriesInstanceUID} makes no volume: {what}", remedy=remedy)
