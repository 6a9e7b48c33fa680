"""Sending to real peers: DCMTK's storescp, Orthanc, pynetdicom, and ports that are none."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.dsutils import encode, split_dataset

from radnode.dicom.scu import Answer, OutgoingFile, Peer, Sender, Timeouts, echo, read_outgoing, send
from radnode.domain.errors import NotDicomError, PeerError, SpoolError
from radnode.testing.sink import SinkPacs
from tests.peers import Orthanc, Process, Storescp, free_port, listens, until

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
QUICK = Timeouts(connect=5, association=5, response=2)


def part10(path: Path, *, sop_class: str = CT, syntax: str = EXPLICIT, size: int = 64) -> OutgoingFile:
    """A small file with `size` bytes of pixels. Its data set is Explicit VR Little Endian whatever `syntax` claims."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = "Doe^Jane", "1", "CT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.PixelRepresentation, ds.SamplesPerPixel = size // 64, 32, 16, 0, 1
    ds.add_new("PixelData", "OW", bytes(size))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    with path.open("wb") as file:
        file.write(bytes(128) + b"DICM")
        write_file_meta_info(file, meta)
        file.write(encode(ds, is_implicit_vr=False, is_little_endian=True) or b"")
    return read_outgoing(path)


def shipped() -> list[OutgoingFile]:
    """The storable files pydicom ships: many classes and transfer syntaxes."""
    found = []
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        try:
            found.append(read_outgoing(path))
        except NotDicomError:
            continue
    return [each for each in found if each.sop_class_uid.startswith("1.2.840.10008.5.1.4.1.1.")]


def data_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()[split_dataset(path)[1] :]).hexdigest()


def sink_peer(sink: SinkPacs) -> Peer:
    return Peer(sink.aet, "127.0.0.1", sink.port)


@contextmanager
def scp(
    store: Callable[[evt.Event], Any], *, classes: tuple[str, ...] = (CT,), **settings: Any
) -> Iterator[tuple[Peer, AE]]:
    """A pynetdicom SCP for a few classes, Explicit VR Little Endian only."""
    ae = AE(ae_title="SCP")
    for key, value in settings.items():
        setattr(ae, key, value)
    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        contexts=[build_context(each, EXPLICIT) for each in classes],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    try:
        yield Peer("SCP", "127.0.0.1", server.socket.getsockname()[1]), ae
    finally:
        ae.shutdown()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def tcp(answer: bytes) -> Iterator[Peer]:
    """A port that is open but speaks no DICOM."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as sock:
                sock.recv(4096)
                sock.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield Peer("X", "127.0.0.1", server.getsockname()[1])


def association_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if "Requestor" in each.name or "DUL" in type(each).__name__]


def test_files_of_many_classes_and_syntaxes_arrive_bit_for_bit_and_in_order(sink: SinkPacs) -> None:
    files = shipped()
    answers = list(send(files, sink_peer(sink)))
    taken = [file for file, answer in zip(files, answers, strict=True) if answer.status == 0x0000]
    assert len({each.transfer_syntax_uid for each in taken}) >= 8
    assert [each.sha256 for each in sink.received] == [data_sha256(each.path) for each in taken]
    assert sink.uids == [each.sop_instance_uid for each in taken]


def test_storescp_with_its_nagle_algorithm_gets_the_same_bytes(tmp_path: Path) -> None:
    files = [part10(tmp_path / f"{number}.dcm") for number in range(20)]
    with Storescp(tmp_path / "out") as storescp:
        assert {each.status for each in send(files, storescp.peer)} == {0x0000}
        received = storescp.files()
    assert sorted(map(data_sha256, received)) == sorted(data_sha256(each.path) for each in files)


def test_orthanc_gives_back_what_it_was_sent(tmp_path: Path, orthanc: Orthanc) -> None:
    file = part10(tmp_path / "a.dcm", size=400_000)
    assert list(send([file], orthanc.peer)) == [Answer(file.sop_instance_uid, 0x0000, "")]
    (tmp_path / "back.dcm").write_bytes(orthanc.download(file.sop_instance_uid))
    assert data_sha256(tmp_path / "back.dcm") == data_sha256(file.path)


def test_a_context_the_peer_refuses_costs_only_its_own_instances(tmp_path: Path) -> None:
    files = [
        part10(tmp_path / "ct.dcm"),
        part10(tmp_path / "mr.dcm", sop_class=MR),
        part10(tmp_path / "jpeg.dcm", syntax="1.2.840.10008.1.2.4.50"),
        part10(tmp_path / "ct2.dcm"),
    ]
    with scp(lambda event: 0x0000) as (peer, _):
        answers = list(send(files, peer))
    assert [each.status for each in answers] == [0x0000, 0x0122, 0x0122, 0x0000]


def test_a_peer_that_accepts_no_context_is_asked_once(tmp_path: Path) -> None:
    files = [part10(tmp_path / f"{number}.dcm", sop_class=MR) for number in range(5)]
    with scp(lambda event: 0x0000) as (peer, ae):
        requests: list[object] = []
        ae._servers[0].bind(evt.EVT_REQUESTED, requests.append)
        assert [each.status for each in send(files, peer)] == [0x0122] * 5
    assert len(requests) == 1


def test_more_than_128_contexts_go_over_several_associations(tmp_path: Path, sink: SinkPacs) -> None:
    storage, jpeg = "1.2.840.10008.5.1.4.1.1", "1.2.840.10008.1.2.4"
    classes = [f"{storage}.{each}" for each in ["1", "2", "4", "7", "20", "128", "6.1", "3.1", "1.1", "1.2", "1.3"]]
    syntaxes = [f"{jpeg}.{each}" for each in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202)]
    pairs = [(one, other) for one in classes for other in [EXPLICIT, "1.2.840.10008.1.2.5", *syntaxes]]
    assert len(pairs) == 132
    files = [part10(tmp_path / f"{n}.dcm", sop_class=a, syntax=b) for n, (a, b) in enumerate(pairs)]
    assert {each.status for each in send(files, sink_peer(sink))} == {0x0000}
    assert sink.uids == [each.sop_instance_uid for each in files]


def test_a_refused_instance_is_reported_with_the_peers_comment_and_the_rest_goes_on(tmp_path: Path) -> None:
    files = [part10(tmp_path / f"{number}.dcm") for number in range(3)]

    def store(event: evt.Event) -> Any:
        status = Dataset()
        status.Status = 0xA700 if event.request.AffectedSOPInstanceUID == files[1].sop_instance_uid else 0x0000
        status.ErrorComment = "disk\x07 full"
        return status

    with scp(store) as (peer, _):
        answers = list(send(files, peer))
    assert [each.status for each in answers] == [0x0000, 0xA700, 0x0000]
    assert answers[1].comment == "disk full"


def test_an_association_that_breaks_keeps_what_was_stored(tmp_path: Path) -> None:
    files = [part10(tmp_path / f"{number}.dcm") for number in range(4)]

    def store(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID == files[2].sop_instance_uid:
            event.assoc.abort()
        return 0x0000

    answers: list[Answer] = []
    with scp(store) as (peer, _), pytest.raises(PeerError, match="broke off") as caught:
        answers.extend(send(files[:2], peer))
        for each in send(files[2:], peer):
            answers.append(each)
    assert [each.status for each in answers] == [0x0000, 0x0000, None]
    assert not caught.value.permanent


def test_a_peer_that_stops_reading_is_given_up_and_leaves_no_thread(tmp_path: Path) -> None:
    small, big = part10(tmp_path / "small.dcm"), part10(tmp_path / "big.dcm", size=64)
    big.path.write_bytes(big.path.read_bytes() + bytes(20_000_000))  # more than the sockets' buffers hold
    with Storescp(tmp_path / "out") as storescp, Sender(storescp.peer, timeouts=QUICK) as sender:
        assert sender.store(small).status == 0x0000
        with stopped(storescp.process.popen.pid):
            assert sender.store(big).status is None
    until(lambda: not association_threads(), "the association's threads have ended")


def test_a_peer_that_answers_too_late_is_given_up(tmp_path: Path, sink: SinkPacs) -> None:
    file = part10(tmp_path / "a.dcm")
    with Sender(sink_peer(sink), timeouts=QUICK) as sender:
        sink.pause()
        assert sender.store(file).status is None
        sink.resume()
        assert sender.store(file).status == 0x0000


def test_an_open_association_is_used_again_and_released_when_idle(tmp_path: Path) -> None:
    associations: list[object] = []
    with scp(lambda event: 0x0000, classes=(CT, MR)) as (peer, ae):
        ae._servers[0].bind(evt.EVT_ESTABLISHED, associations.append)
        with Sender(peer, idle=0.3) as sender:
            for number in range(3):
                sender.store(part10(tmp_path / f"{number}.dcm"))
            assert len(associations) == 1
            until(lambda: not ae._servers[0].active_associations, "the idle association is released")
            assert sender.store(part10(tmp_path / "mr.dcm", sop_class=MR)).status == 0x0000
            assert sender.store(part10(tmp_path / "ct.dcm")).status == 0x0000
            assert len(associations) == 2, "earlier contexts are proposed again"
    until(lambda: not association_threads(), "the association's threads have ended")


def test_a_peer_that_was_restarted_is_called_again(tmp_path: Path, sink: SinkPacs) -> None:
    file = part10(tmp_path / "a.dcm")
    with Sender(sink_peer(sink)) as sender:
        assert sender.store(file).status == 0x0000
        sink.stop()
        until(lambda: not association_threads(), "the lost association is noticed")
        with pytest.raises(PeerError, match="cannot be reached"):
            sender.store(file)
        sink.start()
        assert sender.store(file).status == 0x0000
    assert sink.uids == [file.sop_instance_uid] * 2


def test_a_permanent_rejection_is_told_from_a_transient_one(tmp_path: Path) -> None:
    file = part10(tmp_path / "a.dcm")
    strict = scp(lambda event: 0x0000, require_called_aet=True)
    with strict as (peer, _), pytest.raises(PeerError, match="called AE title not recognized") as wrong_title:
        list(send([file], Peer("OTHER", peer.host, peer.port)))
    with scp(lambda event: 0x0000, maximum_associations=1) as (peer, _), Sender(peer) as first:
        first.store(file)
        with pytest.raises(PeerError, match="local limit exceeded") as busy:
            list(send([file], peer))
    assert wrong_title.value.permanent
    assert not busy.value.permanent


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_that_speaks_no_dicom_is_named(answer: bytes) -> None:
    with tcp(answer) as peer, pytest.raises(PeerError, match="did not answer the association request"):
        echo(peer, timeouts=QUICK)


def test_a_closed_port_an_unknown_host_and_an_impossible_title_are_told_apart() -> None:
    with pytest.raises(PeerError, match="cannot be reached"):
        echo(Peer("X", "127.0.0.1", free_port()), timeouts=QUICK)
    with pytest.raises(PeerError, match="does the host name exist"):
        echo(Peer("X", "no-such-host.invalid", 104), timeouts=QUICK)
    with pytest.raises(PeerError, match="16 characters") as caught:
        echo(Peer("X" * 17, "127.0.0.1", 104), timeouts=QUICK)
    assert caught.value.permanent


def test_a_peer_without_a_limit_gets_pdus_of_a_bounded_length(tmp_path: Path) -> None:
    lengths: list[int] = []
    with scp(lambda event: 0x0000, maximum_pdu_size=0) as (peer, ae):
        ae._servers[0].bind(evt.EVT_DATA_RECV, lambda event: lengths.append(len(event.data)))
        assert next(send([part10(tmp_path / "a.dcm", size=60_000)], peer)).status == 0x0000
        small = max(lengths)
        big = part10(tmp_path / "big.dcm")
        big.path.write_bytes(big.path.read_bytes() + bytes(1_000_000))
        assert next(send([big], peer)).status == 0x0000
    assert small < max(lengths) <= 256 * 1024 + 6


def test_an_echo_takes_a_moment_or_says_why_not(orthanc: Orthanc) -> None:
    assert echo(orthanc.peer) > 0
    with scp(lambda event: 0x0000) as (peer, _), pytest.raises(PeerError, match="not the C-ECHO"):
        echo(peer)


def test_what_is_no_part_10_file_is_not_sent(tmp_path: Path) -> None:
    whole = part10(tmp_path / "whole.dcm").path
    offset = split_dataset(whole)[1]
    cut, text, headless = tmp_path / "cut.dcm", tmp_path / "notes.txt", tmp_path / "headless.dcm"
    cut.write_bytes(whole.read_bytes()[:offset])
    text.write_text("hello " * 100)
    headless.write_bytes(whole.read_bytes()[:132] + whole.read_bytes()[offset:])
    for path in (cut, text, headless):
        with pytest.raises(NotDicomError, match=path.name):
            read_outgoing(path)


def test_a_file_that_went_away_is_named_and_the_sender_goes_on(tmp_path: Path, sink: SinkPacs) -> None:
    gone, there = part10(tmp_path / "gone.dcm"), part10(tmp_path / "there.dcm")
    gone.path.unlink()
    with Sender(sink_peer(sink)) as sender:
        with pytest.raises(SpoolError, match=r"gone\.dcm"):
            sender.store(gone)
        assert sender.store(there).status == 0x0000


def test_the_sink_writes_what_it_got_and_counts_duplicates(tmp_path: Path, sink: SinkPacs) -> None:
    file = part10(tmp_path / "a.dcm")
    list(send([file, file], sink_peer(sink), calling_aet="MODALITY"))
    first, second = sink.wait_for(2)
    assert first.sop_instance_uid == second.sop_instance_uid
    assert first.calling_aet == "MODALITY"
    assert first.path and second.path and first.path != second.path
    assert data_sha256(first.path) == first.sha256 == data_sha256(file.path)
    with pytest.raises(PeerError, match="2 of 3"):
        sink.wait_for(3, timeout=0.1)


def test_the_sink_runs_alone_and_ends_on_a_signal(tmp_path: Path) -> None:
    file, port = part10(tmp_path / "a.dcm"), free_port()
    command = [sys.executable, "-m", "radnode.testing.sink", "--port", str(port), "--folder", str(tmp_path / "got")]
    process = Process(command, tmp_path / "sink.log", cwd=tmp_path)
    process.wait_until(lambda: listens(port), "the sink listens")
    assert next(send([file], Peer("SINK", "127.0.0.1", port))).status == 0x0000
    until(lambda: file.sop_instance_uid in process.output(), "the sink shows what came")
    assert process.end(signal.SIGINT) == 0
    assert [data_sha256(each) for each in (tmp_path / "got").glob("*.dcm")] == [data_sha256(file.path)]
