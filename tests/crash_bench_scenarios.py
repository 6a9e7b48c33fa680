"""What leads to the crash labels of parts that need others around them, each with what has to be true afterwards."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import generate_uid
from sqlalchemy import insert

from radnode.dicom.negotiation import EXPLICIT_LE
from radnode.dicom.scu import OutgoingFile, Peer, read_outgoing, send
from radnode.domain.routing import Destination
from radnode.run import look
from radnode.run.fetching import Wanted
from radnode.settings import load
from radnode.state import deliveries, jobs, notices, schema
from tests.crash_bench import Bench
from tests.databases import make_job, rows
from tests.peers import until
from tests.road import events, small_ct, study_uid, uids
from tests.sending import of_study
from tests.test_fallback import job
from tests.test_life import assert_once
from tests.test_scu import part10

_seeds = count(9000)
SOON = 1.0  # seconds that a PACS has for its receipt, before it is asked again


def images(bench: Bench, slices: int = 2) -> list[OutgoingFile]:
    """Results, as far as a PACS can tell: images of a study of their own."""
    made = small_ct(bench.folder / "made", next(_seeds), slices=slices)
    return [of_study(bench.folder / each.name, each) for each in made]


def delivers(bench: Bench, some: list[OutgoingFile], **more: Any) -> str:
    """A job that has made these, to be sent to where the bench sends; returns its ID."""
    name = f"j{next(_seeds)}"
    bench.desk.job(name, some, ["pacs"], **more)
    return name


def ends_as(bench: Bench, job_id: str, state: str) -> None:
    """The job's delivery."""
    bench.settle(lambda: bench.desk.delivery(job=job_id).state == state, f"the delivery is {state}")


def assert_in_pacs_once(bench: Bench, some: list[OutgoingFile]) -> None:
    pacs, arrivals = bench.town.pacs, bench.town.arrivals()
    for each in some:
        (found,) = pacs.find("Instance", "SOPInstanceUID", each.sop_instance_uid)
        assert arrivals[found] == 1


def assert_told_once(bench: Bench, job_id: str, kind: str) -> None:
    """On the timeline."""
    told = [each.kind for each in rows(bench.desk.ledger, schema.event) if each.job_id == job_id]
    assert told.count(kind) == 1


# ---- receipts --------------------------------------------------------------------------------------------------------


def shown(bench: Bench, label: str) -> None:
    """The PACS shows what it has stored."""
    bench.to_pacs(receipt="find")
    some = images(bench)
    job_id = delivers(bench, some)
    ends_as(bench, job_id, "delivered")
    assert all(each.confirmed for each in bench.desk.sent().values())
    assert_in_pacs_once(bench, some)
    assert_told_once(bench, job_id, "delivered")


def not_shown(bench: Bench, label: str) -> None:
    """The PACS has lost what it stored; that is not called delivered, until it is sent again and shown."""
    bench.to_pacs(receipt="find")
    some = images(bench)
    job_id = delivers(bench, some)
    delivery = bench.desk.delivery(job=job_id).id
    answer = {"delivery_id": delivery, "status": 0, "comment": "", "stored": True, "at": time.time()}
    with bench.desk.ledger.begin() as tx:
        tx.execute(insert(schema.sent), [{**answer, "sop_instance_uid": each.sop_instance_uid} for each in some])
    bench.settle(lambda: "does not show 2 of 2" in bench.desk.delivery(job=job_id).error, "it is not shown")
    assert bench.desk.delivery(job=job_id).state == "waiting"
    with bench.desk.ledger.begin() as tx:
        assert deliveries.resend(tx, delivery, "test")
    ends_as(bench, job_id, "delivered")
    assert_in_pacs_once(bench, some)
    assert_told_once(bench, job_id, "delivered")


def promised(bench: Bench, label: str) -> None:
    """The PACS commits to what it has stored, on an association of its own."""
    bench.to_pacs(receipt="commitment", receipt_within=SOON)
    some = images(bench)
    job_id = delivers(bench, some)
    bench.receives()
    ends_as(bench, job_id, "delivered")
    assert all(each.confirmed for each in bench.desk.sent().values())
    assert_in_pacs_once(bench, some)
    assert_told_once(bench, job_id, "delivered")


def not_asked(bench: Bench, label: str) -> None:
    """A destination that commits to nothing: a person is told so, and what it has stored is not sent again."""
    bench.to_sink(receipt="commitment", receipt_within=SOON)
    arrived, some = len(bench.town.sink.received), images(bench)
    job_id = delivers(bench, some)
    ends_as(bench, job_id, "parked")
    assert "does not commit to storage" in bench.desk.delivery(job=job_id).error
    assert_once(bench.town.sink, arrived, len(some))
    assert_told_once(bench, job_id, "parked")


# ---- identities ------------------------------------------------------------------------------------------------------


def held(bench: Bench, label: str) -> None:
    """The patient has been merged into another: nothing goes out under the old ID."""
    bench.to_pacs()
    (source,) = small_ct(bench.folder / "made", next(_seeds), slices=1)
    corrected = of_study(bench.folder / "c.dcm", source, PatientID="MERGED", SOPInstanceUID=generate_uid())
    bench.town.pacs.upload(corrected.path)
    result = of_study(bench.folder / "result.dcm", source, SOPInstanceUID=generate_uid())
    job_id = delivers(bench, [result])
    ends_as(bench, job_id, "held")
    assert bench.town.pacs.find("Instance", "SOPInstanceUID", result.sop_instance_uid) == []
    assert_told_once(bench, job_id, "held")


def reissued(bench: Bench, label: str) -> None:
    """Where the destination says so, the results go out under the new ID, once, and the old ones never."""
    bench.to_pacs(identity="reissue")
    job(bench.desk, bench.folder)
    job_id = "j1"
    (source,) = (bench.folder / "in").glob("*.dcm")
    bench.town.pacs.upload(of_study(bench.folder / "c.dcm", source, PatientID="MERGED").path)
    ends_as(bench, job_id, "delivered")
    before = {each.sop_instance_uid for each in rows(bench.desk.ledger, schema.result)}
    after = [each.sop_instance_uid for each in rows(bench.desk.ledger, schema.substitute)]
    assert len(after) == len(before) == len(set(after) - before)
    for each in before:
        assert bench.town.pacs.find("Instance", "SOPInstanceUID", each) == []
    arrivals = bench.town.arrivals()
    for each in after:
        (found,) = bench.town.pacs.find("Instance", "SOPInstanceUID", each)
        assert arrivals[found] == 1
        (bench.folder / "got.dcm").write_bytes(bench.town.pacs.download(each))
        assert pydicom.dcmread(bench.folder / "got.dcm").PatientID == "MERGED"
    assert_told_once(bench, job_id, "reissued")


# ---- being told ------------------------------------------------------------------------------------------------------


def mailed(bench: Bench, label: str, *, copies: int = 1, refusals: int = 0) -> None:
    """A delivery is told by mail: always, and a second time only where the server had taken it before the death."""
    box, sink = bench.town.box, bench.town.sink
    bench.to_sink()
    arrived, mails = len(sink.received), len(box.mails)
    box.answers = ["451 later"] * refusals
    result = part10(bench.folder / "result.dcm")
    job_id = delivers(bench, [result], notify=("delivered",), mail_to=("one@hospital.org",))

    def told() -> bool:
        known = rows(bench.desk.ledger, schema.notification)
        return [(each.channel, each.state) for each in known if each.job_id == job_id] == [("mail", "sent")]

    bench.settle(told, "it is told")
    came = box.mails[mails:]
    assert len(came) == copies
    assert len({(each["Message-ID"], each.as_string()) for each in came}) == 1
    assert_once(sink, arrived, 1)


def noticed(bench: Bench, label: str) -> None:
    """No result came in time: the page that says so is sent once."""
    bench.to_sink()
    desk, sink = bench.desk, bench.town.sink
    arrived = len(sink.received)
    job_id = f"j{next(_seeds)}"
    make_job(desk.ledger, job_id)
    with desk.ledger.begin() as tx:
        ((path,),) = jobs.inputs(tx, job_id).values()
        notices.expect(tx, job_id, 0.0)
        notices.start(tx, desk.ledger.now())
    (image,) = small_ct(bench.folder / "made", next(_seeds), slices=1)
    there = desk.settings.spool / path
    there.parent.mkdir(parents=True)
    there.write_bytes(image.read_bytes())
    bench.settle(lambda: [each.state for each in rows(desk.ledger, schema.delivery)] == ["delivered"], "it is sent")
    assert_once(sink, arrived, 1)
    assert_told_once(bench, job_id, "notice")


# ---- fetching --------------------------------------------------------------------------------------------------------


def fetched(bench: Bench, label: str) -> None:
    """Core dies as it fetches what the PACS has and nobody sent; the next has all of it, once, and makes one job."""
    bench.routing.write_text("complete: {series: 1s, study: 2s}\nrules: [{name: wiring, app: test, send_to: []}]\n")
    files = small_ct(bench.folder / f"study{next(_seeds)}", next(_seeds))
    bench.town.pacs.upload(*files)
    bench.town.pacs.knows("radnode", "RADNODE", bench.port)
    bench.receives()
    node = Peer("RADNODE", "127.0.0.1", bench.port)
    assert {each.status for each in send([read_outgoing(each) for each in files[1:]], node)} == {0}
    settings, uid = load(bench.env, Path("none")), study_uid(files)
    until(lambda: look.studies(settings, uid), "the ledger knows")
    assert bench.fetches(*wanted(bench, files[0])) == -signal.SIGKILL
    with bench.judging():
        found = until(lambda: _complete(look.studies(settings, uid)[0]), "the series is complete")
    assert found["series"][0]["instances"] == len(files)
    assert len(found["jobs"]) == 1
    kept = uids(settings.spool.glob("instances/**/*.dcm"))
    assert [each for each in kept if each in uids(files)] == uids(files)


def wanted(bench: Bench, file: Path) -> tuple[Destination, Wanted]:
    """Where this is, and what of it."""
    ds = pydicom.dcmread(file)
    (study,) = [e for e in rows(bench.desk.ledger, schema.study) if e.study_instance_uid == ds.StudyInstanceUID]
    (series,) = [e for e in rows(bench.desk.ledger, schema.series) if e.study_id == study.id]
    kinds, missing = [(str(ds.SOPClassUID), EXPLICIT_LE)], frozenset([str(ds.SOPInstanceUID)])
    place = Destination("pacs", bench.town.pacs.aet, "127.0.0.1", bench.town.pacs.port, fetch="get")
    ids = study.id, series.id, str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)
    return place, Wanted(*ids, "RADNODE", kinds, missing)


def _complete(study: dict[str, Any]) -> Any:
    return events(study, "complete") and study


ON_BENCH: dict[str, Callable[[Bench, str], None]] = {
    "confirm found": shown,
    "await found": not_shown,
    **dict.fromkeys(("ask for commitment", "await report", "report taken"), promised),
    "not asked": not_asked,
    "hold delivery": held,
    "reissue": reissued,
    **dict.fromkeys(("claim notification", "nobody to notify"), mailed),
    **dict.fromkeys(("notified", "notification sent"), partial(mailed, copies=2)),
    "notification failed": partial(mailed, refusals=2),
    "claim notice": noticed,
    **dict.fromkeys(("fetched", "record fetched"), fetched),
}
