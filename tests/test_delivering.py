"""What becomes of a delivery, by what its destination does: statuses, receipts, identities that have changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import generate_uid
from sqlalchemy import update

from radnode.dicom.scu import OutgoingFile, Sender, Timeouts
from radnode.domain.identity import differing
from radnode.domain.routing import Destination
from radnode.run import delivery as delivery_module
from radnode.run import outlets
from radnode.run.commitment import Promises
from radnode.state import deliveries, receipts, schema
from radnode.testing.sink import SinkPacs
from tests.peers import Orthanc, free_port, tool
from tests.receiving import running
from tests.road import small_ct
from tests.sending import Desk, of_study
from tests.test_scu import part10

OpenDesk = Callable[..., Desk]


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[OpenDesk]:
    opened: list[Desk] = []

    def start(*places: Destination) -> Desk:
        opened.append(Desk(tmp_path / f"desk{len(opened)}", *places))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def to(sink: SinkPacs, name: str = "pacs", **more: Any) -> Destination:
    return Destination(name, sink.aet, "127.0.0.1", sink.port, **more)


def files(folder: Path, count: int = 3) -> list[OutgoingFile]:
    return [part10(folder / f"{generate_uid()}.dcm") for _ in range(count)]


# ---- statuses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "state"),
    [(0xA700, "waiting"), (0xA900, "parked"), (0xC000, "parked"), (0x0122, "parked"), (0xB000, "delivered")],
)
def test_each_status_costs_only_its_own_instance(
    open_desk: OpenDesk, tmp_path: Path, status: int, state: str
) -> None:
    some = files(tmp_path)
    refused = some[1].sop_instance_uid
    with SinkPacs(refuse=lambda uid: status if uid == refused else None) as sink:
        desk = open_desk(to(sink))
        desk.job("j1", some, ["pacs"])
        desk.work()
        assert (desk.delivery().state, len(sink.received)) == (state, 2)
        if state == "waiting":  # the archive has room again: only what it lacked is sent
            sink.refuse = lambda uid: None
            assert desk.settle("delivered")
            assert sorted(sink.uids) == sorted(each.sop_instance_uid for each in some)
        elif state == "delivered":  # it is there, and perhaps not as it was sent
            assert desk.events("delivered")[0]["warnings"] == "1 with 0xB000"
        elif state == "parked":
            assert f"0x{status:04X}" in desk.delivery().error


def test_one_destination_is_down_and_another_is_served_at_once(open_desk: OpenDesk, tmp_path: Path) -> None:
    some = files(tmp_path)
    with SinkPacs() as sink:
        desk = open_desk(to(sink, "good"), Destination("down", "DOWN", "127.0.0.1", free_port()))
        desk.job("j1", some, ["down", "good"])
        desk.work()
        assert desk.delivery("good").state == "delivered"
        assert desk.delivery("down").state == "waiting"
        assert "cannot be reached" in desk.delivery("down").error
        desk.route(to(sink, "good"))  # B2: it is taken out of routing.yaml while a delivery waits for it
        desk.work()
        assert desk.delivery("down").state == "parked"
        assert "not in routing.yaml" in desk.delivery("down").error
        assert len(sink.received) == 3


def test_a_peer_that_aborts_in_the_middle_gets_the_rest_later_each_once(open_desk: OpenDesk, tmp_path: Path) -> None:
    some = files(tmp_path, 4)
    with SinkPacs() as sink:
        desk = open_desk(to(sink))
        desk.job("j1", some, ["pacs"])

        def abort(uid: str) -> None:
            if len(sink.received) == 2:
                sink.refuse = lambda _uid: None
                for each in sink._server.active_associations:
                    each.abort()

        sink.refuse = abort
        desk.work()
        assert desk.delivery().state == "waiting"
        assert "broke off" in desk.delivery().error
        desk.settle("delivered")
        assert set(sink.uids) == {each.sop_instance_uid for each in some}


def test_urgent_results_do_not_wait_for_thousands_of_others(
    open_desk: OpenDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "_RECORD_EVERY", 2)
    many, urgent = files(tmp_path, 6), files(tmp_path, 1)
    with SinkPacs() as sink:
        desk = open_desk(to(sink))
        desk.job("slow", many, ["pacs"], priority=2)

        def meanwhile(_uid: str) -> None:
            if len(sink.received) == 1:
                desk.job("fast", urgent, ["pacs"], priority=0)

        sink.refuse = meanwhile
        desk.work()
        assert sink.uids.index(urgent[0].sop_instance_uid) == 2
        assert len(sink.uids) == 7
        assert {desk.delivery(job=each).state for each in ("slow", "fast")} == {"delivered"}


def test_a_destination_is_served_by_as_many_as_it_allows_and_by_one_after_a_failure(
    open_desk: OpenDesk, tmp_path: Path
) -> None:
    desk = open_desk(Destination("pacs", "X", "127.0.0.1", 104, associations=2))
    for number in range(4):
        desk.job(f"j{number}", files(tmp_path, 1), ["pacs"])
    with desk.ledger.begin() as tx:
        first, second, third = (deliveries.claim(tx, "worker-1", desk.ledger.now()) for _ in range(3))
        assert first is not None
        assert second is not None
        assert third is None
        deliveries.postpone(tx, first, "down", 0.0, peer_down=True)
        deliveries.wake_all(tx)
        assert deliveries.claim(tx, "worker-1", desk.ledger.now()) is None
        assert deliveries.delivered(tx, second)
        assert deliveries.claim(tx, "worker-1", desk.ledger.now()) is not None


def test_what_a_destination_does_not_want_is_left_out_and_said(open_desk: OpenDesk, tmp_path: Path) -> None:
    picture, report = files(tmp_path, 2)
    with SinkPacs() as sink:
        desk = open_desk(to(sink, wants=("sr",)))
        desk.job("j1", [picture, report], ["pacs"], kinds={report.sop_instance_uid: "sr"})
        desk.work()
        assert desk.delivery().state == "delivered"
        assert sink.uids == [report.sop_instance_uid]
    assert desk.events("left out")[0] == {"destination": "pacs", "instances": 1, "reason": "sc is not for it"}


def test_results_too_old_are_not_sent(open_desk: OpenDesk, tmp_path: Path) -> None:
    with SinkPacs() as sink:
        desk = open_desk(to(sink))
        desk.job("j1", files(tmp_path), ["pacs"], expire=60.0)  # its images came in 2023
        desk.work()
        assert (desk.delivery().state, sink.uids) == ("expired", [])


# ---- receipts --------------------------------------------------------------------------------------------------------


def ct(folder: Path, count: int = 2) -> list[OutgoingFile]:
    made = small_ct(folder / "made", 4711, slices=count)
    return [of_study(folder / each.name, each) for each in made]


def test_orthanc_shows_what_it_stored(open_desk: OpenDesk, tmp_path: Path, orthanc: Orthanc) -> None:
    place = Destination("pacs", orthanc.aet, "127.0.0.1", orthanc.port, receipt="find")
    desk = open_desk(place)
    desk.job("j1", ct(tmp_path), ["pacs"])
    desk.work()
    assert desk.delivery().state == "delivered"
    assert all(each.confirmed for each in desk.sent().values())


def test_what_is_stored_and_then_lost_is_not_called_delivered(
    open_desk: OpenDesk, tmp_path: Path, orthanc: Orthanc
) -> None:
    """The sink stores, and another peer is asked for it: as an archive that lost it before anybody looked."""
    place = Destination("pacs", orthanc.aet, "127.0.0.1", orthanc.port, receipt="find")
    desk = open_desk(place)
    some = ct(tmp_path)
    desk.job("j1", some, ["pacs"])
    with desk.ledger.begin() as tx:
        claimed = deliveries.claim(tx, "worker-1", desk.ledger.now())
        assert claimed is not None
        deliveries.record_sent(tx, claimed, [(each.sop_instance_uid, 0, "", True) for each in some])
        deliveries.give_back(tx, claimed)
    desk.work()
    assert desk.delivery().state == "waiting"
    assert "does not show 2 of 2" in desk.delivery().error
    with desk.ledger.begin() as tx:
        tx.execute(update(schema.delivery).values(receipt_since=time.time() - 601))
    desk.work()
    assert desk.delivery().state == "parked"
    with desk.ledger.begin() as tx:
        assert deliveries.resend(tx, desk.delivery().id, "test")
    desk.settle("delivered")
    assert len(orthanc.instances()) == 2


def test_orthanc_commits_to_what_it_stored_on_an_association_of_its_own(
    open_desk: OpenDesk, tmp_path: Path, orthanc: Orthanc
) -> None:
    place = Destination("pacs", orthanc.aet, "127.0.0.1", orthanc.port, receipt="commitment")
    desk = open_desk(place)
    promises = Promises(desk.ledger, desk.settings.spool, "receiver-0")
    with running(tmp_path / "receiver", promises) as receiver:
        orthanc.knows("radnode", "RADNODE", receiver.port)
        desk.job("j1", ct(tmp_path), ["pacs"])
        desk.work()
        desk.settle("delivered")
    assert all(each.confirmed for each in desk.sent().values())
    assert desk.events("receipt") == [{"destination": "pacs", "committed": 2, "failed": 0}]
    assert desk.events("delivered")[0]["instances"] == 2


def test_a_report_that_names_failures_has_those_sent_again_and_a_strangers_changes_nothing(
    open_desk: OpenDesk, tmp_path: Path
) -> None:
    one, other = files(tmp_path, 2)
    with SinkPacs() as sink:
        desk = open_desk(to(sink))
        desk.job("j1", [one, other], ["pacs"])
        with desk.ledger.begin() as tx:
            claimed = deliveries.claim(tx, "worker-1", desk.ledger.now())
            assert claimed is not None
            deliveries.record_sent(tx, claimed, [(each.sop_instance_uid, 0, "", True) for each in (one, other)])
            receipts.ask(tx, claimed, "1.2.3")
            assert receipts.wait_for_report(tx, claimed, desk.ledger.now() + 600)
            assert not receipts.reported(tx, "1.2.4", [one.sop_instance_uid], {})
            assert not receipts.reported(tx, "", [one.sop_instance_uid], {})
            assert receipts.reported(tx, "1.2.3", [one.sop_instance_uid], {other.sop_instance_uid: 0x0112})
        desk.settle("delivered")
        assert sink.uids == [other.sop_instance_uid]


def test_a_peer_that_commits_to_nothing_parks_the_delivery(open_desk: OpenDesk, tmp_path: Path) -> None:
    with SinkPacs() as sink:
        desk = open_desk(to(sink, receipt="commitment"))
        desk.job("j1", files(tmp_path, 1), ["pacs"])
        desk.work()
        assert (desk.delivery().state, len(sink.uids)) == ("parked", 1)
        assert "does not commit to storage" in desk.delivery().error


# ---- identity --------------------------------------------------------------------------------------------------------


def test_a_patient_merged_meanwhile_holds_the_delivery_until_a_person_has_looked(
    open_desk: OpenDesk, tmp_path: Path, orthanc: Orthanc
) -> None:
    desk = open_desk(Destination("pacs", orthanc.aet, "127.0.0.1", orthanc.port))
    (source,) = small_ct(tmp_path / "made", 4712, slices=1)
    corrected = of_study(tmp_path / "corrected.dcm", source, PatientID="MERGED", SOPInstanceUID=generate_uid())
    orthanc.upload(corrected.path)
    result = of_study(tmp_path / "result.dcm", source, SOPInstanceUID=generate_uid())
    desk.job("j1", [result], ["pacs"])
    desk.work()
    held = desk.delivery()
    assert held.state == "held"
    assert held.error.startswith("the study has another PatientID there by now -> ")
    assert orthanc.instances() == [corrected.sop_instance_uid]
    desk.route(Destination("pacs", orthanc.aet, "127.0.0.1", orthanc.port, identity="ignore"))
    with desk.ledger.begin() as tx:
        assert deliveries.retry(tx, held.id, "test")
    desk.settle("delivered")
    assert result.sop_instance_uid in orthanc.instances()


def test_a_web_service_is_asked_for_the_identity_and_for_the_receipt(open_desk: OpenDesk, tmp_path: Path) -> None:
    with Orthanc(tmp_path / "web", settings={"Plugins": [tool("libOrthancDicomWeb.so")]}) as orthanc:
        place = Destination("pacs", url=f"http://127.0.0.1:{orthanc.http_port}/dicom-web", receipt="find")
        desk = open_desk(place)
        desk.job("j1", ct(tmp_path), ["pacs"])
        desk.settle("delivered")
        first = tmp_path / "ct-0001.dcm"
        some = next(iter(sorted(tmp_path.glob("*.dcm"))), first)
        other = of_study(tmp_path / "other.dcm", some, AccessionNumber="OLD", SOPInstanceUID=generate_uid())
        desk2 = open_desk(place)
        desk2.job("j2", [other], ["pacs"])
        desk2.work()
        assert desk2.delivery().state == "held"
        assert "another AccessionNumber" in desk2.delivery().error


NAMES = st.text(st.characters(codec="ascii", exclude_characters="?=^\\"), max_size=12)


@given(NAMES, NAMES, NAMES)
def test_only_what_the_other_side_says_otherwise_differs(family: str, first: str, other: str) -> None:
    ours = {"PatientName": f"{family}^{first}", "PatientID": other, "AccessionNumber": "1"}
    assert differing(ours, {}) == ()
    assert differing(ours, {**ours, "PatientName": f"{family.upper()}^{first}^^=x"}) == ()
    assert differing(ours, {"AccessionNumber": "2", "PatientName": "M?ller"}) == ("AccessionNumber",)


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("Łukasz^Żak", "ukasz^ak", True),
        ("Müller^Łucja Ż", "Müller^ucja", True),
        ("王^小东", "^", True),
        ("Łukasz^Żak", "Lukasz^Zak", False),
        ("Łukasz^Żak", "ukas^ak", False),
        ("Łukasz^Żak", "ukasz^ak^Jr", False),
        ("Doe^Jane", "Doe^", False),
        ("Doe^Jane", "Doe^Jan", False),
    ],
)
def test_a_name_that_lost_letters_which_the_peers_character_set_lacks_is_the_same(
    ours: str, theirs: str, same: bool
) -> None:
    assert differing({"PatientName": ours}, {"PatientName": theirs}) == (() if same else ("PatientName",))


def test_a_peer_that_hangs_is_given_up_and_gets_the_rest_later(
    open_desk: OpenDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = files(tmp_path)
    with SinkPacs() as sink:
        desk = open_desk(to(sink))
        desk.job("j1", some, ["pacs"])
        impatient = partial(Sender, timeouts=Timeouts(connect=5, association=5, response=1))
        monkeypatch.setattr(outlets, "Sender", impatient)
        sink.pause()
        desk.work()
        assert desk.delivery().state == "waiting"
        assert "time ended" in desk.delivery().error
        sink.refuse = lambda uid: None
        sink.resume()
        desk.settle("delivered")
        assert set(sink.uids) == {each.sop_instance_uid for each in some}
