"""A series as it is judged: one row per SOP instance, and what the headers of all of them say."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from radnode.dicom.compare import difference
from radnode.dicom.headers import read_attributes
from radnode.domain.errors import NotDicomError
from radnode.domain.routing import Routing
from radnode.domain.study import Instance, Series
from radnode.settings import Settings
from radnode.state import intake
from radnode.state.ledger import Ledger, Record, note
from radnode.telemetry import log

OF_STUDY = ("AccessionNumber", "PatientID", "StudyDescription", "StudyDate", "StudyTime")
OF_SERIES = ("Modality", "SeriesDescription", "SeriesNumber", "BodyPartExamined")
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_PIECE = 1 << 20


@dataclass(frozen=True)
class Filed:
    """A series as it is judged: its rows in the ledger, one per SOP instance, and what the headers say."""

    row: Record
    instances: tuple[Record, ...]
    series: Series

    @property
    def uid(self) -> str:
        return str(self.row.series_instance_uid)

    @property
    def context(self) -> dict[str, str]:
        return {"CallingAETitle": self.row.calling_aet, "CalledAETitle": self.row.called_aet}


class Filing:
    """Files series: reads their headers from the spool, and drops copies that say nothing new."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings, self._ledger = settings, ledger
        self._noted: set[int] = set()  # a series may be looked at several times before it is complete

    def file(self, row: Record, routing: Routing) -> Filed | None:
        """The newest copy of each instance with what its header says; None where nothing sound is left."""
        with self._ledger.read() as tx:
            rows = intake.instances_of(tx, row.id)
        rows = self._without_copies(row, rows)
        keywords = routing.keywords.union(OF_STUDY, OF_SERIES, _IDENTITY)
        instances = tuple(self._read(each, row, keywords) for each in rows)
        return Filed(row, tuple(rows), Series(instances)) if instances else None

    def file_study(self, study_id: int, routing: Routing) -> dict[str, Filed]:
        """Series Instance UID -> the series, of all that the study has so far, complete or not."""
        with self._ledger.read() as tx:
            rows = intake.series_of(tx, study_id)
        return {each.uid: each for each in (self.file(row, routing) for row in rows) if each is not None}

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

    def _without_copies(self, series: Record, rows: Sequence[Record]) -> list[Record]:
        """One row per SOP instance, the newest; a copy that is byte for byte the same is dropped with its file."""
        kept: dict[str, Record] = {}
        for row in rows:
            earlier = kept.get(row.sop_instance_uid)
            if earlier is None:
                kept[row.sop_instance_uid] = row
            elif self._same(earlier, row):
                with self._ledger.begin("drop copy") as tx:
                    intake.drop_instance(tx, row.id)
                (self._settings.spool / row.path).unlink(missing_ok=True)
            else:
                kept[row.sop_instance_uid] = row
                if row.generation == 0 and row.id not in self._noted:
                    self._note_difference(series, earlier, row)
        return sorted(kept.values(), key=lambda each: int(each.id))

    def _note_difference(self, series: Record, earlier: Record, row: Record) -> None:
        differs = difference(self._settings.spool / earlier.path, self._settings.spool / row.path)
        with self._ledger.begin("note difference") as tx:
            note(
                tx,
                "differing copy",
                study_id=series.study_id,
                series_id=series.id,
                SOPInstanceUID=row.sop_instance_uid,
                differs=differs.value,
            )
        self._noted.add(row.id)

    def _same(self, one: Record, other: Record) -> bool:
        if one.transfer_syntax_uid != other.transfer_syntax_uid:
            return False
        try:
            return same_data_set(self._settings.spool / one.path, self._settings.spool / other.path)
        except OSError:
            return False


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
