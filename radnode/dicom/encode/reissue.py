"""Kept objects in another form, without the app: under a corrected identity, or as a class that a peer takes.

The same objects, identity and key give the same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence as Items
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from radnode.dicom.encode import common, words
from radnode.dicom.encode.common import Encoded
from radnode.dicom.encode.evidence import predecessor
from radnode.domain.errors import ResultError

_NAMESPACE = uuid.UUID("1d0c9a3e-7f5b-5c43-8a55-3a5f3f2b9e60")
_UIDS = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]
_ENCAPSULATED = "1.2.840.10008.5.1.4.1.1.104."
_DOCUMENTS = (Comprehensive3DSRStorage, ComprehensiveSRStorage)
"""Classes that can name the documents they take the place of (PS3.3 C.17.2)."""


def corrected(source: Path, corrections: Dataset | None = None) -> Dataset:
    """The header whose patient and study objects are to have.

    Args:
        source: an instance of the source; the newest copy where it was sent again.
        corrections: attributes of patient and study that a peer knows better, a C-FIND answer, say.
    """
    header = dcmread(source, stop_before_pixels=True)
    if corrections is not None:
        header.decode()
        better = Dataset()
        better.update({element.tag: element for element in corrections})
        better.decode()
        for keyword in common.PATIENT + common.STUDY:
            if keyword in better:
                header[keyword] = better[keyword]
        header.SpecificCharacterSet = "ISO_IR 192"
    return header


def reissue(kept: Sequence[Path], header: Dataset, key: str, *, seen: bool = True) -> Iterator[Encoded]:
    """The objects of one job under another identity: new UIDs, and references that follow; reports name the old ones.

    Args:
        kept: all objects of the job, for they refer to each other.
        header: whose they are now: see `corrected`.
        key: tells this correction from others: the UIDs derive from it.
        seen: whether somebody may have seen the old ones; else nothing is said of them.
    """
    before = {path: dcmread(path, stop_before_pixels=True, specific_tags=_UIDS) for path in kept}
    renamed = {str(each.StudyInstanceUID): str(header.StudyInstanceUID) for each in before.values()}
    for each in before.values():
        for uid in (str(each.SOPInstanceUID), str(each.SeriesInstanceUID)):
            renamed[uid] = _uid(key, uid)
    for path in kept:
        ds = dcmread(path)
        _forget_identity(ds)
        _rename(ds, renamed)
        if seen:
            words.say_superseding(ds)
        if seen and ds.SOPClassUID in _DOCUMENTS:
            ds.PredecessorDocumentsSequence = Items([predecessor(before[path])])
        yield common.identified(_kind(path), ds, header, ds.file_meta.TransferSyntaxUID)


def shows_identity(kept: Path) -> bool:
    """Whether an object may show whose it is in a picture or on a page, where no correction reaches."""
    ds = dcmread(kept, stop_before_pixels=True, specific_tags=["BurnedInAnnotation", "SOPClassUID"])
    return ds.get("BurnedInAnnotation") == "YES" or str(ds.SOPClassUID).startswith(_ENCAPSULATED)


def as_comprehensive(kept: Path) -> Encoded:
    """A kept Comprehensive 3D SR as Comprehensive SR: the same content, for peers that take only that.

    Raises ResultError where it is none, or has coordinates in the patient, which the lesser class cannot hold.
    """
    ds = dcmread(kept)
    if ds.SOPClassUID != Comprehensive3DSRStorage:
        raise ResultError(f"{kept.name} is no Comprehensive 3D SR")
    if any(element.value == "SCOORD3D" for element in ds.iterall() if element.keyword == "ValueType"):
        raise ResultError(f"{kept.name} has 3D coordinates", remedy="send it to a peer that takes Comprehensive 3D SR")
    header = dcmread(kept)
    _forget_identity(ds)
    ds.SOPClassUID = ComprehensiveSRStorage
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        setattr(ds, keyword, _uid("comprehensive", str(ds[keyword].value)))
    return common.identified(_kind(kept), ds, header, ds.file_meta.TransferSyntaxUID)


def under_identity_of(kept: Path, made: Encoded) -> Encoded:
    """An object with the patient and study of a kept one."""
    ds = made.dataset
    _forget_identity(ds)
    return common.identified(made.kind, ds, dcmread(kept, stop_before_pixels=True), ds.file_meta.TransferSyntaxUID)


def _uid(*what: str) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(what)).int}"


def _kind(path: Path) -> str:
    return path.stem.partition("-")[0]


def _forget_identity(ds: Dataset) -> None:
    """Leaves what was generated, as text; patient and study are to be copied anew."""
    for keyword in (*common.PATIENT, *common.STUDY, *common.DEIDENTIFIED, "LongitudinalTemporalInformationModified"):
        if keyword in ds:
            del ds[keyword]
    ds.decode()
    ds.pop("SpecificCharacterSet", None)


def _rename(ds: Dataset, renamed: dict[str, str]) -> None:
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                _rename(item, renamed)
        elif element.VR == "UI" and isinstance(element.value, str) and element.value in renamed:
            element.value = renamed[element.value]
