"""Storage Commitment Push Model: what is asked (N-ACTION), and what is answered (N-EVENT-REPORT). PS3.4 annex J."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812 - the class it would be, were it not of C
from typing import Final

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from radnode.dicom.elements import EXPLICIT_LE, IMPLICIT_LE, SHORT, Encoding
from radnode.dicom.headers import is_uid
from radnode.dicom.places import Places
from radnode.domain.errors import NotDicomError

ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event types."""
PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119
"""Failure reasons (PS3.3 C.14.1.1)."""
MAX_REQUEST: Final = 4 << 20
"""Bytes of an N-ACTION's data set: some 25 000 instances."""

_TRANSACTION, _SEQUENCE, _CLASS, _INSTANCE = 0x00081195, 0x00081199, 0x00081150, 0x00081155
_FAILED, _FAILURE_REASON = 0x00081198, 0x00081197
_ITEM, _ITEM_END = 0xFFFEE000, 0xFFFEE00D
_UNDEFINED = 0xFFFFFFFF
_SHORT_LENGTH = Struct("<H")

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""


@dataclass(frozen=True)
class Report:
    """What a transaction came to: instances committed, and those that are not, with the reason."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[tuple[str, str, int], ...]

    @property
    def event_type(self) -> int:
        return SOME_FAILED if self.failed else ALL_COMMITTED

    def dataset(self) -> Dataset:
        """Event information (PS3.4 table J.3-2)."""
        ds = Dataset()
        ds.TransactionUID = self.transaction_uid
        if self.committed:
            ds.ReferencedSOPSequence = [_reference(*each) for each in self.committed]
        if self.failed:
            ds.FailedSOPSequence = [_reference(*each) for each in self.failed]
        return ds

    def encode(self, explicit: bool) -> bytes:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, not explicit
        write_dataset(buffer, self.dataset())
        return bytes(buffer.getvalue())


def _reference(sop_class: str, sop_instance: str, reason: int | None = None) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = sop_class, sop_instance
    if reason is not None:
        ds.FailureReason = reason
    return ds


def read_request(data: bytes, explicit: bool) -> tuple[str, list[Reference]]:
    """Transaction UID and references of an N-ACTION's data set (PS3.4 table J.3-1).

    Raises NotDicomError where it is broken, or lacks one of them.
    """
    transaction, (items,) = _read(data, explicit, _SEQUENCE)
    if not items:
        raise NotDicomError("no Referenced SOP Sequence")
    return transaction, [_referred(each) for each in items]


def read_report(data: bytes, explicit: bool) -> Report:
    """An N-EVENT-REPORT's data set (PS3.4 table J.3-2). Raises NotDicomError where it is broken."""
    transaction, (committed, failed) = _read(data, explicit, _SEQUENCE, _FAILED)
    return Report(
        transaction,
        committed=tuple(_referred(each) for each in committed),
        failed=tuple((*_referred(each), _reason(each)) for each in failed),
    )


def _read(data: bytes, explicit: bool, *sequences: int) -> tuple[str, list[list[dict[int, bytes]]]]:
    """The Transaction UID, and the items of each sequence."""
    encoding = EXPLICIT_LE if explicit else IMPLICIT_LE
    walk = Places(_Bytes(data), encoding, (_TRANSACTION, *sequences))
    walk.run()
    start, end = walk.places.get(_TRANSACTION, (0, 0))
    transaction = data[start:end].rstrip(b"\0 ")
    if not is_uid(transaction):
        raise NotDicomError("no Transaction UID")
    try:
        items = [list(_items(data, *walk.places.get(each, (0, 0)), encoding)) for each in sequences]
    except StructError:
        raise NotDicomError("a sequence of references is broken") from None
    return transaction.decode(), items


def _referred(item: dict[int, bytes]) -> Reference:
    sop_class, sop_instance = (item.get(tag, b"").rstrip(b"\0 ") for tag in (_CLASS, _INSTANCE))
    if not is_uid(sop_class) or not is_uid(sop_instance):
        raise NotDicomError("a reference without UIDs")
    return sop_class.decode(), sop_instance.decode()


def _reason(item: dict[int, bytes]) -> int:
    value = item.get(_FAILURE_REASON, b"")
    return int(_SHORT_LENGTH.unpack(value)[0]) if len(value) == _SHORT_LENGTH.size else PROCESSING_FAILURE


class _Bytes:
    """A data set in memory, as `Walk` takes it."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def window(self, position: int) -> bytes:
        return self._data[position : position + 16384]


def _items(data: bytes, at: int, end: int, encoding: Encoding) -> Iterator[dict[int, bytes]]:
    """The items of a sequence that holds no further ones."""
    while at < end:
        key, length = encoding.key32.unpack_from(data, at)
        if encoding.tag(key) != _ITEM:
            raise NotDicomError("Referenced SOP Sequence is broken")
        item: dict[int, bytes] = {}
        at += 8
        last = end if length == _UNDEFINED else at + length
        while at < last:
            tag, start, size = _element(data, at, encoding)
            at = start + size
            if tag == _ITEM_END:
                break
            if at > end:
                raise NotDicomError("Referenced SOP Sequence is broken")
            item[tag] = data[start:at]
        yield item


def _element(data: bytes, at: int, encoding: Encoding) -> tuple[int, int, int]:
    """Tag of the element at a position, where its value starts, and its length."""
    key, length = encoding.key32.unpack_from(data, at)
    tag, start = encoding.tag(key), at + 8
    if encoding.explicit and tag != _ITEM_END:
        if data[at + 4 : at + 6] in SHORT:
            length = _SHORT_LENGTH.unpack_from(data, at + 6)[0]
        else:
            length, start = encoding.length.unpack_from(data, at + 8)[0], at + 12
    if length == _UNDEFINED:
        raise NotDicomError("a sequence within a reference")
    return tag, start, length
