"""Segmentation: masks on the source's own slices (PS3.3 A.51, C.8.20).

Made here, not by highdicom: its class needs attributes that real images lack, gives all slices of an uneven series the
thickness of the first, and writes the clock's time. Slices without anything of a segment have no frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, SegmentationStorage

from radnode.dicom.encode import anatomy, common
from radnode.dicom.encode.common import Context, Encoded
from radnode.dicom.encode.links import Place, Reference
from radnode.dicom.encode.multiframe import Frames
from radnode.dicom.masks import mask_on_source, shares_on_source
from radnode.domain.codes import Code
from radnode.domain.errors import ResultError
from radnode.domain.results import Segment, Segmentation, color_of
from radnode.domain.study import Series

SERIES_NUMBER = 9010
LabelMapSegmentationStorage = UID("1.2.840.10008.5.1.4.1.1.66.7")
SOP_CLASSES: dict[str, UID] = {
    "BINARY": SegmentationStorage,
    "FRACTIONAL": SegmentationStorage,
    "LABELMAP": LabelMapSegmentationStorage,
}
DERIVATION = ("113076", "DCM", "Segmentation")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
MOST_SEGMENTS = 255
MOST_SHARE = 255
"""Stored value of a share of 1."""

Masks = list[tuple[Segment, NDArray[Any]]]


def encode(result: Segmentation, context: Context) -> Iterator[Encoded]:
    series = context.only_series(result.series)
    masks = _filled(result, series, context)
    if not masks:
        return
    if len(masks) > MOST_SEGMENTS:
        raise ResultError(f"{len(masks)} segments are too many", remedy=f"at most {MOST_SEGMENTS}")
    ds = context.begin("seg", SOP_CLASSES[result.kind], "SEG", SERIES_NUMBER, common.clean(result.description))
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "SEGMENTATION", common.clean(result.description), ""
    anatomy.add_body_part(ds, context)  # no side: multi-frame classes have that in their frames
    ds.CodingSchemeIdentificationSequence = Sequence([common.private_scheme()])
    ds.SegmentationType = result.kind
    frames = Frames(series, DERIVATION, segmented=result.kind != "LABELMAP")
    common.add_compression(ds, series.planes)
    _WRITERS[result.kind](ds, masks, frames)
    frames.finish(ds, context)
    reference = Reference(ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID)
    colors = {segment: color_of(segment, number) for number, segment in enumerate(result.segments)}
    items = []
    for number, (segment, _) in enumerate(masks, 1):
        items.append(_segment(segment, number, colors[segment], context))
        context.links.put(segment, Place(reference, number, series.SeriesInstanceUID))
    ds.SegmentSequence = Sequence(items)
    yield context.finish("seg", ds)


def _filled(result: Segmentation, series: Series, context: Context) -> Masks:
    masks: Masks = []
    for segment in result.segments:
        fractional = result.kind == "FRACTIONAL"
        mask = shares_on_source(series, segment.mask) if fractional else mask_on_source(series, segment.mask)
        if mask.any():
            masks.append((segment, mask))
        else:
            context.links.put(segment, None)
    return masks


def _binary(ds: Dataset, masks: Masks, frames: Frames) -> None:
    """One bit per pixel, without a gap between frames (PS3.5 8.1.1)."""
    planes = []
    for number, (_, mask) in enumerate(masks, 1):
        for index, plane in enumerate(mask):
            if plane.any():
                frames.add(index, number)
                planes.append(plane)
    _add_pixels(ds, np.packbits(np.stack(planes), axis=None, bitorder="little"), planes[0].shape, bits=1)
    ds.SegmentsOverlap = "YES" if _overlapping(masks) else "NO"


def _fractional(ds: Dataset, masks: Masks, frames: Frames) -> None:
    planes = []
    for number, (_, mask) in enumerate(masks, 1):
        for index, plane in enumerate(mask):
            stored = np.rint(plane * MOST_SHARE).astype(np.uint8)
            if stored.any():
                frames.add(index, number)
                planes.append(stored)
    if not planes:
        raise ResultError(f"all shares are below {0.5 / MOST_SHARE:.4f}", remedy="leave such a segment out")
    ds.SegmentationFractionalType, ds.MaximumFractionalValue = "PROBABILITY", MOST_SHARE
    _add_pixels(ds, np.stack(planes), planes[0].shape)


def _labelmap(ds: Dataset, masks: Masks, frames: Frames) -> None:
    if _overlapping(masks):
        raise ResultError("segments of a LABELMAP overlap", remedy='take them apart, or yield kind="BINARY"')
    labels = np.zeros(masks[0][1].shape, np.uint8)
    for number, (_, mask) in enumerate(masks, 1):
        labels[mask] = number
    used = [index for index, plane in enumerate(labels) if plane.any()]
    for index in used:
        frames.add(index)
    ds.add_new("PixelPaddingValue", "US", 0)
    ds.SegmentsOverlap = "NO"
    _add_pixels(ds, labels[used], labels.shape[1:])


_WRITERS = {"BINARY": _binary, "FRACTIONAL": _fractional, "LABELMAP": _labelmap}


def _overlapping(masks: Masks) -> bool:
    seen = np.zeros(masks[0][1].shape, np.bool_)
    for _, mask in masks:
        if (seen & mask).any():
            return True
        seen |= mask
    return False


def _add_pixels(ds: Dataset, stored: NDArray[np.uint8], shape: tuple[int, ...], bits: int = 8) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns = shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PatientOrientation = ""  # Type 2C: sources without orientation have to have it (PS3.3 C.7.6.1)
    data = stored.tobytes()
    ds.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))


def _segment(segment: Segment, number: int, color: tuple[int, int, int], context: Context) -> Dataset:
    name = Code.named(segment.name)
    item = Dataset()
    item.SegmentNumber = number
    item.SegmentLabel = common.clean(segment.tracking or name.meaning)
    item.SegmentAlgorithmType = "AUTOMATIC"
    item.SegmentAlgorithmName = common.clean(context.assignment.app)
    item.SegmentationAlgorithmIdentificationSequence = Sequence([common.algorithm(context)])
    item.SegmentedPropertyCategoryCodeSequence = Sequence([common.concept(segment.category or ABNORMAL)])
    item.SegmentedPropertyTypeCodeSequence = Sequence([common.concept(name)])
    if segment.site:
        item.AnatomicRegionSequence = Sequence([common.concept(segment.site)])
    item.RecommendedDisplayCIELabValue = list(CIELabColor.from_rgb(*color).value)
    item.TrackingID = common.clean(segment.tracking or name.meaning)
    item.TrackingUID = context.links.tracking_uid(segment, segment.tracking)
    return item
