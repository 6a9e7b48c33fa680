"""Parametric Map: a number per voxel, on the source's own slices (PS3.3 A.75, C.8.32)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ParametricMapStorage

from radnode.dicom.encode import anatomy, common
from radnode.dicom.encode.common import Context, Encoded
from radnode.dicom.encode.multiframe import Frames
from radnode.dicom.encode.sr_groups import unit_of
from radnode.dicom.masks import values_on_source
from radnode.domain.codes import Code
from radnode.domain.errors import ResultError
from radnode.domain.results import ParametricMap

SERIES_NUMBER = 9040
DERIVATION = ("110001", "DCM", "Image Processing")
_FRAME_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
_QUANTITY = ("246205007", "SCT", "Quantity")

Values = NDArray[np.float32]


def encode(result: ParametricMap, context: Context) -> Iterator[Encoded]:
    series = context.only_series(result.series)
    values = values_on_source(series, result.values)
    if not np.isfinite(values).all():
        raise ResultError("a parametric map has values that are not finite", remedy="put a number in their place")
    frames = Frames(series, DERIVATION)
    if not frames.placed:
        raise ResultError("a parametric map of images that have no place in the patient", remedy="yield captures")
    modality = series.first.text("Modality")
    ds = context.begin("pm", ParametricMapStorage, modality, SERIES_NUMBER, common.clean(result.description))
    ds.ImageType = _FRAME_TYPE
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "MAP", common.clean(result.description), ""
    anatomy.add_body_part(ds, context)
    anatomy.add_side(ds, context)
    ds.CodingSchemeIdentificationSequence = Sequence([common.private_scheme()])
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "NO", "NO"
    ds.ContentQualification, ds.PresentationLUTShape = "RESEARCH", "IDENTITY"
    common.add_compression(ds, series.planes)
    ds.AcquisitionContextSequence = Sequence()
    for index in range(len(values)):
        frames.add(index)
    frames.share(_groups(result, values))
    frames.finish(ds, context)
    _add_values(ds, values)
    yield context.finish("pm", ds)


def _add_values(ds: Dataset, values: Values) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.BitsAllocated = 1, "MONOCHROME2", 32
    ds.Rows, ds.Columns = values.shape[1:]
    ds.FloatPixelData = values.astype("<f4").tobytes()


def _groups(result: ParametricMap, values: Values) -> Dataset:
    """What all frames share: their type, a window over all values, and what the values mean."""
    low, high = float(values.min()), float(values.max())
    group, kind, identity, window = Dataset(), Dataset(), Dataset(), Dataset()
    kind.FrameType = _FRAME_TYPE
    group.ParametricMapFrameTypeSequence = Sequence([kind])
    identity.RescaleIntercept, identity.RescaleSlope, identity.RescaleType = "0", "1", "US"
    group.PixelValueTransformationSequence = Sequence([identity])
    window.WindowCenter, window.WindowWidth = common.number((low + high) / 2), common.number(max(high - low, 1e-6))
    window.VOILUTFunction = "LINEAR_EXACT"
    group.FrameVOILUTSequence = Sequence([window])
    group.RealWorldValueMappingSequence = Sequence([_meaning(result, low, high)])
    return group


def _meaning(result: ParametricMap, low: float, high: float) -> Dataset:
    name = Code.named(result.quantity)
    item, quantity = Dataset(), Dataset()
    item.LUTExplanation, item.LUTLabel = common.clean(name.meaning), common.clean(name.value, 16)
    item.DoubleFloatRealWorldValueFirstValueMapped, item.DoubleFloatRealWorldValueLastValueMapped = low, high
    item.RealWorldValueSlope, item.RealWorldValueIntercept = 1.0, 0.0
    item.MeasurementUnitsCodeSequence = Sequence([common.concept(unit_of(result.unit))])
    quantity.ValueType = "CODE"
    quantity.ConceptNameCodeSequence = Sequence([common.code(*_QUANTITY)])
    quantity.ConceptCodeSequence = Sequence([common.concept(name)])
    item.QuantityDefinitionSequence = Sequence([quantity])
    return item
