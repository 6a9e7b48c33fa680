"""Frames that lie on the planes of a source series: functional groups and dimensions (PS3.3 C.7.6.16, C.7.6.17)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sequence import Sequence

from radnode.dicom.encode import common
from radnode.dicom.encode.common import Context
from radnode.dicom.geometry import UNEVEN
from radnode.domain.study import Instance, Series

_ORGANIZATION = "dimensions"
_PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


class Frames:
    """Collects the frames of one object, and says where they lie and which source image each was made of.

    Args:
        derivation: code of what was done with the source image (PS3.16 CID 7203).
        segmented: the frames are told apart by segment first.
    """

    def __init__(self, series: Series, derivation: tuple[str, str, str], *, segmented: bool = False) -> None:
        self.planes = series.planes
        self.placed = all(each.get(keyword) for each in self.planes for keyword in _PLACE)
        self.items: list[Dataset] = []
        self._derivation = derivation
        self._segmented = segmented
        self._spacing = _even_spacing(self.planes) if self.placed else None
        groups: tuple[Callable[[Instance], Dataset], ...] = (self._measures, _orientation) if self.placed else ()
        made = [(group, [group(each) for each in self.planes]) for group in groups]
        self._shared = [items[0] for _, items in made if all(each == items[0] for each in items)]
        self._varying = [items for _, items in made if any(each != items[0] for each in items)]

    def add(self, index: int, segment: int | None = None) -> None:
        """A frame on the plane of that index, which counts from 0."""
        plane = self.planes[index]
        item, content = Dataset(), Dataset()
        content.DimensionIndexValues = [segment, index + 1] if self._segmented else [index + 1]
        if self.placed:
            position = Dataset()
            position.ImagePositionPatient = common.numbers(plane, "ImagePositionPatient")
            item.PlanePositionSequence = Sequence([position])
        else:
            content.StackID, content.InStackPositionNumber = "1", index + 1
        item.FrameContentSequence = Sequence([content])
        if segment is not None:
            identification = Dataset()
            identification.ReferencedSegmentNumber = segment
            item.SegmentIdentificationSequence = Sequence([identification])
        item.DerivationImageSequence = Sequence([self._derived(plane)])
        for items in self._varying:
            item.update(items[index])
        self.items.append(item)

    def share(self, groups: Dataset) -> None:
        """Functional groups that hold for all frames."""
        self._shared.append(groups)

    def finish(self, ds: Dataset, context: Context) -> None:
        """Adds the frames to the object."""
        ds.NumberOfFrames = len(self.items)
        shared = Dataset()
        for each in self._shared:
            shared.update(each)
        ds.SharedFunctionalGroupsSequence = Sequence([shared])
        ds.PerFrameFunctionalGroupsSequence = Sequence(self.items)
        if self.placed:
            ds.FrameOfReferenceUID = self.planes[0].text("FrameOfReferenceUID")
            ds.PositionReferenceIndicator = common.clean(self.planes[0].text("PositionReferenceIndicator"))
        organization = Dataset()
        organization.DimensionOrganizationUID = context.uid(str(ds.SOPInstanceUID), _ORGANIZATION)
        ds.DimensionOrganizationSequence = Sequence([organization])
        pointers = [("SegmentIdentificationSequence", "ReferencedSegmentNumber")] if self._segmented else []
        pointers.append(
            ("PlanePositionSequence", "ImagePositionPatient")
            if self.placed
            else ("FrameContentSequence", "InStackPositionNumber")
        )
        ds.DimensionIndexSequence = Sequence(_pointer(organization, *each) for each in pointers)
        common.refer(ds, self.planes)

    def _derived(self, plane: Instance) -> Dataset:
        source = common.image_reference(plane, common.PURPOSE_SOURCE)
        source.SpatialLocationsPreserved = "YES"
        item = Dataset()
        item.DerivationCodeSequence = Sequence([common.code(*self._derivation)])
        item.SourceImageSequence = Sequence([source])
        return item

    def _measures(self, plane: Instance) -> Dataset:
        item, group = Dataset(), Dataset()
        item.PixelSpacing = common.numbers(plane, "PixelSpacing")
        thickness = plane.get("SliceThickness") or self._spacing
        if isinstance(thickness, int | float):
            item.SliceThickness = common.number(thickness)
        if self._spacing:
            item.SpacingBetweenSlices = common.number(self._spacing)
        group.PixelMeasuresSequence = Sequence([item])
        return group


def _orientation(plane: Instance) -> Dataset:
    item, group = Dataset(), Dataset()
    item.ImageOrientationPatient = common.numbers(plane, "ImageOrientationPatient")
    group.PlaneOrientationSequence = Sequence([item])
    return group


def _even_spacing(planes: tuple[Instance, ...]) -> float | None:
    """mm between slices along their normal; None where it is not one number."""
    row, column = np.split(np.array(planes[0].get("ImageOrientationPatient"), float), 2)
    along = np.array([each.get("ImagePositionPatient") for each in planes], float) @ np.cross(row, column)
    gaps = np.diff(along)
    mean = float(gaps.mean()) if len(gaps) else 0.0
    return mean if mean > 0 and np.abs(gaps - mean).max() <= UNEVEN * mean else None


def _pointer(organization: Dataset, group: str, attribute: str) -> Dataset:
    item = Dataset()
    item.DimensionOrganizationUID = organization.DimensionOrganizationUID
    item.DimensionIndexPointer, item.FunctionalGroupPointer = tag_for_keyword(attribute), tag_for_keyword(group)
    item.DimensionDescriptionLabel = attribute
    return item
