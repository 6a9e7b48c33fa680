"""Where a series' slices lie, and the regular grid that holds them: from attributes alone, no pixels.

Frame: the patient's, LPS, in mm (PS3.3 C.7.6.2.1.1). A slice's own axes are `row` (along a row, towards higher
columns), `column` and their cross product `normal`; `u, v, z` are coordinates along these three.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def grid(series: Series) -> Grid:
    """The regular grid of a series. Raises GeometryError saying what is irregular, and where."""
    _refuse_differences(series)
    axes = _axes(series.first)
    if axes is None:
        raise _irregular(series, "images have no usable ImageOrientationPatient", "read single images: series.images()")
    uvz = _positions(series) @ axes.T
    rows, columns = int(series.first.get("Rows")), int(series.first.get("Columns"))
    dy, dx = (float(each) for each in series.first.get("PixelSpacing"))
    gaps = np.diff(uvz[:, 2])
    if not len(gaps):
        thickness = float(series.first.get("SpacingBetweenSlices") or series.first.get("SliceThickness") or 1.0)
        return Grid((columns, rows, 1), (dx, dy, abs(thickness)), uvz[0] @ axes, axes, uvz, "")
    _refuse_gaps(series, gaps)
    why = _why(uvz, gaps, (dx, dy))
    if not why:
        dz = float(uvz[-1, 2] - uvz[0, 2]) / len(gaps)
        return Grid((columns, rows, len(series)), (dx, dy, dz), uvz[0] @ axes, axes, uvz, "")
    # The grid that holds every slice: in-plane shifts widen it, and its slices lie as close as the series' closest do.
    low, high = uvz.min(axis=0), uvz.max(axis=0)
    height = float(high[2] - low[2])
    steps = round(height / max(float(np.quantile(gaps, CLOSEST)), height / (FINEST * len(series))))
    x, y = (n + int(np.ceil((high[i] - low[i]) / (dx, dy)[i] - SHEARED)) for i, n in enumerate((columns, rows)))
    return Grid((x, y, steps + 1), (dx, dy, height / steps), low @ axes, axes, uvz, why)


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
    places = [_triple(each, "ImagePositionPatient") for each in series]
    if None in places:
        raise _irregular(series, f"{places.count(None)} images have no ImagePositionPatient", "read single images")
    return np.array(places, dtype=float)


def _refuse_differences(series: Series) -> None:
    for keyword in ("Rows", "Columns", "PixelSpacing"):
        values = series.distinct(keyword)
        if len(values) != 1 or not all(each.attributes.get(keyword) for each in series):
            shown = ", ".join("\\".join(map(str, each)) for each in values[:4]) or "none"
            raise _irregular(series, f"{keyword} is missing or differs between images: {shown}", "read single images")
    if len(series.first.attributes["PixelSpacing"]) != 2:
        raise _irregular(series, "PixelSpacing is not two numbers", "read single images: series.images()")
    if any(int(each.get("NumberOfFrames", 1)) > 1 for each in series):
        raise _irregular(series, "images are multi-frame", "read their frames: series.images(), instance.pixels()")
    orientations = {each.attributes.get("ImageOrientationPatient") for each in series}
    if not _parallel(orientations):
        raise _irregular(series, "images are not parallel (ImageOrientationPatient)", "a localizer? leave it out")


def _refuse_gaps(series: Series, gaps: Floats) -> None:
    if gaps.min() < 0.01:
        at = int(gaps.argmin())
        one, two = series.instances[at], series.instances[at + 1]
        raise _irregular(
            series,
            f"images {one.text('InstanceNumber')} and {two.text('InstanceNumber')} lie at the same place",
            "several phases or echoes in one series? pick one by its attributes",
        )
    median = float(np.median(gaps))
    if gaps.max() > GAP * median:
        at = int(gaps.argmax())
        number = series.instances[at].text("InstanceNumber")
        raise _irregular(
            series,
            f"a gap of {gaps.max():.1f} mm after image {number}, the others are {median:.1f} mm",
            "images are missing: send the series again",
        )


def _irregular(series: Series, what: str, remedy: str) -> GeometryError:
    return GeometryError(f"series {series.SeriesInstanceUID} makes no volume: {what}", remedy=remedy)
