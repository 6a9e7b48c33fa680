"""The receiver and real senders: DCMTK's, pynetdicom's, and raw sockets where timing matters."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from radnode.dicom.headers import read_attributes
from radnode.run import receiver as receivers
from radnode.state.presence import present
from tests.receiving import (
    BIG,
    CT,
    CT_CONTEXT,
    DATA,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    Peer,
    Running,
    command,
    context,
    data_set,
    deflate,
    item,
    pdu,
    pdv,
    request,
    running,
    wait_for,
)

real_data = pytest.mark.skipif(not DATA.exists(), reason=f"the real test data is not at {DATA}")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as node:
        yield node


def dcmtk(tool: str, node: Running, *arguments: str | Path, nagle: bool = True) -> str:
    command = [tool, "-aec", "RADNODE", "127.0.0.1", str(node.port), *map(str, arguments)]
    environment = os.environ | {"TCP_NODELAY": "0" if nagle else "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def data_set_bytes(path: Path) -> bytes:
    """What follows the File Meta of a Part 10 file."""
    with path.open("rb") as file:
        pydicom.filereader.read_preamble(file, force=False)
        pydicom.filereader._read_file_meta_info(file)
        return file.read()


# ---- real senders ---------------------------------------------------------------------------------------------------


def test_echoscu_is_answered(node: Running) -> None:
    dcmtk("echoscu", node)
    assert node.ended() == ["released"]


def test_a_study_from_storescu_with_nagle_on_arrives_whole(node: Running) -> None:
    path = get_testdata_file("CT_small.dcm")
    dcmtk("storescu", node, "--repeat", "20", "+II", path)
    arrivals = node.stored(20)
    assert len({each.sop_instance_uid for each in arrivals}) == 20
    assert {each.calling_aet for each in arrivals} == {"STORESCU"}
    assert node.ended() == ["released"]
    assert [each.instances for each in node.ends] == [20]


@real_data
def test_a_real_head_ct_from_dcmsend_is_kept_bit_by_bit(node: Running) -> None:
    folder = DATA / "ct-head-ge"
    dcmtk("dcmsend", node, "+sd", "+sp", "*.dcm", folder)
    sent = {pydicom.dcmread(path, specific_tags=[]).file_meta.MediaStorageSOPInstanceUID: path
            for path in folder.glob("*.dcm")}  # fmt: skip
    for arrival in node.stored(len(sent)):
        kept = node.spool.root / arrival.path
        assert data_set_bytes(kept) == data_set_bytes(sent.pop(arrival.sop_instance_uid))
        assert arrival.size == kept.stat().st_size
    assert not sent


@real_data
@pytest.mark.parametrize("path", sorted((DATA / "transfer-syntaxes").glob("*.dcm")), ids=lambda path: path.stem)
def test_every_transfer_syntax_is_kept_bit_by_bit(node: Running, path: Path) -> None:
    meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
    send_verbatim(node, path, str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))


def send_verbatim(node: Running, path: Path, sop_class: str, syntax: str, data: bytes | None = None) -> None:
    uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    data = data_set_bytes(path) if data is None else data
    with Peer(node.port) as peer:
        peer.accepted(context(1, sop_class, syntax))
        peer.send(store_of(sop_class, uid, data))
        assert peer.response().status == 0
        peer.release()
    (arrival,) = node.stored()
    kept = node.spool.root / arrival.path
    assert data_set_bytes(kept) == data
    assert arrival.transfer_syntax_uid == syntax
    assert not arrival.flaw
    assert pydicom.dcmread(kept, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax


def store_of(sop_class: str, uid: str, data: bytes) -> bytes:
    head = pdu(4, pdv(1, 3, command(uid, sop_class)))
    pieces = [data[at : at + 60_000] for at in range(0, len(data), 60_000)]
    return head + b"".join(pdu(4, pdv(1, 2 * (piece is pieces[-1]), piece)) for piece in pieces)


@pytest.mark.filterwarnings("ignore:Expected explicit VR")  # pydicom does not know GE's syntax
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED, "1.2.840.113619.5.2", "1.3.46.670589.33.1.4.1"])
def test_uncompressed_deflated_and_private_syntaxes_are_kept_bit_by_bit(node: Running, syntax: str) -> None:
    path = Path(get_testdata_file("CT_small.dcm"))
    layout = IMPLICIT if syntax.startswith("1.2.840.113619") else syntax
    data = data_set(str(pydicom.dcmread(path).SOPInstanceUID), layout)
    send_verbatim(node, path, CT, syntax, deflate(data) if syntax == DEFLATED else data)


def test_a_private_syntax_nobody_can_walk_is_kept_with_its_flaw(node: Running) -> None:
    secret = b"\x93\x01 what only its maker reads" * 40
    with Peer(node.port) as peer:
        peer.accepted(context(1, CT, "1.2.3.4.5"))
        assert peer.store("1.2.3", secret).status == 0
        peer.release()
    (arrival,) = node.stored()
    assert arrival.flaw == "transfer syntax 1.2.3.4.5 is not known"
    assert (node.spool.root / arrival.path).read_bytes().endswith(secret)


@pytest.mark.parametrize(
    "sop_class",
    ["1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.6", "1.2.840.113619.4.27", "2.25.4711"],
    ids=["encapsulated PDF", "a retired one", "a private one", "one nobody knows"],
)
def test_every_storage_class_is_taken(node: Running, sop_class: str) -> None:
    with Peer(node.port) as peer:
        peer.accepted(context(1, sop_class, EXPLICIT))
        assert peer.send(store_of(sop_class, "1.2.3", data_set("1.2.3", SOPClassUID=sop_class))).response().status == 0
        peer.release()
    assert node.stored()[0].sop_class_uid == sop_class


@pytest.mark.parametrize(
    ("proposed", "taken"),
    [
        ((IMPLICIT, EXPLICIT), EXPLICIT),
        ((IMPLICIT, "1.2.840.10008.1.2.4.90"), "1.2.840.10008.1.2.4.90"),
        ((IMPLICIT, BIG), IMPLICIT),
        (("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"), "1.2.840.10008.1.2.4.70"),
        (("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.70"), "1.2.840.10008.1.2.4.80"),
    ],
)
def test_the_transfer_syntax_that_loses_least_is_taken(node: Running, proposed: tuple[str, ...], taken: str) -> None:
    with Peer(node.port) as peer:
        peer.accepted(context(1, CT, *proposed))
        assert [each[8:].decode() for each in peer.items(0x21)] == [taken]
        peer.release()


def test_pynetdicom_stores_echoes_and_is_told_what_it_asked(node: Running) -> None:
    ae = AE(ae_title="SCU")
    ae.add_requested_context(Verification)
    ae.add_requested_context(CT, [EXPLICIT])
    assoc = ae.associate("127.0.0.1", node.port, ae_title="SECOND")
    assert assoc.is_established
    assert assoc.acceptor.maximum_length == 1 << 20
    assert assoc.send_c_echo().Status == 0
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for _ in range(3):
        ds.SOPInstanceUID = generate_uid()
        assert assoc.send_c_store(ds).Status == 0
    assoc.release()
    assert assoc.is_released
    arrivals = node.stored(3)
    assert {each.called_aet for each in arrivals} == {"SECOND"}
    assert {(each.study_uid, each.series_uid) for each in arrivals} == {(ds.StudyInstanceUID, ds.SeriesInstanceUID)}


def test_pynetdicom_hears_an_abort_and_its_own_is_recorded(node: Running) -> None:
    ae = AE(ae_title="SCU")
    ae.add_requested_context(Verification)
    heard = threading.Event()
    handlers = [(evt.EVT_ABORTED, lambda _: heard.set())]
    assoc = ae.associate("127.0.0.1", node.port, ae_title="RADNODE", evt_handlers=handlers)
    node.receiver.abort_all()
    assert heard.wait(10)
    assert assoc.is_aborted
    assoc = ae.associate("127.0.0.1", node.port, ae_title="RADNODE")
    assoc.abort()
    assert node.ended(2) == ["lost", "aborted"]


# ---- the file -------------------------------------------------------------------------------------------------------


def test_the_file_meta_is_whole_and_tells_the_way_it_came(node: Running) -> None:
    with Peer(node.port) as peer:
        uid = generate_uid()
        peer.accepted(calling=b"MODALITY", called=b"SECOND").store(uid)
        peer.release()
    meta = pydicom.dcmread(node.spool.root / node.stored()[0].path).file_meta
    pydicom.dataset.validate_file_meta(meta)
    assert meta.MediaStorageSOPInstanceUID == uid
    assert meta.MediaStorageSOPClassUID == CT
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.SourceApplicationEntityTitle == meta.SendingApplicationEntityTitle == "MODALITY"
    assert meta.ReceivingApplicationEntityTitle == "SECOND"


def test_the_file_can_be_routed_by_what_it_says(node: Running) -> None:
    with Peer(node.port) as peer:
        peer.accepted().store()
        peer.release()
    path = node.spool.root / node.stored()[0].path
    assert read_attributes(path, ["Modality", "ReceivingApplicationEntityTitle"]) == {
        "Modality": ("CT",),
        "ReceivingApplicationEntityTitle": ("RADNODE",),
    }


def test_an_instance_sent_twice_is_kept_twice(node: Running) -> None:
    with Peer(node.port) as peer:
        peer.accepted()
        uid = generate_uid()
        assert [peer.store(uid).status, peer.store(uid).status] == [0, 0]
        peer.release()
    first, second = node.stored(2)
    assert first.path != second.path


def test_memory_stays_flat_for_an_object_of_a_gigabyte(node: Running) -> None:
    """Sent as PDUs of the largest size, from one buffer; the element's length says what is coming."""
    size = 1 << 30
    head = data_set("1.2.3", PixelData=None) + b"\xe0\x7f\x10\x00OB\0\0" + size.to_bytes(4, "little")
    block = pdu(4, pdv(1, 0, bytes((1 << 20) - 6)))
    blocks, rest = divmod(size, (1 << 20) - 6)
    with Peer(node.port) as peer:
        peer.accepted().send(pdu(4, pdv(1, 3, command())) + pdu(4, pdv(1, 0, head)))
        before = peak()
        for _ in range(blocks):
            peer.send(block)
        assert peer.send(pdu(4, pdv(1, 2, bytes(rest)))).response().status == 0
        assert peak() - before < 4 << 20
        peer.release()
    assert node.stored()[0].size > size


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- orders that promises rest on -----------------------------------------------------------------------------------


def test_an_instance_is_pending_before_it_is_acknowledged(node: Running) -> None:
    node.ledger_down = True
    with Peer(node.port) as peer:
        assert peer.accepted().store().status == 0
        assert len(node.receiver.pending._arrivals) == 1
        node.ledger_down = False
        assert len(node.stored()) == 1
        peer.release()


def test_the_mark_does_not_pass_a_barrier_while_the_ledger_is_away(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        node.ledger_down = True
        with Peer(node.port) as peer:
            assert peer.accepted().store().status == 0
            barrier = node.barrier.raise_()
            time.sleep(0.3)
            assert [each.mark for each in present(tmp_path / "run", "receiver-")] < [barrier]
            node.ledger_down = False
            wait_for(lambda: [each.mark for each in present(tmp_path / "run", "receiver-")] == [barrier])
            assert len(node.arrivals) == 1
            peer.release()


def test_a_ledger_that_is_away_too_long_stops_intake_and_nothing_is_lost(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers, "PENDING_MOST", 5)
    node.ledger_down = True
    with Peer(node.port) as peer:
        peer.accepted()
        statuses = [peer.store().status for _ in range(7)]
        assert statuses == [0] * 5 + [0xA700] * 2
        with Peer(node.port) as another:
            assert another.send(request()).rejected() == (2, 3, 1)
        node.ledger_down = False
        assert len(node.stored(5)) == 5
        assert peer.store().status == 0
        peer.release()


def test_user_identity_without_a_request_for_a_response_gets_none(node: Running) -> None:
    identity = b"\1\0" + b"\0\4" + b"anna" + b"\0\0"
    with Peer(node.port) as peer:
        peer.accepted(CT_CONTEXT, user=item(0x58, identity))
        assert peer.items(0x59) == []
        peer.release()


# ---- the process ----------------------------------------------------------------------------------------------------

_PROCESS = """
import socket, sys
from pathlib import Path
from radnode.run import receiver
from radnode.settings import load
node = load({"RADNODE_HOME": sys.argv[1], "RADNODE_RECEIVERS": "1"}, dotenv=Path(sys.argv[1]) / "none")
log = open(Path(sys.argv[1]) / "recorded", "a", buffering=1)
def record(arrivals, ends):
    for each in arrivals: print(each.path, each.sop_instance_uid, file=log)
    for each in ends: print(each.how, file=log)
with socket.socket(fileno=int(sys.argv[2])) as listener:
    receiver.serve(node, listener, 0, record, allowed=lambda calling, peer: True)
"""


class Process:
    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = home
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = self.listener.getsockname()[1]
        command = [sys.executable, "-c", _PROCESS, str(home), str(self.listener.fileno())]
        self.child = subprocess.Popen(command, pass_fds=[self.listener.fileno()], stdout=subprocess.DEVNULL)

    def recorded(self) -> list[str]:
        return (self.home / "recorded").read_text().split()

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        self.listener.close()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "home")
    yield process
    process.end()


def test_sigterm_lets_an_association_end_and_leaves_cleanly(process: Process) -> None:
    with Peer(process.port) as peer:
        assert peer.accepted().store().status == 0
        process.child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert peer.store().status == 0
        peer.release()
    assert process.child.wait(20) == 0
    assert process.recorded()[-1] == "released"
    assert len(process.recorded()) == 5
    assert list(present(process.home / "run", "receiver-")) == []


def test_a_killed_receiver_is_seen_dead_and_its_acknowledged_instances_are_on_disk(process: Process) -> None:
    with Peer(process.port) as peer:
        uid = generate_uid()
        assert peer.accepted().store(uid).status == 0
        process.child.kill()
        process.child.wait()
    assert [each.alive for each in present(process.home / "run", "receiver-")] == [False]
    (kept,) = (process.home / "spool").rglob("*.dcm")
    assert pydicom.dcmread(kept).SOPInstanceUID == uid
