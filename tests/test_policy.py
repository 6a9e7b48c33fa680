"""Who may open how many associations, what changes while the node runs, and how its receivers end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from radnode import settings
from radnode.dicom.negotiation import Policy
from radnode.domain.errors import SettingsError
from radnode.run import live
from radnode.run.receiver import drain
from radnode.settings import load
from radnode.state import intake, schema
from radnode.state.arrivals import AssociationEnd
from radnode.state.ledger import Ledger
from radnode.state.slots import Slots
from radnode.state.spool import Spool, Watermark
from tests.databases import arrivals, rows
from tests.peers import Node, until
from tests.receiving import Peer, request, running, store, wait_for
from tests.road import events, push, small_ct, study

QUIET = "complete: {series: 1s, study: 2s}\nrules: []\n"

# ---- slots -----------------------------------------------------------------------------------------------------------

TAKER = """
import sys, time
from pathlib import Path
from radnode.state.slots import Slots
slots = Slots(Path(sys.argv[1]), "receiver-other")
print(*[slots.take(peer, 3, 0) or "taken" for peer in sys.argv[2:]], flush=True)
time.sleep(60)
"""


def taker(folder: Path, *peers: str) -> tuple[subprocess.Popen[str], list[str]]:
    """Another receiver, which takes a slot for each of these peers, out of three."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKER, str(folder), *peers], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_limit_holds_over_all_receivers_and_a_dead_one_frees_its_slots(tmp_path: Path) -> None:
    mine = Slots(tmp_path, "receiver-mine")
    assert mine.take("a", 3, 0) == ""
    other, said = taker(tmp_path, "a", "b", "c")
    try:
        assert said == ["taken", "taken", "all"]
        assert mine.take("d", 3, 0) == "all"
        assert mine.take("a", 4, 2) == "peer"
        assert mine.take("b", 4, 2) == ""
        mine.free("b")
    finally:
        end(other)
    assert [mine.take("a", 3, 2), mine.take("a", 3, 2)] == ["", "peer"]
    assert mine.take("b", 3, 2) == ""
    assert mine.take("c", 3, 0) == "all"
    mine.leave()
    again = Slots(tmp_path, "receiver-mine")
    assert [again.take("a", 2, 0) for _ in range(3)] == ["", "", "all"]
    again.leave()


def test_receivers_that_take_slots_at_once_never_take_too_many(tmp_path: Path) -> None:
    receivers = [Slots(tmp_path, f"receiver-{number}") for number in range(4)]
    given: list[str] = []

    def grab(slots: Slots) -> None:
        for _ in range(50):
            given.append(slots.take("a", 33, 0))

    threads = [threading.Thread(target=grab, args=(each,)) for each in receivers * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given.count("") == 33
    for each in receivers:
        each.leave()


def test_one_peer_cannot_take_all_associations(tmp_path: Path) -> None:
    with running(tmp_path, max_associations=3, max_associations_per_peer=2) as node:
        with Peer(node.port) as first, Peer(node.port) as second:
            first.accepted()
            second.accepted()
            with Peer(node.port) as third:
                assert third.send(request()).rejected() == (2, 3, 2)
            first.release()
            with Peer(node.port) as third:
                third.accepted().release()
            second.release()
        assert node.ended(3) == ["released"] * 3


# ---- settings that change --------------------------------------------------------------------------------------------


def policy_of(home: Path) -> tuple[settings.Settings, Callable[[], Policy]]:
    node = load({"RADNODE_HOME": str(home)}, home / "none")
    node.run.mkdir(parents=True)
    current, watermark = live.LivePolicy(node, lambda *_: True), Watermark(Spool(node.spool))
    return node, lambda: current(watermark)


def test_what_may_change_does_and_what_cannot_be_used_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, policy = policy_of(tmp_path)
    assert (policy().aets, policy().max_associations) == (("RADNODE",), 128)
    monkeypatch.chdir(tmp_path)
    dotenv = tmp_path / ".env"
    dotenv.write_text("RADNODE_AET=ONE,TWO\nRADNODE_MAX_ASSOCIATIONS=7\nRADNODE_IDLE_TIMEOUT=5\nRADNODE_MAX_PDU=4096\n")
    live.reload(node)
    assert policy().aets == ("ONE", "TWO")
    assert (policy().max_associations, policy().idle_timeout, policy().max_pdu) == (7, 5, 1 << 20)
    dotenv.write_text("RADNODE_MAX_ASSOCIATIONS=many\n")
    live.reload(node)
    assert policy().max_associations == 7
    live.begin(node)  # at the next start everything is as it is read then
    assert live.LivePolicy(node, lambda *_: True)(Watermark(Spool(node.spool))).max_associations == 128


def test_a_node_without_any_dicom_port_does_not_start(tmp_path: Path) -> None:
    from radnode.run.receiving import run

    node = load({"RADNODE_HOME": str(tmp_path), "RADNODE_PORT": "0"}, tmp_path / "none")
    with pytest.raises(SettingsError, match="no DICOM port"):
        run(node, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RADNODE_TLS_PORT": "2762"}, "needs RADNODE_TLS_CERT"),
        ({"RADNODE_TLS_PORT": "2762", "RADNODE_TLS_CERT": "c.pem"}, "needs RADNODE_TLS_KEY"),
        ({"RADNODE_TLS_MATCH_AET": "true"}, "needs RADNODE_TLS_CA"),
        ({"RADNODE_TLS_MATCH_AET": "perhaps"}, "true or false"),
        ({"RADNODE_TLS_MIN": "1.0"}, "1.2, 1.3"),
        ({"RADNODE_MAX_ASSOCIATIONS_PER_PEER": "-1"}, "at least 0"),
        ({"RADNODE_IDLE_TIMEOUT": "0"}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(tmp_path: Path, given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(given, tmp_path / "none")


def test_sighup_changes_titles_and_limits_and_drops_no_association(start_node: Callable[..., Node]) -> None:
    node = start_node(QUIET)
    assert node.process is not None
    with Peer(node.port) as old:
        old.accepted()
        (node.folder / ".env").write_text("RADNODE_AET=SECOND\nRADNODE_MAX_ASSOCIATIONS=2\n")
        node.process.popen.send_signal(signal.SIGHUP)
        until(lambda: _answers(node, b"SECOND") == {"accepted"}, "the new title is known")
        until(lambda: _answers(node, b"RADNODE") == {(1, 1, 7)}, "the old one is not")
        with Peer(node.port) as another:
            another.accepted(called=b"SECOND")
            until(lambda: _answer(node, b"SECOND") == (2, 3, 2), "the new limit holds")
            another.release()
        assert old.store().status == 0
        old.release()
    assert "settings read again" in node.output()


def _answers(node: Node, called: bytes) -> set[Any]:
    """Of several associations: the receivers learn of new settings one after the other, and any of them may answer."""
    return {_answer(node, called) for _ in range(8)}


def _answer(node: Node, called: bytes) -> Any:
    with Peer(node.port) as peer:
        kind, body = peer.send(request(called=called)).pdu()
        if kind == 2:
            peer.release()
            return "accepted"
        return body[1], body[2], body[3]


# ---- the way it came -------------------------------------------------------------------------------------------------


def test_the_user_a_sender_names_and_a_broken_association_are_on_the_timeline(
    start_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = start_node("complete: {series: 5s, study: 6s}\nrules: []\n")
    (file,) = small_ct(tmp_path / "study", 1, slices=1)
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field = 1, b"anna"
    ae = AE(ae_title="SCU")
    ae.add_requested_context(CTImageStorage)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="RADNODE", ext_neg=[identity])
    ds = pydicom.dcmread(file)
    assert assoc.send_c_store(ds).Status == 0
    assoc.abort()
    uid = str(ds.StudyInstanceUID)
    until(lambda: events(study(node, uid), "association broken off"), "the abort is on the timeline")
    found = study(node, uid)
    assert [each["user_identity"] for each in events(found, "received")] == ["anna"]
    (broken,) = events(found, "association broken off")
    assert (broken["how"], broken["calling_aet"], broken["instances"]) == ("aborted", "SCU", 1)
    again = small_ct(tmp_path / "again", 2, slices=1)
    assert events(study(node, push(node, again)), "association broken off") == []


def ended(association: str, how: str, seen: float, instances: int = 3) -> AssociationEnd:
    return AssociationEnd(association, how, "MODALITY", "RADNODE", "10.0.0.1", instances, 1.0, 2.0, seen)


@pytest.mark.parametrize(
    ("how", "series_seen"), [("aborted", [500.0, 102.0]), ("lost", [500.0, 102.0]), ("released", [102.0, 102.0])]
)
def test_quiet_time_starts_anew_for_what_a_broken_association_carried(
    ledger: Ledger, how: str, series_seen: list[float]
) -> None:
    with ledger.begin() as tx:
        intake.record(tx, arrivals(3, series="1.2.1", association="a1"), [])
        intake.record(tx, arrivals(3, series="1.2.2", association="a2"), [])
        intake.record(tx, [], [ended("a1", how, 500.0), ended("a3", "aborted", 900.0, instances=0)])
    assert [row.seen for row in rows(ledger, schema.series)] == series_seen
    assert [row.seen for row in rows(ledger, schema.study)] == [max(series_seen)]
    noted = [row.data["how"] for row in rows(ledger, schema.event) if row.kind == "association broken off"]
    assert noted == ([] if how == "released" else [how])


def test_a_series_being_judged_as_its_association_breaks_off_is_judged_again(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        intake.record(tx, arrivals(3, association="a1"), [])
    (judged,) = rows(ledger, schema.series)
    with ledger.begin() as tx:
        intake.record(tx, [], [ended("a1", "lost", 500.0)])
        done = {"generation": 1, "instance_ids": [], "instances": 3, "headers": {}}
        assert not intake.complete_series(tx, judged, **done)
    (judged,) = rows(ledger, schema.series)
    with ledger.begin() as tx:
        assert intake.complete_series(tx, judged, **done)
        intake.record(tx, [], [ended("a1", "lost", 900.0)])  # told a second time
    with ledger.begin() as tx:
        intake.record(tx, [], [ended("a9", "lost", 900.0)])
    assert [row.seen for row in rows(ledger, schema.series)] == [500.0]


def test_a_batch_that_is_recorded_again_moves_nothing(ledger: Ledger) -> None:
    batch = arrivals(3, association="a1"), [ended("a1", "aborted", 500.0)]
    for _ in range(2):
        with ledger.begin() as tx:
            intake.record(tx, *batch)
    (series,) = rows(ledger, schema.series)
    noted = [row.kind for row in rows(ledger, schema.event)]
    assert (series.seen, noted) == (500.0, ["received", "association broken off"])


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_a_drain_lets_associations_end_rejects_new_ones_and_aborts_in_the_end(tmp_path: Path) -> None:
    with running(tmp_path) as node, Peer(node.port) as patient, Peer(node.port) as late:
        patient.accepted()
        late.accepted()
        draining = threading.Thread(target=drain, args=(node.receiver, 3.0))
        draining.start()
        wait_for(lambda: node.receiver.draining)
        uid = generate_uid()
        assert patient.store(uid).status == 0
        patient.release()
        with Peer(node.port) as new:
            assert new.send(request()).rejected() == (2, 3, 1)
        kept = late.store()
        late.send(store("1.2.3", bytes(100_000))[:50_000])
        draining.join()
        assert late.aborted() == 0
        assert node.receiver.idle()
        assert sorted(each.sop_instance_uid for each in node.stored(2)) == sorted([uid, kept.uid])
        assert node.parts() == []
        assert sorted(node.ended(2)) == ["lost", "released"]


def test_a_node_that_ends_refuses_new_callers_and_keeps_what_it_acknowledged(
    start_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = start_node(QUIET)
    assert node.process is not None
    with Peer(node.port) as peer:
        uid = generate_uid()
        assert peer.accepted().store(uid).status == 0
        node.process.popen.send_signal(signal.SIGTERM)
        until(lambda: _refused(node.port), "the port is closed")
        second = generate_uid()
        assert peer.store(second).status == 0
        peer.release()
    assert node.process.popen.wait(60) == 0
    known = {row.sop_instance_uid for row in rows(Ledger(node.home), schema.instance)}
    assert known == {uid, second}


def _refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0
