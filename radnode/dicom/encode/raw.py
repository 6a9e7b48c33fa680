"""A pydicom Dataset that an app made itself: everything but its content is radnode's, as with any other result."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID, ExplicitVRLittleEndian

from radnode.dicom.encode import common
from radnode.dicom.encode.common import Context, Encoded
from radnode.domain.errors import ResultError

SERIES_NUMBER = 9090
_NEEDED = ("SOPClassUID", "Modality")


def encode(result: Dataset, context: Context) -> Iterator[Encoded]:
    """Raises ResultError where the object says it is another patient's or study's."""
    for keyword in _NEEDED:
        if not result.get(keyword):
            raise ResultError(f"a data set without {keyword}", remedy=f"set {', '.join(_NEEDED)}")
    given = deepcopy(result)
    given.decode()
    given.pop("SpecificCharacterSet", None)
    _refuse_strangers(given, context)
    description = common.clean(str(given.get("SeriesDescription") or "data"))
    ds = context.begin("raw", given.SOPClassUID, given.Modality, SERIES_NUMBER, description)
    kept = {*ds.keys(), *(element.tag for element in given if keyword_for_tag(element.tag) in common.IDENTITY)}
    for element in given:
        if element.tag not in kept:
            ds.add(element)
    correct_ambiguous_vr(ds, True)
    yield context.finish("raw", ds, _transfer_syntax(result))


def _refuse_strangers(given: Dataset, context: Context) -> None:
    source = common.as_text(context.header)
    for keyword in common.IDENTITY:
        stated = str(given.get(keyword) or "").strip()
        if stated and stated != str(source.get(keyword) or "").strip():
            raise ResultError(
                f"app {context.assignment.app!r} yielded a data set whose {keyword} is not the source's",
                remedy="leave patient and study out: radnode copies them",
            )


def _transfer_syntax(result: Dataset) -> str:
    """Of pixels that are compressed already; all else is written as Explicit VR Little Endian."""
    syntax = UID(getattr(getattr(result, "file_meta", None), "TransferSyntaxUID", ""))
    return str(syntax if syntax.is_transfer_syntax and syntax.is_encapsulated else ExplicitVRLittleEndian)
