"""What a delivery sends in place of a job's results: decided once, and remembered before it is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

from pydicom.uid import Comprehensive3DSRStorage

from radnode.dicom.headers import read_attributes
from radnode.domain.errors import ResultError
from radnode.domain.identity import differing
from radnode.domain.routing import Destination
from radnode.domain.routing.destinations import COMPREHENSIVE
from radnode.run.remaking import REISSUE, Remaking
from radnode.settings import Settings
from radnode.state import deliveries, jobs, substitutes
from radnode.state.jobs import FORWARD, ResultRow, mailed
from radnode.state.ledger import Ledger, Record

_BURNED_IN = frozenset(["BurnedInAnnotation"])
_NOTHING: Mapping[str, str] = {}


def when_unwanted(place: Destination, row: Record) -> str:
    """The form in which a destination gets a result of a kind that it does not want; empty: in none."""
    return place.fallback.get(row.kind, "")


def when_refused(place: Destination, row: Record) -> str:
    """The form for one whose SOP class it has refused. The lesser class of a report is tried first."""
    if row.kind == "sr" and row.sop_class_uid == Comprehensive3DSRStorage:
        return COMPREHENSIVE
    return when_unwanted(place, row)


class Substitutes:
    """Makes what a delivery sends in place of results, and keeps to it."""

    def __init__(self, settings: Settings, ledger: Ledger, owner: str) -> None:
        self._settings, self._ledger = settings, ledger
        self._remaking = Remaking(settings, ledger, owner)

    def make(
        self, delivery: Record, rows: Sequence[Record], form_of: Callable[[Record], str], why: str
    ) -> list[Record]:
        """Has each row that has a form sent in it; returns those rows. Raises ResultError, SpoolError."""
        forms = [(row, form_of(row)) for row in rows]
        made = [(row, form, self._made(delivery.job_id, [row], form)[0]) for row, form in forms if form]
        if made:
            with self._ledger.begin("substitute") as tx:
                substitutes.record(tx, delivery, [(row, each) for row, _, each in made])
                said = [(row.kind, form) for row, form, _ in made]
                for kind, form in dict.fromkeys(said):
                    count = said.count((kind, form))
                    deliveries.noted(tx, delivery, "sent instead", instances=count, result=kind, form=form, reason=why)
        return [row for row, *_ in made]

    def reissue(self, delivery: Record, rows: Sequence[Record], corrections: Mapping[str, str], why: str) -> None:
        """Has all of these sent under another identity. Raises ResultError where it cannot be, SpoolError."""
        if any(row.kind == FORWARD for row in rows):
            raise ResultError("originals are sent as they came")
        made = self._made(delivery.job_id, rows, REISSUE, corrections)
        first = read_attributes(self._settings.spool / made[0].path, frozenset(corrections))
        if differing({key: str(values[0]) for key, values in first.items()}, corrections):
            raise ResultError("what the destination calls the patient cannot be written")
        with self._ledger.begin("reissue") as tx:
            substitutes.record(tx, delivery, list(zip(rows, made, strict=True)))
            deliveries.noted(tx, delivery, "reissued", instances=len(rows), reason=why)

    def page_of(self, job_id: str, *, with_identity: bool) -> bytes:
        """A PDF for a person: the app's own, where it may be shown, or a page of its report; empty: there is neither.

        Raises ResultError, SpoolError.
        """
        from radnode.dicom.encode.pdf import embedded  # noqa: PLC0415 - few workers need it

        with self._ledger.read() as tx:
            made, job = jobs.results(tx, job_id), jobs.get(tx, job_id)
        for row in (each for each in made if each.kind == "pdf"):
            path = self._settings.spool / row.path
            if with_identity or read_attributes(path, _BURNED_IN).get("BurnedInAnnotation") == ("NO",):
                return embedded(path)
        for row in (each for each in made if each.kind == "sr"):
            (page,) = self._remaking.made(mailed(job_id), job, "pdf", kept=[str(self._settings.spool / row.path)])
            return embedded(self._settings.spool / page.path)
        return b""

    def _made(
        self, job_id: str, rows: Sequence[Record], form: str, corrections: Mapping[str, str] = _NOTHING
    ) -> list[ResultRow]:
        """One object for each row, in their order; those that were made before a crash, where they were."""
        asked = json.dumps([form, [row.sop_instance_uid for row in rows], dict(corrections)], sort_keys=True)
        name = f"{job_id}.{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
        kept = [str(self._settings.spool / row.path) for row in rows]
        with self._ledger.read() as tx:
            job = jobs.get(tx, job_id)
        return self._remaking.made(name, job, form, kept=kept, corrections=dict(corrections))
