"""Storage Commitment with the receiver as SCP: what is promised, to whom it is told, and what survives."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from radnode.dicom import commitment
from radnode.domain.errors import NotDicomError
from radnode.state import commitments, schema
from radnode.state.ledger import Ledger
from tests.databases import rows
from tests.peers import Node, Orthanc, free_port, until
from tests.receiving import EXPLICIT, IMPLICIT, encode
from tests.road import apply, events, small_ct, study

PUSH_MODEL, WELL_KNOWN = str(StorageCommitmentPushModel), str(StorageCommitmentPushModelInstance)


def routing(port: int, aet: str = "MODALITY") -> str:
    known = f"destinations:\n  modality: {{aet: {aet}, host: 127.0.0.1, port: {port}}}\n"
    return known + "complete: {series: 1s, study: 2s}\nrules: []\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for the tests that do not hurt it."""
    with Node(tmp_path_factory.mktemp("commitment") / "node", routing(free_port())) as node:
        yield node


def references(files: list[Path]) -> list[tuple[str, str]]:
    found = [pydicom.dcmread(each, stop_before_pixels=True) for each in files]
    return [(str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in found]


def request(wanted: list[tuple[str, str]]) -> pydicom.Dataset:
    ds = pydicom.Dataset()
    ds.TransactionUID = generate_uid()
    ds.ReferencedSOPSequence = []
    for sop_class, uid in wanted:
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        ds.ReferencedSOPSequence.append(item)
    return ds


class Modality:
    """A peer that stores, asks for commitment, and takes the reports wherever they come."""

    def __init__(self, aet: str = "MODALITY", refusals: int = 0) -> None:
        self.aet, self.port = aet, free_port()
        self.reports: list[tuple[int, pydicom.Dataset, str]] = []
        self._refusals = refusals

    @contextmanager
    def listening(self) -> Iterator[None]:
        ae = AE(ae_title=self.aet)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._report, ["its own"])]
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        try:
            yield
        finally:
            server.shutdown()

    def _report(self, event: Any, where: str) -> tuple[int, None]:
        if self._refusals:
            self._refusals -= 1
            return 0x0110, None
        self.reports.append((event.event_type, event.event_information, where))
        return 0x0000, None

    @contextmanager
    def associated(self, node: Node, syntax: str = EXPLICIT) -> Iterator[Any]:
        ae = AE(ae_title=self.aet)
        ae.add_requested_context(StorageCommitmentPushModel, syntax)
        ae.add_requested_context(CTImageStorage, EXPLICIT)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._report, ["the same"])]
        assoc = ae.associate("127.0.0.1", node.port, ae_title="RADNODE", evt_handlers=handlers)
        assert assoc.is_established
        try:
            yield assoc
        finally:
            if assoc.is_established:
                assoc.release()

    def asks(self, node: Node, wanted: list[tuple[str, str]]) -> str:
        """Asks for commitment, and goes; returns the Transaction UID."""
        ds = request(wanted)
        with self.associated(node) as assoc:
            assert ask(assoc, ds) == 0
        return str(ds.TransactionUID)


def ask(assoc: Any, ds: pydicom.Dataset | None, action: int = 1, instance: str = WELL_KNOWN) -> int:
    status, _ = assoc.send_n_action(ds, action, PUSH_MODEL, instance)
    return int(status.Status)


def failures(ds: pydicom.Dataset) -> dict[str, int]:
    return {str(each.ReferencedSOPInstanceUID): each.FailureReason for each in ds.get("FailedSOPSequence", [])}


def committed(ds: pydicom.Dataset) -> set[str]:
    return {str(each.ReferencedSOPInstanceUID) for each in ds.get("ReferencedSOPSequence", [])}


def transaction(node: Node, uid: str) -> Any:
    """What the ledger knows of a transaction."""
    found = [row for row in rows(Ledger(node.home), schema.commitment) if row.transaction_uid == uid]
    return found[0] if found else None


# ---- through the whole node ------------------------------------------------------------------------------------------


def test_a_sender_that_has_gone_is_told_on_a_new_association_what_is_committed_and_what_is_not(
    shared: Node, tmp_path: Path
) -> None:
    node, modality = shared, Modality()
    apply(node, routing(modality.port))
    files = small_ct(tmp_path / "study", 1)
    wanted = references(files)
    assert {each.status for each in node.send(files)} == {0}
    (sop_class, conflicting), (_, lost) = wanted[0], wanted[1]
    never = generate_uid()
    with modality.listening():
        modality.asks(node, wanted)
        until(lambda: modality.reports, "the report has come")
        kept = {pydicom.dcmread(each).SOPInstanceUID: each for each in (node.home / "spool").rglob("*.dcm")}
        kept[lost].unlink()
        asked = [("1.2.840.10008.5.1.4.1.1.4", conflicting), (sop_class, never), *wanted[1:]]
        again = modality.asks(node, asked)
        until(lambda: len(modality.reports) == 2, "the second report has come")
    (first, all_of_it, where), (second, part_of_it, _) = modality.reports
    assert (first, where, failures(all_of_it)) == (1, "its own", {})
    assert committed(all_of_it) == {uid for _, uid in wanted}
    assert (second, part_of_it.TransactionUID) == (2, again)
    assert failures(part_of_it) == {conflicting: 0x0119, never: 0x0112, lost: 0x0110}
    assert committed(part_of_it) == {uid for _, uid in wanted[2:]}
    uid = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    told = [(each["event"], each["instances"]) for each in study(node, uid)["timeline"] if "commit" in each["event"]]
    assert told == [("committed", 4), ("committed", 2), ("commitment refused", 2)]
    assert 'radnode_commitment_reports_total{outcome="refused"} 1.0' in node.get("/metrics")[1]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_sender_that_waits_is_told_on_the_same_association_though_nobody_knows_its_address(
    shared: Node, tmp_path: Path, syntax: str
) -> None:
    node, modality = shared, Modality("STRANGER")
    files = small_ct(tmp_path / "study", 2)
    asked = [request(references(files)) for _ in range(2)]
    with modality.associated(node, syntax) as assoc:
        for each in files:
            assert assoc.send_c_store(pydicom.dcmread(each)).Status == 0
        assert [ask(assoc, each) for each in asked] == [0, 0]
        until(lambda: len(modality.reports) == 2, "both reports have come")
        assert assoc.send_c_store(pydicom.dcmread(files[0])).Status == 0
    uids = [each.TransactionUID for each in asked]
    assert [(kind, ds.TransactionUID, where) for kind, ds, where in modality.reports] == [
        (1, each, "the same") for each in uids
    ]
    until(lambda: {transaction(node, each).state for each in uids} == {"reported"}, "the ledger knows")


def test_a_stranger_that_has_gone_is_parked_visibly_and_told_once_the_routing_names_it(
    shared: Node, tmp_path: Path
) -> None:
    node, modality = shared, Modality("NEWCOMER")
    files = small_ct(tmp_path / "study", 3)
    node.send(files)
    asked = modality.asks(node, references(files))
    until(lambda: transaction(node, asked).state == "parked", "it is parked")
    uid = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    (event,) = events(study(node, uid), "commitment parked")
    assert "no destination has that AE title" in event["error"]
    until(lambda: 'radnode_commitments{state="parked"} 1.0' in node.get("/metrics")[1], "the metric shows it")
    with modality.listening():
        apply(node, routing(modality.port, "NEWCOMER"))
        until(lambda: modality.reports, "the report has come")
    until(lambda: transaction(node, asked).state == "reported", "the ledger knows")


def test_a_report_that_is_refused_or_finds_nobody_is_tried_again_also_after_the_node_was_killed(
    start_node: Callable[..., Node], tmp_path: Path
) -> None:
    modality = Modality(refusals=1)
    node = start_node(routing(modality.port))
    files = small_ct(tmp_path / "study", 1)
    node.send(files)
    asked = modality.asks(node, references(files))
    until(lambda: transaction(node, asked).attempts, "it was tried with nobody there")
    node.kill()
    assert transaction(node, asked).state in ("waiting", "sending")
    with modality.listening():
        node.start()
        until(lambda: modality.reports, "the report has come")
    (report,) = modality.reports
    assert committed(report[1]) == {uid for _, uid in references(files)}
    until(lambda: transaction(node, asked).state == "reported", "the ledger knows")
    assert transaction(node, asked).attempts >= 3


def test_what_was_asked_on_an_association_that_died_with_its_receiver_is_reported(
    start_node: Callable[..., Node], tmp_path: Path
) -> None:
    modality = Modality()
    node = start_node(routing(modality.port))
    files = small_ct(tmp_path / "study", 1)
    with modality.listening(), modality.associated(node) as assoc:
        assert assoc.send_c_store(pydicom.dcmread(files[0])).Status == 0
        assert ask(assoc, request(references(files[:1]))) == 0
        node.kill()
        node.start()
        until(lambda: modality.reports, "the report has come")
        assert modality.reports[0][2] == "its own"


def test_orthanc_learns_that_what_it_sent_is_committed(shared: Node, tmp_path: Path) -> None:
    node = shared
    with Orthanc(tmp_path / "orthanc", settings={"DicomAlwaysAllowStorageCommitment": True}) as orthanc:
        apply(node, routing(orthanc.port, "ORTHANC"))
        files = small_ct(tmp_path / "study", 4)
        orthanc.upload(*files)
        orthanc.knows("node", "RADNODE", node.port)
        orthanc.store_to("node", str(pydicom.dcmread(files[0]).StudyInstanceUID))
        wanted = {"DicomInstances": [{"SOPClassUID": c, "SOPInstanceUID": u} for c, u in references(files)]}
        path = json_of(orthanc.request("POST", "/modalities/node/storage-commitment", wanted))["Path"]
        found = until(lambda: pending_no_more(json_of(orthanc.request("GET", path))), "Orthanc has the report")
    assert found["Status"] == "Success"
    assert len(found["Success"]) == len(files)


def json_of(answer: bytes) -> Any:
    import json

    return json.loads(answer)


def pending_no_more(found: Any) -> Any:
    return found["Status"] != "Pending" and found


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_requests_that_make_no_sense_get_their_status_and_the_association_goes_on(
    shared: Node, tmp_path: Path
) -> None:
    node, modality = shared, Modality()
    (file,) = small_ct(tmp_path / "study", 5, slices=1)
    good = request(references([file]))
    nothing, nameless = request([]), request(references([file]))
    del nameless.TransactionUID
    with modality.associated(node) as assoc:
        assert ask(assoc, good, action=2) == 0x0123
        assert ask(assoc, good, instance="1.2.3") == 0x0112
        assert ask(assoc, nothing) == 0x0115
        assert ask(assoc, nameless) == 0x0115
        assert ask(assoc, None) == 0x0115
        assert assoc.send_c_store(pydicom.dcmread(file)).Status == 0
    assert transaction(node, nothing.TransactionUID) is transaction(node, good.TransactionUID) is None


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_request_is_read_as_pydicom_reads_it_whatever_its_lengths(syntax: str) -> None:
    wanted = [("1.2.840.10008.5.1.4.1.1.2", generate_uid()) for _ in range(200)]
    ds = request(wanted)
    ds.StorageMediaFileSetID = "DISC 1"
    procedure = pydicom.Dataset()
    procedure.ReferencedSOPClassUID, procedure.ReferencedSOPInstanceUID = "1.2.3", "4.5.6"
    ds.ReferencedPerformedProcedureStepSequence = [procedure]
    for undefined in (False, True):
        ds["ReferencedSOPSequence"].is_undefined_length = undefined
        for item in ds.ReferencedSOPSequence:
            item.is_undefined_length_sequence_item = undefined
        found = commitment.read_request(encode(ds, syntax), explicit=syntax == EXPLICIT)
        assert found == (ds.TransactionUID, wanted)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_request_cut_short_or_garbled_anywhere_is_refused_or_says_less_and_nothing_worse(syntax: str) -> None:
    data = encode(request([("1.2.3", "4.5.6"), ("1.2.3", "4.5.7")]), syntax)
    for at in range(len(data)):
        for broken in (data[:at], data[:at] + b"\xff" + data[at + 1 :], data[:at] + struct.pack("<L", 9) + data[at:]):
            try:
                _, found = commitment.read_request(broken, explicit=syntax == EXPLICIT)
            except NotDicomError:
                continue
            assert all(len(each) == 2 for each in found)


# ---- in the ledger ---------------------------------------------------------------------------------------------------


def recorded(ledger: Ledger, transaction: str = "1.2", association: str = "", aet: str = "MODALITY") -> bool:
    owner = "receiver-0-a" if association else ""
    titles = {"calling_aet": aet, "called_aet": "RADNODE", "peer": "10.0.0.1"}
    with ledger.begin() as tx:
        wanted = [("1.2.3", "4.5.6")]
        return commitments.record(tx, transaction, wanted, **titles, association=association, owner=owner)


def let_on(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        commitments.flushed(tx, commitments.received(tx))


def test_a_worker_takes_none_whose_association_is_open_or_whose_peer_is_being_told(ledger: Ledger) -> None:
    recorded(ledger, "1.1", association="a1")
    recorded(ledger, "1.2")
    recorded(ledger, "1.3")
    recorded(ledger, "1.4", aet="OTHER")
    with ledger.begin() as tx:
        assert commitments.claim(tx, "worker-1", 10.0) is None  # not let on yet
    let_on(ledger)
    with ledger.begin() as tx:
        assert commitments.runnable(tx, 10.0) == 2
        taken = [commitments.claim(tx, "worker-1", 10.0) for _ in range(3)]
        assert [row and row.transaction_uid for row in taken] == ["1.2", "1.4", None]
        commitments.let_go(tx, ["a1"])
        assert commitments.claim(tx, "worker-1", 10.0) is None
        commitments.release_lost(tx, "worker-1")
        assert commitments.owners(tx) == set()
        again = commitments.claim(tx, "worker-2", 10.0)
        assert again and (again.transaction_uid, again.attempts) == ("1.1", 1)


def test_a_worker_taken_for_dead_cannot_change_what_another_has_claimed(ledger: Ledger) -> None:
    recorded(ledger)
    let_on(ledger)
    with ledger.begin() as tx:
        first = commitments.claim(tx, "worker-1", 10.0)
        assert commitments.claim(tx, "worker-2", 10.0) is None
        second = commitments.claim(tx, "worker-2", 10_000.0)
        assert first and second
        assert not commitments.reported(tx, first, ["4.5.6"], [])
        assert commitments.reported(tx, second, ["4.5.6"], [])
        assert commitments.states(tx) == {}


def test_the_same_transaction_asked_again_is_one_and_starts_anew(ledger: Ledger) -> None:
    recorded(ledger)
    let_on(ledger)
    with ledger.begin() as tx:
        taken = commitments.claim(tx, "worker-1", 10.0)
        assert taken
        commitments.park(tx, taken, "nobody knows it")
        assert commitments.states(tx) == {"parked": 1}
    recorded(ledger, association="a2")
    with ledger.begin() as tx:
        assert commitments.states(tx) == {"received": 1}
    (row,) = rows(ledger, schema.commitment)
    assert (row.association, row.error, row.attempts) == ("a2", "", 0)


def test_a_peer_has_a_bounded_number_of_transactions_unreported_and_others_have_theirs(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitments, "MOST_OF_PEER", 2)
    assert [recorded(ledger, f"1.{number}") for number in range(3)] == [True, True, False]
    assert recorded(ledger, "1.3", aet="OTHER")


def test_a_peer_that_cannot_be_reached_rests_with_all_its_transactions(ledger: Ledger) -> None:
    recorded(ledger, "1.1")
    recorded(ledger, "1.2")
    let_on(ledger)
    with ledger.begin() as tx:
        taken = commitments.claim(tx, "worker-1", 10.0)
        assert taken
        commitments.postpone(tx, taken, "gone", 10.0)
        assert commitments.runnable(tx, 10.5) == 0
        assert commitments.runnable(tx, 11.5) == 1
        commitments.wake_all(tx)
        assert commitments.runnable(tx, 0.0) == 1
