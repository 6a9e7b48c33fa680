"""What a document rests on: the source's instances and the job's other objects (PS3.3 C.17.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydicom import Dataset
from pydicom.sequence import Sequence

from radnode.dicom.encode import common
from radnode.dicom.encode.common import Context
from radnode.dicom.encode.links import Reference
from radnode.domain.study import Instance

_DOCUMENTS = "1.2.840.10008.5.1.4.1.1.88."
"""Structured reports, by the root of their classes."""


def add(ds: Dataset, context: Context) -> None:
    """Every instance of the job's input, and every object made of it so far, by study and series."""
    add_only(ds, context, (*context.instances, *context.links.made))


def add_only(ds: Dataset, context: Context, named: Iterable[Instance | Reference]) -> None:
    """These alone: a Key Object Selection lists what its content refers to, and no more (PS3.3 table C.17.6-2)."""
    by_series: dict[str, dict[str, Dataset]] = {}
    for each in named:
        if isinstance(each, Reference):
            by_series.setdefault(each.series_instance_uid, {})[each.sop_instance_uid] = each.item()
        else:
            item = common.sop_reference(each)
            by_series.setdefault(each.text("SeriesInstanceUID"), {})[each.SOPInstanceUID] = item
    ds.CurrentRequestedProcedureEvidenceSequence = Sequence(
        [_study(context.source.StudyInstanceUID, {uid: items.values() for uid, items in by_series.items()})]
    )


def add_predecessors(ds: Dataset, context: Context) -> None:
    """The documents this one takes the place of, where there are such (PS3.3 table C.17-2)."""
    by_series: dict[str, list[Dataset]] = {}
    for each in context.assignment.predecessors:
        if not each["SOPClassUID"].startswith(_DOCUMENTS):
            continue
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = each["SOPClassUID"], each["SOPInstanceUID"]
        by_series.setdefault(each["SeriesInstanceUID"], []).append(item)
    if by_series:
        ds.PredecessorDocumentsSequence = Sequence([_study(context.source.StudyInstanceUID, by_series)])


def predecessor(document: Dataset) -> Dataset:
    """Another document, as an item of Predecessor Documents Sequence."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = document.SOPClassUID, document.SOPInstanceUID
    return _study(str(document.StudyInstanceUID), {str(document.SeriesInstanceUID): [item]})


def _study(uid: str, by_series: Mapping[str, Iterable[Dataset]]) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = uid
    study.ReferencedSeriesSequence = Sequence()
    for series_uid, items in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedSOPSequence = Sequence(items)
        study.ReferencedSeriesSequence.append(item)
    return study
