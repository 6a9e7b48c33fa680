"""The ways out, each to a real peer: DIMSE plain and over TLS, DICOMweb, a folder."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pynetdicom import AE, build_context, evt

from radnode.dicom.scu import OutgoingFile, read_outgoing
from radnode.domain.errors import PeerError
from radnode.domain.routing import Destination
from radnode.domain.routing.destinations import Tls
from radnode.run.outlets import Consignment, Outlets
from radnode.settings import load
from radnode.testing.sink import SinkPacs
from tests.keys import Keys
from tests.peers import Orthanc, tool, until
from tests.test_scu import CT, EXPLICIT, data_sha256, part10

IMPLICIT = "1.2.840.10008.1.2"
SHIPPED = (
    "MR_small_RLE.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_rle_2frame.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
)


@pytest.fixture
def outlets(tmp_path: Path) -> Iterator[Outlets]:
    settings = load({"RADNODE_HOME": str(tmp_path / "home")}, tmp_path / "none")
    settings.spool.mkdir(parents=True)
    opened = Outlets(settings, "worker-1")
    yield opened
    opened.close()


def consignment(*files: OutgoingFile, job: str = "a1b2") -> Consignment:
    return Consignment(job, 1, files, {"StudyInstanceUID": "1.2.3"})


def sent(outlets: Outlets, place: Destination, *files: OutgoingFile, job: str = "a1b2") -> list[int | None]:
    """Status of each file, in the order in which they were given."""
    with outlets.to(place) as outlet:
        answers = {each.sop_instance_uid: each.status for each in outlet.send(consignment(*files, job=job))}
    return [answers[each.sop_instance_uid] for each in files]


@contextmanager
def scp(*contexts: tuple[str, str], context: ssl.SSLContext | None = None) -> Iterator[tuple[Destination, list[Any]]]:
    """A pynetdicom SCP that takes these classes in these transfer syntaxes, and what it has taken."""
    taken: list[Any] = []

    def store(event: evt.Event) -> int:
        taken.append(event.dataset)
        taken[-1].file_meta = event.file_meta
        return 0x0000

    syntaxes: dict[str, list[str]] = {}
    for abstract, transfer in contexts:
        syntaxes.setdefault(abstract, []).append(transfer)
    ae = AE(ae_title="SCP")
    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        contexts=[build_context(*each) for each in syntaxes.items()],
        evt_handlers=[(evt.EVT_C_STORE, store)],
        ssl_context=context,
    )
    try:
        yield Destination("pacs", "SCP", "127.0.0.1", server.socket.getsockname()[1]), taken
    finally:
        ae.shutdown()


# ---- DIMSE -----------------------------------------------------------------------------------------------------------


def test_a_peer_that_takes_nothing_compressed_gets_every_syntax_decoded_and_the_same_pixels(outlets: Outlets) -> None:
    files = [read_outgoing(Path(get_testdata_file(each, download=False))) for each in SHIPPED]
    with scp(*{(each.sop_class_uid, IMPLICIT) for each in files}) as (place, taken):
        assert [sent(outlets, place, each) for each in files] == [[0x0000]] * len(files)
    for there, each in zip(taken, files, strict=True):
        here = dcmread(each.path)
        assert there.file_meta.TransferSyntaxUID == IMPLICIT
        assert np.array_equal(there.pixel_array, here.pixel_array)
        assert (there.PatientName, there.StudyInstanceUID) == (here.PatientName, here.StudyInstanceUID)


def test_what_a_peer_takes_as_it_lies_there_is_never_converted(outlets: Outlets) -> None:
    file = read_outgoing(Path(get_testdata_file("MR_small_RLE.dcm")))
    both = [(file.sop_class_uid, file.transfer_syntax_uid), (file.sop_class_uid, EXPLICIT)]
    with scp(*both) as (place, taken):
        assert sent(outlets, place, file) == [0x0000]
    assert taken[0].file_meta.TransferSyntaxUID == file.transfer_syntax_uid


def test_a_class_the_peer_does_not_take_is_refused_and_a_file_that_cannot_be_decoded_costs_only_itself(
    outlets: Outlets, tmp_path: Path
) -> None:
    good, broken = (read_outgoing(Path(get_testdata_file("JPEG2000.dcm"))) for _ in range(2))
    ds = dcmread(broken.path)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.826.1"
    ds.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(500)])
    ds.save_as(tmp_path / "broken.dcm")
    report = part10(tmp_path / "sr.dcm", sop_class="1.2.840.10008.5.1.4.1.1.88.34")
    with scp((good.sop_class_uid, EXPLICIT)) as (place, taken):
        assert sent(outlets, place, read_outgoing(tmp_path / "broken.dcm"), good, report) == [0xC000, 0x0000, 0x0122]
    assert [each.SOPInstanceUID for each in taken] == [good.sop_instance_uid]


def test_an_association_serves_the_next_delivery_until_its_destination_is_edited(
    outlets: Outlets, tmp_path: Path
) -> None:
    associations: list[evt.Event] = []
    with SinkPacs() as sink:
        sink._server.bind(evt.EVT_ESTABLISHED, associations.append)
        place = Destination("pacs", sink.aet, "127.0.0.1", sink.port)
        for number in range(3):
            assert sent(outlets, place, part10(tmp_path / f"{number}.dcm")) == [0x0000]
        assert len(associations) == 1
        edited = replace(place, aet="OTHER")
        assert sent(outlets, edited, part10(tmp_path / "4.dcm")) == [0x0000]
        assert len(associations) == 2
        until(lambda: associations[0].assoc.is_released, "the first was released, not aborted")


def test_tls_with_certificates_on_both_sides(outlets: Outlets, tmp_path: Path, keys: Keys) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*keys.of("node"))
    context.load_verify_locations(keys.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    files = [part10(tmp_path / f"{number}.dcm", size=400_000) for number in range(3)]
    with scp((CT, EXPLICIT), context=context) as (place, taken):
        secured = replace(place, tls=Tls(keys.authority, *keys.of("SENDER")))
        assert sent(outlets, secured, *files) == [0x0000] * 3
        assert [each.SOPInstanceUID for each in taken] == [each.sop_instance_uid for each in files]
        foreign = replace(place, tls=Tls(str(keys.folder / "foreign.crt")))
        with pytest.raises(PeerError, match="TLS handshake failed: certificate verify failed"):
            sent(outlets, foreign, files[0])
        with pytest.raises(PeerError, match="did not answer the association request"):
            sent(outlets, place, files[0])
        with pytest.raises(PeerError, match=r"gone\.pem"):
            sent(outlets, replace(place, tls=Tls("/gone.pem")), files[0])


# ---- DICOMweb --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    plugin = {"Plugins": [tool("libOrthancDicomWeb.so")]}
    with Orthanc(tmp_path_factory.mktemp("web") / "orthanc", settings=plugin) as running:
        yield running


def service(orthanc: Orthanc, **more: Any) -> Destination:
    return Destination("web", url=f"http://127.0.0.1:{orthanc.http_port}/dicom-web", **more)


def test_orthanc_takes_files_by_stow_and_gives_them_back_equal(outlets: Outlets, web: Orthanc, tmp_path: Path) -> None:
    files = [part10(tmp_path / f"{number}.dcm", size=300_000) for number in range(60)]
    for _ in range(2):  # again, as after a crash: it is there, and stays
        assert sent(outlets, service(web), *files) == [0x0000] * 60
    assert len(web.instances()) == 60
    (tmp_path / "back.dcm").write_bytes(web.download(files[7].sop_instance_uid))
    assert data_sha256(tmp_path / "back.dcm") == data_sha256(files[7].path)


def test_a_service_that_is_away_or_wants_a_password_is_told_apart(
    outlets: Outlets, web: Orthanc, tmp_path: Path
) -> None:
    file = part10(tmp_path / "a.dcm")
    with pytest.raises(PeerError) as away:
        sent(outlets, Destination("web", url="http://127.0.0.1:1/dicom-web"), file)
    assert not away.value.permanent
    with pytest.raises(PeerError, match="answered 404") as lost:
        sent(outlets, Destination("web", url=f"http://127.0.0.1:{web.http_port}/nowhere"), file)
    assert lost.value.permanent


STORED, FAILED = "00081199", "00081198"


@contextmanager
def answering(status: int, body: Any) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A web server that answers every POST so; and the headers it got."""
    seen: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(dict(self.headers))
            self.rfile.read(int(self.headers["Content-Length"]))
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


def item(uid: str, **numbers: int) -> dict[str, Any]:
    tags = {"reason": "00081197", "warning": "00081196"}
    given = {tags[key]: {"vr": "US", "Value": [value]} for key, value in numbers.items()}
    return {"00081155": {"vr": "UI", "Value": [uid]}, **given}


def test_each_instance_has_the_status_the_service_gave_it(outlets: Outlets, tmp_path: Path) -> None:
    files = [part10(tmp_path / f"{number}.dcm") for number in range(7)]
    good, coerced, warned, full, known, azure, strange = (each.sop_instance_uid for each in files)
    body = {
        STORED: {"vr": "SQ", "Value": [item(good), item(coerced, warning=0xB000), item(warned, warning=1)]},
        FAILED: {
            "vr": "SQ",
            "Value": [
                item(full, reason=0xA700),
                item(known, reason=0x0111),
                item(azure, reason=45070),
                item(strange, reason=0x0122),
            ],
        },
    }
    (tmp_path / "token").write_text("secret\n")
    with answering(202, body) as (url, seen):
        place = Destination("web", url=url, token_file=str(tmp_path / "token"))
        assert sent(outlets, place, *files) == [0x0000, 0xB000, 0xB000, 0xA700, 0x0000, 0x0000, 0x0122]
    assert seen[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(("status", "permanent"), [(503, False), (429, False), (400, True), (401, True), (409, True)])
def test_a_service_that_answers_with_an_error_page(
    outlets: Outlets, tmp_path: Path, status: int, permanent: bool
) -> None:
    with answering(status, b"<html>no</html>") as (url, _), pytest.raises(PeerError, match=str(status)) as caught:
        sent(outlets, Destination("web", url=url), part10(tmp_path / "a.dcm"))
    assert caught.value.permanent == permanent


# ---- a folder --------------------------------------------------------------------------------------------------------


def test_a_folder_gets_each_job_whole_and_is_never_overwritten(outlets: Outlets, tmp_path: Path) -> None:
    research = Destination("research", folder=str(tmp_path / "research"))
    files = [part10(tmp_path / f"{number}.dcm") for number in range(2)]
    with pytest.raises(PeerError, match="is not there") as unmounted:
        sent(outlets, research, *files)
    assert not unmounted.value.permanent
    (tmp_path / "research").mkdir()
    for _ in range(2):
        assert sent(outlets, research, *files) == [0x0000, 0x0000]
    there = tmp_path / "research" / "a1b2"
    assert sorted(each.name for each in there.iterdir()) == ["0.dcm", "1.dcm", "delivery.json"]
    assert json.loads((there / "delivery.json").read_text()) == {"StudyInstanceUID": "1.2.3"}
    (there / "1.dcm").write_bytes(b"somebody's own")
    assert sent(outlets, research, *files) == [0x0000, 0xC000]
    assert (there / "1.dcm").read_bytes() == b"somebody's own"


def test_a_folder_that_another_attempt_left_half_written_is_begun_anew(outlets: Outlets, tmp_path: Path) -> None:
    (tmp_path / ".part-a1b2").mkdir()
    (tmp_path / ".part-a1b2" / "0.dcm").write_bytes(b"half")
    file = part10(tmp_path / "0.dcm")
    assert sent(outlets, Destination("research", folder=str(tmp_path)), file) == [0x0000]
    assert data_sha256(tmp_path / "a1b2" / "0.dcm") == data_sha256(file.path)
