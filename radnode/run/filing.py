"""A series as it is judged: one row per SOP instance, and what the headers of all of them say."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from radnode.dicom.compare import Difference, difference, fingerprint
from radnode.dicom.headers import read_attributes
from radnode.dicom.rejection import EXPIRED, KEY_OBJECT_SELECTION, Rejection, read_rejection
from radnode.domain import assembly, study_assembly
from radnode.domain.errors import NotDicomError
from radnode.domain.routing import Routing
from radnode.domain.study import Instance, Series, Value
from radnode.settings import Settings
from radnode.state import intake, purges, rejections
from radnode.state.ledger import Ledger, Record
from radnode.telemetry import log

OF_STUDY = ("AccessionNumber", "PatientID", "StudyDescription", "StudyDate", "StudyTime")
OF_SERIES = ("Modality", "SeriesDescription", "SeriesNumber", "BodyPartExamined")
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
KEPT = (
    "ImageType", "ProtocolName", "SeriesDate", "ContrastBolusAgent", "SliceThickness", "ConvolutionKernel", "Rows",
    "Columns", "PatientAge", "PatientSex", "Manufacturer", "ManufacturerModelName", "StationName", "InstitutionName",
    "ScanningSequence", "MRAcquisitionType", "EchoTime", "RepetitionTime", "KVP", "Laterality", "ViewPosition",
    "SpacingBetweenSlices", "RequestedProcedureDescription", "SOPClassUID", "NumberOfFrames", "AcquisitionDate",
)  # fmt: skip
"""What `radnode replay` can ask for without the spool, beside the above and what the routing in force names."""
_MOST_KEPT = 16
_LONGEST_KEPT = 256
_PIECE = 1 << 20
_AT_ONCE = 500

Kept = dict[str, list[list[Value]]]
"""Attribute -> the different values it takes in a series; an empty list where it is absent."""


@dataclass(frozen=True)
class Copies:
    """What is kept of one SOP instance that may have come several times.

    Attributes:
        newest: what jobs read.
        original: the first that says what the newest does, but for its syntax and bookkeeping: what is forwarded.
        content: how often pixels or geometry were corrected.
        identity: how often only patient or study attributes were.
    """

    newest: Record
    original: Record
    content: int = 0
    identity: int = 0

    def and_then(self, row: Record, differs: str) -> Copies:
        match differs:
            case Difference.CONTENT.value:
                return Copies(row, row, self.content + 1, self.identity)
            case Difference.IDENTITY.value:
                return Copies(row, row, self.content, self.identity + 1)
        return replace(self, newest=row, original=row if self.original.purged else self.original)


@dataclass(frozen=True)
class Filed:
    """A series as it is judged: its rows in the ledger by SOP Instance UID, and what the newest headers say.

    `asked` are the attributes that were read.
    """

    row: Record
    copies: Mapping[str, Copies]
    series: Series
    asked: frozenset[str]

    @property
    def kept(self) -> Kept:
        """For the ledger; without attributes that differ from image to image, or are long."""
        found = {name: [list(each) for each in self.series.distinct(name)] for name in sorted(self.asked)}
        return {name: values for name, values in found.items() if _is_short(values)}

    @property
    def uid(self) -> str:
        return str(self.row.series_instance_uid)

    @property
    def instances(self) -> tuple[Record, ...]:
        return tuple(each.newest for each in self.copies.values())

    def only(self, uids: Collection[str]) -> Filed:
        """The series as if only these SOP instances had come."""
        copies = {uid: each for uid, each in self.copies.items() if uid in uids}
        instances = tuple(each for each in self.series if each.SOPInstanceUID in uids)
        return Filed(self.row, copies, Series(instances), self.asked)

    @property
    def context(self) -> dict[str, str]:
        return {"CallingAETitle": self.row.calling_aet, "CalledAETitle": self.row.called_aet}


class Filing:
    """Files series: reads their headers from the spool, and drops copies that say nothing new."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings, self._ledger = settings, ledger

    def file(self, row: Record, routing: Routing) -> Filed | None:
        """The newest copy of each instance with what its header says; None where nothing sound is left."""
        with self._ledger.read() as tx:
            rows = intake.instances_of(tx, row.id)
            out = rejections.rejected(tx, row.study_id, EXPIRED)
        rows = [each for each in self._brought_back(row, rows) if not _is_out(each, out)]
        copies = self._judged(row, rows)
        keywords = routing.keywords.union(OF_STUDY, OF_SERIES, _IDENTITY, KEPT)
        read = keywords | assembly.KEYWORDS | study_assembly.KEYWORDS
        instances = tuple(self._read(each.newest, row, read) for each in copies.values())
        return Filed(row, copies, Series(instances), keywords) if instances else None

    def file_study(self, study_id: int, routing: Routing) -> dict[str, Filed]:
        """Series Instance UID -> the series, of all that the study has so far, complete or not."""
        with self._ledger.read() as tx:
            rows = intake.series_of(tx, study_id)
        return {each.uid: each for each in (self.file(row, routing) for row in rows) if each is not None}

    def rejections(self, filed: Filed) -> list[tuple[Record, Rejection]]:
        """Rejection notes among what is new in a series, with their rows."""
        notes = []
        for row in filed.instances:
            if row.generation == 0 and row.sop_class_uid == KEY_OBJECT_SELECTION:
                with suppress(NotDicomError):
                    if said := read_rejection(self._settings.spool / row.path):
                        notes.append((row, said))
        return notes

    def _read(self, row: Record, series: Record, keywords: Iterable[str]) -> Instance:
        """A header that cannot be read leaves what the receiver knew: it is routed on that."""
        path = self._settings.spool / row.path
        try:
            attributes = read_attributes(path, frozenset(keywords))
        except (NotDicomError, OSError) as error:
            log().warning("header unreadable", path=row.path, error=type(error).__name__)
            attributes = {}
        known = {
            "SOPInstanceUID": (row.sop_instance_uid,),
            "SOPClassUID": (row.sop_class_uid,),
            "SeriesInstanceUID": (series.series_instance_uid,),
        }
        return Instance(path, {**attributes, **known})

    def _brought_back(self, series: Record, rows: Sequence[Record]) -> Sequence[Record]:
        """What retention took and now came again, byte for byte, is what it was."""
        newest: dict[str, Record] = {}
        pairs = []
        for row in rows:
            before = newest.get(row.sop_instance_uid)
            if before is not None and before.purged and not row.purged and not row.differs:
                with suppress(NotDicomError):
                    if fingerprint(self._settings.spool / row.path) == before.fingerprint:
                        pairs.append((before, row))
            newest[row.sop_instance_uid] = row
        for start in range(0, len(pairs), _AT_ONCE):
            with self._ledger.begin("bring back") as tx:
                purges.bring_back(tx, pairs[start : start + _AT_ONCE])
        with self._ledger.read() as tx:
            return intake.instances_of(tx, series.id) if pairs else rows

    def _judged(self, series: Record, rows: Sequence[Record]) -> dict[str, Copies]:
        """The copies of each SOP instance whose newest is here; one that is byte for byte the newest known is dropped
        with its file."""
        copies: dict[str, Copies] = {}
        dropped: list[Record] = []
        found: dict[int, str] = {}  # differing copies not judged before
        for row in rows:
            known = copies.get(row.sop_instance_uid)
            if known is None:
                copies[row.sop_instance_uid] = Copies(row, row)
            elif row.purged:
                copies[row.sop_instance_uid] = known.and_then(row, row.differs)
            elif not row.differs and self._same(known.newest, row):
                dropped.append(row)
            else:
                differs = row.differs or self._difference(known.newest, row)
                if not row.differs:
                    found[row.id] = differs
                copies[row.sop_instance_uid] = known.and_then(row, differs)
        self._settle(series, dropped, found)
        here = {uid: each for uid, each in copies.items() if not each.newest.purged}
        return dict(sorted(here.items(), key=lambda each: int(each[1].newest.id)))

    def _settle(self, series: Record, dropped: Sequence[Record], found: Mapping[int, str]) -> None:
        if not dropped and not found:
            return
        with self._ledger.begin("file copies") as tx:
            intake.drop_instances(tx, [row.id for row in dropped])
            intake.note_differences(tx, series, found)
        for row in dropped:
            (self._settings.spool / row.path).unlink(missing_ok=True)

    def _difference(self, one: Record, other: Record) -> str:
        return difference(self._settings.spool / one.path, self._settings.spool / other.path).value

    def _same(self, one: Record, other: Record) -> bool:
        if one.transfer_syntax_uid != other.transfer_syntax_uid:
            return False
        try:
            return same_data_set(self._settings.spool / one.path, self._settings.spool / other.path)
        except OSError:
            return False


def _is_short(values: list[list[Value]]) -> bool:
    return len(values) <= _MOST_KEPT and sum(len(str(one)) for each in values for one in each) <= _LONGEST_KEPT


def _is_out(row: Record, out: Mapping[str, int | None]) -> bool:
    """Whether a rejection note has taken this copy back."""
    if row.sop_instance_uid not in out:
        return False
    before = out[row.sop_instance_uid]
    return before is None or row.id < before


def same_data_set(one: Path, other: Path) -> bool:
    """Whether two files of the spool hold the same bytes after their File Meta, which names who sent them."""
    with one.open("rb") as first, other.open("rb") as second:
        for stream in (first, second):
            (length,) = struct.unpack(
                "<L", stream.read(144)[140:]
            )  # value of (0002,0000), which comes first: PS3.10 7.1
            stream.seek(length, os.SEEK_CUR)
        while piece := first.read(_PIECE):
            if piece != second.read(_PIECE):
                return False
        return not second.read(1)
