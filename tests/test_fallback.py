"""A destination that does not take a result gets it in another form, once, and the timeline says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from sqlalchemy import delete

from radnode.dicom.encode.check import check
from radnode.dicom.scu import read_outgoing
from radnode.domain.routing import Destination
from radnode.run.probes import refuses
from radnode.state import deliveries, intake, jobs, schema
from tests.databases import arrivals, rows
from tests.peers import Orthanc
from tests.results import every_kind, phantom, written
from tests.sending import Desk
from tests.test_outlets import scp
from tests.test_scu import EXPLICIT

KINDS = ("seg", "sc", "sr")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path / "desk")
    yield opened
    opened.close()


def job(desk: Desk, folder: Path, charset: str = "japanese", **changed: Any) -> dict[str, Path]:
    """A job that made a segmentation, a page and a report of one slice; kind -> file."""
    series = phantom(folder / "in", slices=1, charset=charset)
    first: dict[str, Path] = {}
    for path in written(folder / "out", every_kind(series), series):
        first.setdefault(path.stem.partition("-")[0], path)
    kept = [read_outgoing(first[kind]) for kind in KINDS]
    kinds = {each.sop_instance_uid: kind for each, kind in zip(kept, KINDS, strict=True)}
    desk.job("j1", kept, ["pacs"], kinds=kinds, **changed)
    with desk.ledger.read() as tx:
        ((path,),) = jobs.inputs(tx, "j1").values()
    there = desk.settings.spool / path
    there.parent.mkdir(parents=True)
    there.write_bytes(series.first.path.read_bytes())
    return first


def classes(taken: list[Any]) -> list[str]:
    return sorted(each.SOPClassUID for each in taken)


def test_what_a_pacs_refuses_goes_as_a_page_whatever_it_takes_later(desk: Desk, tmp_path: Path) -> None:
    made = job(desk, tmp_path)
    fallback = {"sr": "sc", "seg": "sc"}
    with scp((SecondaryCaptureImageStorage, EXPLICIT)) as (plain, taken):
        place = replace(plain, fallback=fallback)
        assert refuses(place, desk.settings) == ["ko", "pdf"]
        desk.route(place)
        desk.settle("delivered")
        assert classes(taken) == [SecondaryCaptureImageStorage] * 3
    said = [(each["result"], each["form"], each["instances"]) for each in desk.events("sent instead")]
    assert said == [("seg", "sc", 1), ("sr", "comprehensive", 1), ("sr", "sc", 1)]
    assert desk.events("delivered")[0]["instances"] == 3
    uids = {each.SOPInstanceUID for each in taken}
    assert set(desk.sent()) == uids
    report = pydicom.dcmread(made["sr"])
    assert {str(each.PatientName) for each in taken} == {str(report.PatientName)}
    with scp((SecondaryCaptureImageStorage, EXPLICIT), (Comprehensive3DSRStorage, EXPLICIT)) as (plain, taken):
        desk.route(replace(plain, fallback=fallback))
        with desk.ledger.begin() as tx:
            assert deliveries.resend(tx, desk.delivery().id, "test")
        desk.settle("delivered")
        assert {each.SOPInstanceUID for each in taken} == uids
    with desk.ledger.begin() as tx:  # what comes back is known for radnode's own
        intake.record(tx, [replace(each, sop_instance_uid=uid) for uid in uids for each in arrivals(1, copy=uid)], [])
    assert [each.own for each in rows(desk.ledger, schema.instance)[1:]] == [True] * 3


def test_a_report_goes_as_comprehensive_sr_unasked(desk: Desk, tmp_path: Path) -> None:
    made = job(desk, tmp_path)
    known = SecondaryCaptureImageStorage, SegmentationStorage, ComprehensiveSRStorage
    with scp(*((each, EXPLICIT) for each in known)) as (place, taken):
        assert "sr" not in refuses(place, desk.settings)
        desk.route(place)
        desk.settle("delivered")
    (report,) = (each for each in taken if each.SOPClassUID == ComprehensiveSRStorage)
    assert report.ContentSequence == pydicom.dcmread(made["sr"]).ContentSequence


def test_without_a_fallback_the_delivery_is_parked(desk: Desk, tmp_path: Path) -> None:
    job(desk, tmp_path)
    with scp((SecondaryCaptureImageStorage, EXPLICIT)) as (place, taken):
        desk.route(place)
        assert "0x0122" in desk.settle("parked").error
        assert classes(taken) == [SecondaryCaptureImageStorage]


def test_what_a_destination_does_not_want_is_never_offered_to_it_and_its_receipt_is_for_what_was_sent(
    desk: Desk, tmp_path: Path, orthanc: Orthanc
) -> None:
    made = job(desk, tmp_path, charset="ascii")
    place = Destination("pacs", orthanc.aet, "127.0.0.1", orthanc.port, receipt="find", wants=("pdf",))
    desk.route(replace(place, fallback={"sr": "pdf"}))
    desk.settle("delivered")
    (uid,) = orthanc.instances()
    assert desk.sent()[uid].confirmed
    (row,) = rows(desk.ledger, schema.substitute)
    assert (row.sop_instance_uid, row.sop_class_uid, row.kind) == (uid, EncapsulatedPDFStorage, "pdf")
    assert row.original_uid == pydicom.dcmread(made["sr"]).SOPInstanceUID
    assert check(desk.settings.spool / row.path, made["sr"]) == []
    assert {each["reason"] for each in desk.events("left out")} == {"seg is not for it", "sc is not for it"}


def test_one_made_before_a_crash_is_found_and_sent_once(desk: Desk, tmp_path: Path) -> None:
    job(desk, tmp_path)
    with scp((SecondaryCaptureImageStorage, EXPLICIT)) as (place, taken):
        desk.route(replace(place, fallback={"sr": "sc", "seg": "sc"}))
        desk.settle("delivered")
        before = {each.SOPInstanceUID: each for each in taken}
        with desk.ledger.begin() as tx:  # as if none of it had been committed
            tx.execute(delete(schema.substitute))
            assert deliveries.resend(tx, desk.delivery().id, "test")
        desk.settle("delivered")
        assert before.items() <= {each.SOPInstanceUID: each for each in taken}.items()
        assert len({each.SOPInstanceUID for each in taken}) == 3
    assert list((desk.settings.spool / "work").iterdir()) == []
