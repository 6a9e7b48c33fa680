"""Comprehensive 3D SR with the content of TID 1500 Measurement Report (PS3.3 A.35.13, PS3.16 TID 1500, 1501, 4019).

The content tree is made by highdicom's templates. The document around it is made here: highdicom's own document class
needs attributes that real images lack, refuses real patients' values, and writes the clock's time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from highdicom import sr as hd
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from radnode.dicom.encode import common
from radnode.dicom.encode.common import Context, Encoded
from radnode.dicom.volume import mask_ml
from radnode.domain.errors import ResultError
from radnode.domain.results import PRIVATE_SCHEME, Code, Finding, Measurement, MeasurementReport
from radnode.domain.study import Instance

SERIES_NUMBER = 9020
_PRESENT = hd.CodedConcept("52101004", "SCT", "Present")
_ABSENT = hd.CodedConcept("2667000", "SCT", "Absent")
_PROBABILITY = hd.CodedConcept("PROBABILITY", PRIVATE_SCHEME, "Probability")
_SHARE = hd.CodedConcept("{0:1}", "UCUM", "range: 0:1")
_UNITS = {"1": "no units", "mL": "milliliter", "mm": "millimeter", "%": "percent", "[hnsf'U]": "Hounsfield unit"}
_PROCEDURES = {
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    "US": Code("16310003", "SCT", "Ultrasonography"),
    "MG": Code("71651007", "SCT", "Mammography"),
    "PT": Code("82918005", "SCT", "Positron emission tomography"),
}
_RADIOGRAPHY = Code("363680008", "SCT", "Radiographic imaging procedure")


def encode(result: MeasurementReport, context: Context) -> Iterator[Encoded]:
    ds = context.begin(
        "sr", Comprehensive3DSRStorage, "SR", SERIES_NUMBER, common.clean(result.description or "measurements")
    )
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    ds.PerformedProcedureCodeSequence = Sequence()
    ds.CodingSchemeIdentificationSequence = Sequence([_private_scheme()])
    ds.CurrentRequestedProcedureEvidenceSequence = Sequence([_evidence(context)])
    try:
        content = _content(result, context, ds.SOPInstanceUID)
    except (ValueError, TypeError) as error:
        raise ResultError(f"app {context.assignment.app!r}: its report cannot be written: {error}") from error
    for element in content[0]:
        ds.add(element)
    yield context.finish("sr", ds)


def _content(result: MeasurementReport, context: Context, document: str) -> hd.MeasurementReport:
    groups = []
    if result.measurements or not result.findings:
        groups.append(_measured(result, context, document))
    groups += [_found(each, number, context, document) for number, each in enumerate(result.findings, 1)]
    if result.comment:
        comment = hd.TextContentItem(codes.DCM.Comment, result.comment, hd.RelationshipTypeValues.CONTAINS)
        groups[0][0].ContentSequence.append(comment)
    return hd.MeasurementReport(
        observation_context=hd.ObservationContext(observer_device_context=_observer(context)),
        procedure_reported=_concept(result.procedure or _procedure(context)),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=hd.LanguageOfContentItemAndDescendants(
            hd.CodedConcept("en-US", "RFC5646", "English-United States")
        ),
    )


def _observer(context: Context) -> hd.ObserverContext:
    assignment = context.assignment
    return hd.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.DeviceObserverIdentifyingAttributes(
            uid=context.device_uid(),
            name=assignment.station,
            manufacturer_name=common.MANUFACTURER,
            model_name=assignment.app,
            serial_number=assignment.site_uid,
        ),
    )


def _measured(result: MeasurementReport, context: Context, document: str) -> Any:
    return _group(
        context,
        identifier=result.description or "measurements",
        uid=context.uid(document, "measurements"),
        site=result.site,
        measurements=[_number(each, context) for each in result.measurements] or None,
    )


def _found(finding: Finding, number: int, context: Context, document: str) -> Any:
    name = Code.named(finding.name)
    probability = None
    if finding.probability is not None:
        probability = [hd.Measurement(_PROBABILITY, float(finding.probability), _SHARE)]
    return _group(
        context,
        identifier=name.meaning,
        uid=context.uid(document, "finding", number),
        site=finding.site,
        measurements=probability,
        qualitative_evaluations=[hd.QualitativeEvaluation(_concept(name), _PRESENT if finding.present else _ABSENT)],
    )


def _group(context: Context, *, identifier: str, uid: str, site: Code | None, **content: Any) -> Any:
    """One measurement group (TID 1501) with its algorithm and its source images."""
    images = context.instances if len(context.instances) <= common.MOST_REFERENCES else ()
    return hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(uid=uid, identifier=common.clean(identifier)),
        algorithm_id=_algorithm(context),
        finding_sites=[hd.FindingSite(_concept(site))] if site else None,
        source_images=[_source_image(each) for each in images if each.get("Rows")] or None,
        **content,
    )


def _source_image(instance: Instance) -> hd.SourceImageForMeasurementGroup:
    return hd.SourceImageForMeasurementGroup(instance.SOPClassUID, instance.SOPInstanceUID)


def _algorithm(context: Context) -> hd.AlgorithmIdentification:
    assignment = context.assignment
    return hd.AlgorithmIdentification(
        name=assignment.app,
        version=assignment.app_version,
        parameters=[f"{name}={value}" for name, value in sorted(assignment.options.items())] or None,
        manufacturer=common.MANUFACTURER,
    )


def _number(measurement: Measurement, context: Context) -> hd.Measurement:
    value = measurement.value
    if value is None:
        array = not hasattr(measurement.mask, "GetSpacing")
        value = mask_ml(measurement.mask, context.only_series(measurement.series) if array else None)
    unit = measurement.unit
    if isinstance(unit, str):
        unit = Code(unit, "UCUM", _UNITS.get(unit, unit))
    return hd.Measurement(_concept(Code.named(measurement.name)), value, _concept(unit))


def _concept(code: Code) -> hd.CodedConcept:
    return hd.CodedConcept(code.value, code.scheme, code.meaning)


def _procedure(context: Context) -> Code:
    """The study's own procedure code where it has a usable one."""
    for item in context.source.first.dataset().get("ProcedureCodeSequence") or ():
        parts = [str(item.get(name, "")) for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")]
        if all(part and part.isascii() for part in parts):
            return Code(parts[0][:16], parts[1][:16], parts[2][:64])
    return _PROCEDURES.get(context.source.first.text("Modality"), _RADIOGRAPHY)


def _evidence(context: Context) -> Dataset:
    """Every instance of the job's input, by study and series (PS3.3 C.17.2.3)."""
    study = Dataset()
    study.StudyInstanceUID = context.source.StudyInstanceUID
    study.ReferencedSeriesSequence = Sequence()
    for series in context.all_series:
        item = Dataset()
        item.SeriesInstanceUID = series.SeriesInstanceUID
        item.ReferencedSOPSequence = Sequence(common.image_reference(each) for each in series)
        study.ReferencedSeriesSequence.append(item)
    return study


def _private_scheme() -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeName = "names given by radnode apps"
    item.CodingSchemeResponsibleOrganization = common.MANUFACTURER
    return item
