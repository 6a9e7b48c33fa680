"""Key Object Selection: which images to look at first (PS3.3 A.35.4, PS3.16 TID 2010)."""

from __future__ import annotations

from collections.abc import Iterator

from highdicom import ko as hd
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import KeyObjectSelectionDocumentStorage

from radnode.dicom.encode import common, evidence
from radnode.dicom.encode.common import Context, Encoded
from radnode.dicom.encode.links import Reference
from radnode.dicom.encode.sr import observer
from radnode.dicom.encode.sr_groups import concept
from radnode.dicom.rejection import REASONS
from radnode.domain.codes import Code
from radnode.domain.errors import ResultError
from radnode.domain.results import KeyImages
from radnode.domain.study import Instance

SERIES_NUMBER = 9030
OF_INTEREST = Code("113000", "DCM", "Of Interest")


def encode(result: KeyImages, context: Context) -> Iterator[Encoded]:
    ds = context.begin("ko", KeyObjectSelectionDocumentStorage, "KO", SERIES_NUMBER, common.clean(result.description))
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    ds.CodingSchemeIdentificationSequence = Sequence([common.private_scheme()])
    title, chosen = result.title or OF_INTEREST, list(_chosen(result, context))
    if title.value in REASONS:
        raise ResultError(f"key images titled {title.meaning!r} would take images back", remedy="give another title")
    evidence.add_only(ds, context, chosen)
    content = hd.KeyObjectSelection(
        document_title=concept(title),
        referenced_objects=[_as_image(each) for each in chosen],
        observer_device_context=observer(context),
        description=result.note or None,
    )
    images = (each for each in content[0].ContentSequence if each.ValueType == "IMAGE")
    for item, each in zip(images, chosen, strict=True):
        if isinstance(each, Instance) and each.frame:
            item.ReferencedSOPSequence[0].ReferencedFrameNumber = each.frame
    for element in content[0]:
        ds.add(element)
    yield context.finish("ko", ds)


def _chosen(result: KeyImages, context: Context) -> Iterator[Instance | Reference]:
    for each in result.images:
        yield from [each] if isinstance(each, Instance) else context.links.of(each)


def _as_image(one: Instance | Reference) -> Dataset:
    item = Dataset()
    item.Rows = item.Columns = 1  # by these highdicom knows an image
    if isinstance(one, Instance):
        item.SOPClassUID, item.SOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    else:
        item.SOPClassUID, item.SOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    return item
