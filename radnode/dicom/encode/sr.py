"""Comprehensive 3D SR with the content of TID 1500 Measurement Report (PS3.3 A.35.13, PS3.16 TID 1500).

The content tree is made by highdicom's templates. The document around it is made here: highdicom's own document class
needs attributes that real images lack, refuses real patients' values, and writes the clock's time. Coordinates are
those of images (SCOORD), never of the patient: so the same content is a Comprehensive SR, too, for peers that take
only that (`reissue.as_comprehensive`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from highdicom import sr as hd
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from radnode.dicom.encode import common, evidence, words
from radnode.dicom.encode.common import Context, Encoded
from radnode.dicom.encode.sr_groups import concept, found, measured, of_region
from radnode.domain.codes import Code
from radnode.domain.errors import ResultError
from radnode.domain.findings import MeasurementReport

SERIES_NUMBER = 9020
_PROCEDURES = {
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    "US": Code("16310003", "SCT", "Diagnostic ultrasonography"),
    "MG": Code("71651007", "SCT", "Mammography"),
    "PT": Code("82918005", "SCT", "Positron emission tomography"),
}
_RADIOGRAPHY = Code("363680008", "SCT", "Radiographic imaging procedure")


def encode(result: MeasurementReport, context: Context) -> Iterator[Encoded]:
    ds = context.begin(
        "sr", Comprehensive3DSRStorage, "SR", SERIES_NUMBER, common.clean(result.description or "measurements")
    )
    missing = context.assignment.label.missing
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    if missing:
        ds.CompletionFlag, ds.CompletionFlagDescription = "PARTIAL", words.made_without(missing)
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    ds.PerformedProcedureCodeSequence = Sequence()
    ds.CodingSchemeIdentificationSequence = Sequence([common.private_scheme()])
    evidence.add(ds, context)
    evidence.add_predecessors(ds, context)
    try:
        content = _content(result, context, ds.SOPInstanceUID)
    except (ValueError, TypeError) as error:
        raise ResultError(f"app {context.assignment.app!r}: its report cannot be written: {error}") from error
    for element in content[0]:
        ds.add(element)
    yield context.finish("sr", ds)


def _content(result: MeasurementReport, context: Context, document: str) -> hd.MeasurementReport:
    groups: list[Any] = []
    if result.measurements or not (result.findings or result.regions):
        groups.append(measured(result, context, document))
    groups += [found(each, number, context, document) for number, each in enumerate(result.findings, 1)]
    groups += [of_region(each, context) for each in result.regions]
    missing = context.assignment.label.missing
    if remarks := "\n".join(filter(None, (words.made_without(missing) if missing else "", result.comment))):
        comment = hd.TextContentItem(codes.DCM.Comment, remarks, hd.RelationshipTypeValues.CONTAINS)
        groups[0][0].ContentSequence.append(comment)
    return hd.MeasurementReport(
        observation_context=hd.ObservationContext(observer_device_context=observer(context)),
        procedure_reported=concept(result.procedure or _procedure(context)),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=hd.LanguageOfContentItemAndDescendants(
            hd.CodedConcept("en-US", "RFC5646", "English-United States")
        ),
    )


def observer(context: Context) -> hd.ObserverContext:
    """The app on this installation, as a device (TID 1004)."""
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


def _procedure(context: Context) -> Code:
    """The study's own procedure code where it has a usable one."""
    for item in context.header.get("ProcedureCodeSequence") or ():
        parts = [str(item.get(name, "")) for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")]
        if all(part and part.isascii() for part in parts):
            return Code(parts[0][:16], parts[1][:16], parts[2][:64])
    return _PROCEDURES.get(context.source.first.text("Modality"), _RADIOGRAPHY)
