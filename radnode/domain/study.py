"""What radnode talks about: instances, series and studies taken as complete.

Pure values. What needs the files behind them (pixels, volumes) goes through the `Reader` a Series was made with,
so that this module knows neither disk nor decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from radnode.domain.orientation import Orientation, orientation_of

if TYPE_CHECKING:
    import numpy as np
    import SimpleITK as sitk
    from pydicom import Dataset

Value = str | int | float
"""One value of an attribute: numbers for IS, DS, US, FL …, text for everything else (dates stay `YYYYMMDD`)."""

Attributes = Mapping[str, tuple[Value, ...]]
"""DICOM keyword -> its values, always a tuple, whatever the VM. An empty or absent attribute has no entry."""


class Reader(Protocol):
    """Access to what lies behind a series' files."""

    def frames(self, instance: Instance) -> tuple[Instance, ...]: ...
    def in_order(self, planes: tuple[Instance, ...]) -> tuple[Instance, ...]: ...
    def split(self, series: Series, keywords: tuple[str, ...]) -> tuple[Series, ...]: ...
    def volume(self, series: Series, irregular: str) -> sitk.Image: ...
    def nifti(self, series: Series, path: Path, irregular: str) -> Path: ...
    def pixels(self, instance: Instance) -> np.ndarray: ...
    def dataset(self, instance: Instance) -> Dataset: ...


@dataclass(frozen=True)
class Instance:
    """One SOP instance, or one frame of it: where it lies and its attributes, as far as they were read.

    Attributes:
        frame: 0 for a whole instance; the number, from 1, of a frame of an enhanced multi-frame one, whose attributes
            are then those of its functional groups as well.
    """

    path: Path
    attributes: Attributes = field(repr=False)
    reader: Reader | None = field(default=None, repr=False, compare=False)
    frame: int = 0

    def get(self, keyword: str, default: Any = None) -> Any:
        """The attribute's value, a tuple where it has several, `default` where it is absent or empty."""
        values = self.attributes.get(keyword, ())
        if not values:
            return default
        return values[0] if len(values) == 1 else values

    def text(self, keyword: str) -> str:
        """The attribute as text, values joined by a backslash as in DICOM; empty where absent."""
        return "\\".join(str(value) for value in self.attributes.get(keyword, ()))

    @property
    def orientation(self) -> Orientation:
        """The letters at its right edge and at its lower edge, such as `("L", "P")`; empty where nothing tells."""
        return orientation_of(
            self.attributes.get("ImageOrientationPatient", ()), self.attributes.get("PatientOrientation", ())
        )

    @property
    def SOPInstanceUID(self) -> str:  # noqa: N802 - DICOM's own keyword (PS3.6)
        return self.text("SOPInstanceUID")

    @property
    def SOPClassUID(self) -> str:  # noqa: N802
        return self.text("SOPClassUID")

    def dataset(self) -> Dataset:
        """The header as a pydicom Dataset (PixelData left out)."""
        return _reader(self.reader).dataset(self)

    def pixels(self) -> np.ndarray:
        """Decoded stored values, modality LUT not applied: `(rows, columns)`, `(frames, rows, columns)` or with a
        trailing axis of 3 samples. Raises PixelsError."""
        return _reader(self.reader).pixels(self)


@dataclass(frozen=True)
class Series:
    """The instances of one series, in the order of their position in the patient where they have one."""

    instances: tuple[Instance, ...]
    reader: Reader | None = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> Instance:
        return self.instances[0]

    def __len__(self) -> int:
        return len(self.instances)

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.instances)

    @property
    def SeriesInstanceUID(self) -> str:  # noqa: N802
        return self.first.text("SeriesInstanceUID")

    @property
    def StudyInstanceUID(self) -> str:  # noqa: N802
        return self.first.text("StudyInstanceUID")

    @cached_property
    def planes(self) -> tuple[Instance, ...]:
        """The single pictures in order of their place: the instances, and of enhanced multi-frame ones the frames."""
        if self.reader is None:
            return self.instances
        frames = tuple(frame for instance in self.instances for frame in self.reader.frames(instance))
        return self.reader.in_order(frames) if any(each.frame for each in frames) else self.instances

    @cached_property
    def _distinct(self) -> dict[str, tuple[tuple[Value, ...], ...]]:
        seen: dict[str, dict[tuple[Value, ...], None]] = {}
        for instance in self.instances:
            for keyword, values in instance.attributes.items():
                seen.setdefault(keyword, {})[values] = None
        return {keyword: tuple(each) for keyword, each in seen.items()}

    def distinct(self, keyword: str) -> tuple[tuple[Value, ...], ...]:
        """The different values the attribute takes over all instances, in order of appearance."""
        return self._distinct.get(keyword, ())

    def volume(self, irregular: str = "resample") -> sitk.Image:
        """The series as one 3-D SimpleITK image: modality units (HU for CT), float32, LPS, mm.

        Args:
            irregular: what becomes of a tilted or unevenly spaced series: `resample` it onto a regular grid, or
                `refuse` it.

        Raises GeometryError, which says what is irregular and what can be done: see `split`. Raises PixelsError.
        """
        return _reader(self.reader).volume(self, irregular)

    def split(self, *keywords: str) -> tuple[Series, ...]:
        """The series in parts, in order of appearance.

        Args:
            keywords: attributes whose values are the same within a part. None: parts that can make a volume each, of
                one size and orientation and with no two images at the same place.
        """
        return _reader(self.reader).split(self, keywords)

    def nifti(self, path: Path, irregular: str = "resample") -> Path:
        """Writes `volume()` as NIfTI (RAS, as NIfTI has it) to `path` and returns it."""
        return _reader(self.reader).nifti(self, path, irregular)

    def images(self) -> Iterator[Instance]:
        """The single images, for CR, DX, mammography and ultrasound: those that have pixels."""
        return (instance for instance in self.instances if instance.get("Rows"))


@dataclass(frozen=True)
class Study:
    """The series of one study; `study["flair"]` is the series a rule's `inputs` named so."""

    series: tuple[Series, ...]
    inputs: Mapping[str, Series] = field(default_factory=dict)

    @property
    def StudyInstanceUID(self) -> str:  # noqa: N802
        return self.series[0].StudyInstanceUID

    @property
    def first(self) -> Instance:
        return self.series[0].first

    def __getitem__(self, name: str) -> Series:
        return self.inputs[name]

    def __contains__(self, name: object) -> bool:
        return name in self.inputs

    def __iter__(self) -> Iterator[Series]:
        return iter(self.series)

    def __len__(self) -> int:
        return len(self.series)


def _reader(reader: Reader | None) -> Reader:
    if reader is None:
        raise RuntimeError("this series was made without its files: only attributes can be read")
    return reader
