"""Measurement groups of a report: whole images, planar and volumetric regions (TID 1501, 1410, 1411, 1419, 4019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom import sr as hd

from radnode.dicom.encode import common
from radnode.dicom.encode.common import Context
from radnode.dicom.geometry import nearest
from radnode.dicom.masks import mask_ml
from radnode.domain.codes import PRIVATE_SCHEME, Code
from radnode.domain.errors import ResultError
from radnode.domain.findings import Finding, Location, Measurement, MeasurementReport, Region
from radnode.domain.results import Segment
from radnode.domain.study import Instance

_PRESENT = hd.CodedConcept("52101004", "SCT", "Present")
_ABSENT = hd.CodedConcept("272519000", "SCT", "Absent")  # both as in PS3.16 CID 240
_PROBABILITY = hd.CodedConcept("PROBABILITY", PRIVATE_SCHEME, "Probability")
_SHARE = hd.CodedConcept("{0:1}", "UCUM", "range: 0:1")
UNITS = {
    "1": "no units", "%": "percent", "mm": "millimeter", "cm": "centimeter", "mm2": "square millimeter",
    "cm2": "square centimeter", "mm3": "cubic millimeter", "cm3": "cubic centimeter", "mL": "milliliter",
    "s": "second", "ms": "millisecond", "deg": "degree", "[hnsf'U]": "Hounsfield unit", "{ratio}": "ratio",
    "{0:1}": "range: 0:1",
}  # fmt: skip
"""UCUM code -> its meaning (PS3.16 CID 82); other units are their own meaning."""
_GRAPHICS = {"point": "POINT", "line": "POLYLINE", "polygon": "POLYLINE", "circle": "CIRCLE", "ellipse": "ELLIPSE"}
_PIXEL_CENTRE = 0.5
"""SCOORD counts from the corner of the first pixel (PS3.3 C.18.6.1.2), Location from its centre."""


def measured(result: MeasurementReport, context: Context, document: str) -> Any:
    """TID 1501: of the images as a whole."""
    return hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(result.description or "measurements", context.uid(document, "measurements")),
        measurements=_measurements(result.measurements, context),
        source_images=_source_images(context),
        **_common(result.site, context),
    )


def found(finding: Finding, number: int, context: Context, document: str) -> Any:
    """TID 1501: one finding, present or absent."""
    return hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(Code.named(finding.name).meaning, context.uid(document, "finding", number)),
        source_images=_source_images(context),
        measurements=_probabilities([finding]),
        qualitative_evaluations=[_evaluation(finding)],
        **_common(finding.site, context),
    )


def of_region(region: Region, context: Context) -> Any:
    """TID 1411 for a segment, TID 1410 for a location; for a segment without a voxel TID 1501, which has no region."""
    segment = region.where if isinstance(region.where, Segment) else None
    name = Code.named(region.name or (segment.name if segment else ""))
    text = region.tracking or (segment.tracking if segment else "")
    uid = context.links.tracking_uid(segment or region, text)
    content = {
        "tracking_identifier": _tracking(text or name.meaning, uid),
        "finding_type": concept(name),
        "measurements": _measurements(region.measurements, context, region.findings),
        "qualitative_evaluations": [_evaluation(each) for each in region.findings] or None,
        **_common(region.site or (segment.site if segment else None), context),
    }
    if segment is None:
        assert isinstance(region.where, Location)
        return hd.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=_drawn(region.where, context), **content
        )
    place = context.links.place(segment)
    if place is None:
        return hd.MeasurementsAndQualitativeEvaluations(source_images=_source_images(context), **content)
    reference = hd.ReferencedSegment(
        place.reference.sop_class_uid,
        place.reference.sop_instance_uid,
        place.number,
        source_series=hd.SourceSeriesForSegmentation(place.series_uid),
    )
    return hd.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=reference, **content)


def _common(site: Code | None, context: Context) -> dict[str, Any]:
    return {
        "algorithm_id": _algorithm(context),
        "finding_sites": [hd.FindingSite(concept(site))] if site else None,
    }


def _tracking(text: str, uid: str) -> hd.TrackingIdentifier:
    return hd.TrackingIdentifier(uid=uid, identifier=common.clean(text))


def _algorithm(context: Context) -> hd.AlgorithmIdentification:
    """TID 4019."""
    assignment = context.assignment
    return hd.AlgorithmIdentification(
        name=assignment.app,
        version=assignment.app_version,
        parameters=context.parameters() or None,
        manufacturer=common.MANUFACTURER,
    )


def _source_images(context: Context) -> list[hd.SourceImageForMeasurementGroup] | None:
    images = context.instances if len(context.instances) <= common.MOST_REFERENCES else ()
    named = [
        hd.SourceImageForMeasurementGroup(each.SOPClassUID, each.SOPInstanceUID) for each in images if each.get("Rows")
    ]
    return named or None


def _drawn(location: Location, context: Context) -> hd.ImageRegion:
    image, points = location.image, [tuple(map(float, each)) for each in location.points]
    if image is None:
        image, points = _marked(location, context)
    if location.shape == "polygon" and points[0] != points[-1]:
        points.append(points[0])
    source = hd.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID, [image.frame] if image.frame else None)
    return hd.ImageRegion(_GRAPHICS[location.shape], np.array(points)[:, :2] + _PIXEL_CENTRE, source)


def _marked(location: Location, context: Context) -> tuple[Instance, list[tuple[float, ...]]]:
    """A point in the patient, on the slice that lies nearest."""
    series = context.only_series(location.series)
    plane, column, row = nearest(series, location.points[0])
    rows, columns = int(plane.get("Rows")), int(plane.get("Columns"))
    if not (-_PIXEL_CENTRE <= column <= columns - _PIXEL_CENTRE and -_PIXEL_CENTRE <= row <= rows - _PIXEL_CENTRE):
        raise ResultError(f"location {location.points[0]} lies outside the series' images", remedy="give LPS mm")
    return plane, [(column, row)]


def _measurements(
    measurements: Sequence[Measurement], context: Context, findings: Sequence[Finding] = ()
) -> list[hd.Measurement] | None:
    return [*(_number(each, context) for each in measurements), *(_probabilities(findings) or ())] or None


def _number(measurement: Measurement, context: Context) -> hd.Measurement:
    value, mask = measurement.value, measurement.mask
    if value is None:
        series = measurement.series
        if isinstance(mask, Segment):
            mask = mask.mask
        value = mask_ml(mask, None if hasattr(mask, "GetSpacing") else context.only_series(series))
    return hd.Measurement(concept(Code.named(measurement.name)), value, concept(unit_of(measurement.unit)))


def unit_of(unit: Code | str) -> Code:
    """A UCUM unit by its code."""
    return unit if isinstance(unit, Code) else Code(unit, "UCUM", UNITS.get(unit, unit))


def _probabilities(findings: Sequence[Finding]) -> list[hd.Measurement] | None:
    given = [each.probability for each in findings if each.probability is not None]
    return [hd.Measurement(_PROBABILITY, float(each), _SHARE) for each in given] or None


def _evaluation(finding: Finding) -> hd.QualitativeEvaluation:
    name = concept(Code.named(finding.name))
    return hd.QualitativeEvaluation(name, _PRESENT if finding.present else _ABSENT)


def concept(code: Code) -> hd.CodedConcept:
    return hd.CodedConcept(code.value, code.scheme, code.meaning)
