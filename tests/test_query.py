"""Asking peers: a real Orthanc, and SCPs that are slow, endless, or answer nonsense."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from radnode.dicom.peer import Peer, Timeouts
from radnode.dicom.query import Fetched, find, get, move
from radnode.domain.errors import PeerError
from radnode.testing.sink import SinkPacs
from tests.peers import Orthanc, free_port, until
from tests.road import series_uid, small_ct, study_uid, two_series, uids

QUICK = Timeouts(connect=2, association=2, response=1)


@contextmanager
def answering(find_handler: Callable[[evt.Event], Any], *, find_it: bool = True) -> Iterator[Peer]:
    """An SCP whose answers to C-FIND are those of `find_handler`."""
    ae = AE(ae_title="SCP")
    model = StudyRootQueryRetrieveInformationModelFind if find_it else Verification
    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        contexts=[build_context(model)],
        evt_handlers=[(evt.EVT_C_FIND, find_handler)],
    )
    try:
        yield Peer("SCP", "127.0.0.1", server.socket.getsockname()[1])
    finally:
        ae.shutdown()


def image(uid: str) -> Dataset:
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2", "1.2.3", uid
    return ds


def ask(peer: Peer, **options: Any) -> list[str]:
    keys = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    found = find(peer, "IMAGE", keys, ("SOPInstanceUID",), **({"timeouts": QUICK} | options))
    return [each["SOPInstanceUID"] for each in found]


def test_orthanc_says_what_it_has_of_a_study_its_series_and_their_images(tmp_path: Path, orthanc: Orthanc) -> None:
    axial, scouts = two_series(tmp_path / "study", 8101)
    orthanc.upload(*axial, *scouts)
    of_study = {"StudyInstanceUID": study_uid(axial)}
    (study,) = find(orthanc.peer, "STUDY", of_study, ("PatientID", "AccessionNumber"))
    assert study == of_study | {"PatientID": "PHANTOM8101", "AccessionNumber": "ACC8101"}
    found = find(orthanc.peer, "SERIES", of_study, ("SeriesInstanceUID", "NumberOfSeriesRelatedInstances"))
    counted = {each["SeriesInstanceUID"]: int(each["NumberOfSeriesRelatedInstances"]) for each in found}
    assert counted == {series_uid(axial): 4, series_uid(scouts): 2}
    of_series = of_study | {"SeriesInstanceUID": series_uid(axial)}
    images = find(orthanc.peer, "IMAGE", of_series, ("SOPInstanceUID",))
    assert sorted(each["SOPInstanceUID"] for each in images) == uids(axial)
    two = uids(axial)[:2]
    some = find(orthanc.peer, "IMAGE", of_series | {"SOPInstanceUID": "\\".join(two)})
    assert sorted(each["SOPInstanceUID"] for each in some) == two
    assert find(orthanc.peer, "STUDY", {"StudyInstanceUID": "1.2.3.4"}) == []


def test_orthanc_sends_what_it_is_asked_for_to_an_ae_it_knows(tmp_path: Path, orthanc: Orthanc) -> None:
    files = small_ct(tmp_path / "study", 8102)
    orthanc.upload(*files)
    keys = {
        "StudyInstanceUID": study_uid(files),
        "SeriesInstanceUID": series_uid(files),
        "SOPInstanceUID": "\\".join(uids(files)[:2]),
    }
    with SinkPacs(aet="MOVED") as sink:
        orthanc.knows("moved", "MOVED", sink.port)
        orthanc.knows("radnode", "RADNODE", sink.port)
        assert move(orthanc.peer, "IMAGE", keys, "MOVED").completed == 2
        assert sorted(sink.uids) == uids(files)[:2]
    with pytest.raises(PeerError, match="0x"):
        move(orthanc.peer, "IMAGE", keys, "NOBODY")


def test_orthanc_hands_over_what_it_is_asked_for_byte_for_byte(tmp_path: Path, orthanc: Orthanc) -> None:
    files = small_ct(tmp_path / "study", 8103)
    orthanc.knows("radnode", "RADNODE", 104)
    orthanc.upload(*files)
    wanted = files[1]
    keys = {
        "StudyInstanceUID": study_uid(files),
        "SeriesInstanceUID": series_uid(files),
        "SOPInstanceUID": uids([wanted])[0],
    }
    meta = dcmread(wanted, stop_before_pixels=True).file_meta
    contexts = [(str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))]
    taken: list[tuple[str, str, bytes]] = []

    def take(each: Fetched) -> int:
        taken.append((each.sop_instance_uid, each.transfer_syntax_uid, bytes(each.data)))
        return 0x0000

    assert get(orthanc.peer, "IMAGE", keys, contexts, take).completed == 1
    assert taken == [(uids([wanted])[0], contexts[0][1], wanted.read_bytes()[split_dataset(wanted)[1] :])]


def test_answers_about_something_else_are_passed_over() -> None:
    def everything(event: evt.Event) -> Any:
        other = image("9.9")
        other.SeriesInstanceUID = "7.7"
        yield 0xFF00, other
        yield 0xFF00, image("1")
        bare = Dataset()
        bare.SOPInstanceUID = "2"
        yield 0xFF00, bare

    with answering(everything) as peer:
        assert ask(peer) == ["1", "2"]


def test_a_peer_that_never_ends_answering_is_not_listened_to() -> None:
    def endless(event: evt.Event) -> Any:
        for number in range(10_000):
            yield 0xFF00, image(str(number))

    with answering(endless) as peer, pytest.raises(PeerError, match="more than 50"):
        ask(peer, most=50)


def test_a_peer_that_hangs_or_drips_costs_a_bounded_time() -> None:
    free = threading.Event()

    def hanging(event: evt.Event) -> Any:
        free.wait(30)
        yield 0x0000, None

    def dripping(event: evt.Event) -> Any:
        for number in range(1000):
            free.wait(0.05)
            yield 0xFF00, image(str(number))

    with answering(hanging) as peer, pytest.raises(PeerError, match="in time"):
        ask(peer)
    with answering(dripping) as peer, pytest.raises(PeerError, match="too long"):
        ask(peer, seconds=0.5)
    free.set()
    until(lambda: not [each for each in threading.enumerate() if "Requestor" in each.name], "no thread is left")


def test_a_refusal_is_said_with_its_status() -> None:
    with answering(lambda event: iter([(0xA700, None)])) as peer, pytest.raises(PeerError, match="0xA700") as caught:
        ask(peer)
    assert not caught.value.permanent


def test_a_peer_that_takes_no_queries_and_one_that_is_not_there_are_said() -> None:
    with answering(lambda event: iter([]), find_it=False) as peer, pytest.raises(PeerError, match="queries") as caught:
        ask(peer)
    assert caught.value.permanent
    with pytest.raises(PeerError, match="cannot be reached"):
        ask(Peer("NOBODY", "127.0.0.1", free_port()))
