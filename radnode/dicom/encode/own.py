"""Our own look at an object, for what dciodvfy does not see: that it is whole, and refers to nothing unknown."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.uid import UID

IDENTIFYING = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
TYPE_1 = (*IDENTIFYING, "Modality", "Manufacturer", "ContentDate", "ContentTime", "SeriesNumber", "InstanceNumber")
"""What every object made here has, whatever its class asks for."""
_PIXEL_DATA = 0x7FE00010
_EVIDENCE = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")


def own_problems(ds: Dataset, source: Dataset) -> list[str]:
    """What is wrong with an object read with its long values deferred; `source` is the header it was made from."""
    return [*_missing(ds), *_uids(ds, source), *_pixels(ds), *_frames(ds), *_references(ds)]


def _missing(ds: Dataset) -> Iterator[str]:
    for keyword in TYPE_1:
        if ds.get(keyword) in (None, ""):
            yield f"{keyword} is missing or empty"


def _uids(ds: Dataset, source: Dataset) -> Iterator[str]:
    for keyword in IDENTIFYING:
        uid = str(ds.get(keyword) or "")
        if uid and not UID(uid).is_valid:
            yield f"{keyword} is no UID"
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        if ds.get(keyword) and ds.get(keyword) == source.get(keyword):
            yield f"{keyword} is the source's own"


def _pixels(ds: Dataset) -> Iterator[str]:
    """As long as rows, columns, samples, bits and frames say; compressed pixels are not measured (PS3.5 8.1.1)."""
    if _PIXEL_DATA not in ds or ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    bits = int(ds.NumberOfFrames if "NumberOfFrames" in ds else 1)
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated"):
        bits *= int(ds.get(keyword) or 0)
    wanted = (bits + 7) // 8
    wanted += wanted % 2
    item = ds.get_item(_PIXEL_DATA)
    length = item.length if hasattr(item, "length") else len(item.value)
    if length != wanted:
        yield f"PixelData has {length} bytes, not {wanted}"


def _frames(ds: Dataset) -> Iterator[str]:
    if "PerFrameFunctionalGroupsSequence" in ds:
        groups = len(ds.PerFrameFunctionalGroupsSequence)
        if groups != int(ds.get("NumberOfFrames") or 0):
            yield f"{ds.get('NumberOfFrames')} frames have functional groups for {groups}"


def _references(ds: Dataset) -> Iterator[str]:
    """A document lists in its evidence all that its content refers to (PS3.3 C.17.2.3)."""
    if "ContentSequence" not in ds:
        return
    listed = {uid for keyword in _EVIDENCE for item in ds.get(keyword) or () for uid in _referred(item)}
    for item in ds.ContentSequence:
        for uid in _referred(item):
            if uid not in listed:
                yield f"content refers to instance {uid}, which is not among the evidence"


def _referred(item: Dataset) -> Iterator[str]:
    for element in item.iterall():
        if element.keyword == "ReferencedSOPInstanceUID":
            yield str(element.value)
