"""The receiver's TLS port, with real senders and with those that mean no good."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from pynetdicom import AE

from radnode.dicom.negotiation import Policy
from radnode.dicom.tls import server_context
from radnode.domain.errors import SettingsError
from radnode.run import live
from radnode.run.counting import NoMetrics
from radnode.run.receiver import Flusher, Receiver, accept, drain
from radnode.settings import load
from radnode.state.presence import Barrier, Presence
from radnode.state.spool import Spool, Watermark
from tests.keys import Keys, openssl
from tests.peers import Orthanc, tool
from tests.receiving import CT, EXPLICIT, Peer, Running, data_set, pdu, request, store, wait_for

CT_FILE = Path(get_testdata_file("CT_small.dcm"))


class Counting(NoMetrics):
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def association(self, event: str, reason: str) -> None:
        self.events.append((event, reason))


@contextmanager
def secured(
    home: Path, context: ssl.SSLContext, *, plain: bool = True, **policy: object
) -> Iterator[tuple[Running, int]]:
    """A receiver with a TLS port, beside a plain one or alone; `Running.port` is the plain one's."""
    spool = Spool(home / "spool")
    listener, tls_listener = (socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(2))
    given = partial(Policy, aets=("RADNODE",), allowed=lambda aet, _: aet != "EVIL", tls=context)
    receiver = Receiver(spool, lambda _: given(**policy), Counting())
    node = Running(receiver, spool, listener.getsockname()[1], Barrier(home / "run"))
    presence = Presence(home / "run", "receiver-0-a")
    flusher = Flusher(receiver, node.record, presence, node.barrier)
    stop = threading.Event()
    accepting = threading.Thread(target=accept, args=(listener if plain else None, receiver, stop, tls_listener))
    accepting.start()
    flusher.start()
    try:
        yield node, tls_listener.getsockname()[1]
    finally:
        stop.set()
        accepting.join()
        drain(receiver, 5)
        flusher.finish()
        presence.leave()
        listener.close()
        tls_listener.close()
        assert receiver.idle()


def client(keys: Keys, name: str = "", newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=keys.authority)
    context.maximum_version = newest
    if name:
        context.load_cert_chain(*keys.of(name))
    return context


class TlsPeer(Peer):
    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")


@pytest.fixture
def both(tmp_path: Path, keys: Keys) -> Iterator[tuple[Running, int]]:
    with secured(tmp_path, server_context(*keys.of("node"))) as doors:
        yield doors


@pytest.fixture
def strict(tmp_path: Path, keys: Keys) -> Iterator[tuple[Running, int]]:
    """Senders need a certificate that names their AE title."""
    with secured(tmp_path, server_context(*keys.of("node"), keys.authority), tls_match_aet=True) as doors:
        yield doors


# ---- real senders ----------------------------------------------------------------------------------------------------


def storescu(port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [tool("storescu"), "-aec", "RADNODE", *arguments, "127.0.0.1", str(port), str(CT_FILE)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("profile", [(), ("+py",), ("+px",)], ids=["default", "BCP 195", "BCP 195 ND"])
def test_dcmtk_stores_over_tls(both: tuple[Running, int], keys: Keys, profile: tuple[str, ...]) -> None:
    node, port = both
    done = storescu(port, "+tla", "+cf", keys.authority, *profile)
    assert done.returncode == 0, done.stderr
    (arrival,) = node.stored()
    assert pydicom.dcmread(node.spool.root / arrival.path).PixelData == pydicom.dcmread(CT_FILE).PixelData
    assert node.ended() == ["released"]


def test_a_sender_whose_certificate_names_its_title_is_taken_and_no_other(
    strict: tuple[Running, int], keys: Keys
) -> None:
    node, port = strict
    certificate, key = keys.of("SENDER")
    mine = ("+tls", key, certificate, "+cf", keys.authority)
    assert storescu(port, *mine, "-aet", "SENDER").returncode == 0
    assert "Calling AE Title Not Recognized" in storescu(port, *mine, "-aet", "ANOTHER").stderr
    assert storescu(port, "+tla", "+cf", keys.authority, "-aet", "SENDER").returncode != 0
    assert [each.calling_aet for each in node.stored()] == ["SENDER"]
    events = node.receiver.metrics.events  # type: ignore[attr-defined]
    assert ("rejected", "calling AE title not recognized") in events
    assert ("rejected", "TLS handshake failed") in events


@pytest.mark.parametrize("title", ["device", "ORTHANC", "BY_URI"])
def test_a_title_may_stand_as_cn_dns_name_or_uri(strict: tuple[Running, int], keys: Keys, title: str) -> None:
    node, port = strict
    with TlsPeer(port, client(keys, "device")) as peer:
        assert peer.accepted(calling=title.encode()).store().status == 0
        peer.release()
    with TlsPeer(port, client(keys, "device")) as peer:
        assert peer.send(request(calling=b"SENDER")).rejected() == (1, 1, 3)
    assert node.stored()[0].calling_aet == title


def test_senders_of_the_routing_hold_over_tls_too(both: tuple[Running, int], keys: Keys) -> None:
    with TlsPeer(both[1], client(keys)) as peer:
        assert peer.send(request(calling=b"EVIL")).rejected() == (1, 1, 3)


def test_pynetdicom_stores_over_tls(both: tuple[Running, int], keys: Keys) -> None:
    node, port = both
    ae = AE(ae_title="SCU")
    ae.add_requested_context(CT, EXPLICIT)
    assoc = ae.associate("127.0.0.1", port, ae_title="RADNODE", tls_args=(client(keys), "localhost"))
    assert assoc.is_established
    ds = pydicom.dcmread(CT_FILE)
    for _ in range(3):
        ds.SOPInstanceUID = generate_uid()
        assert assoc.send_c_store(ds).Status == 0
    assoc.release()
    assert assoc.is_released
    node.stored(3)


def test_orthanc_stores_over_tls_with_its_certificate(strict: tuple[Running, int], keys: Keys, tmp_path: Path) -> None:
    node, port = strict
    certificate, key = keys.of("device")
    settings = {
        "DicomTlsEnabled": False,
        "DicomTlsCertificate": certificate,
        "DicomTlsPrivateKey": key,
        "DicomTlsTrustedCertificates": keys.authority,
    }
    with Orthanc(tmp_path / "orthanc", settings=settings) as orthanc:
        orthanc.upload(CT_FILE)
        modality = {"AET": "RADNODE", "Host": "localhost", "Port": port, "UseDicomTls": True, "Timeout": 60}
        orthanc.request("PUT", "/modalities/node", modality)
        orthanc.store_to("node", str(pydicom.dcmread(CT_FILE).StudyInstanceUID))
    assert node.stored()[0].calling_aet == "ORTHANC"


def test_a_large_object_comes_through_whole(both: tuple[Running, int], keys: Keys) -> None:
    node, port = both
    pixels = os.urandom(20 << 20)
    with TlsPeer(port, client(keys)) as peer:
        data = data_set("1.2.3", PixelData=pixels)
        assert peer.accepted().store("1.2.3", data).status == 0
        peer.release()
    assert (node.spool.root / node.stored()[0].path).read_bytes().endswith(data)


# ---- what is not taken -----------------------------------------------------------------------------------------------


def test_older_versions_weaker_ciphers_and_foreign_certificates_are_refused(
    tmp_path: Path, both: tuple[Running, int], keys: Keys
) -> None:
    old = client(keys)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1  # type: ignore[assignment]
    weak = client(keys, newest=ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA")
    for context in (old, weak):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TlsPeer(both[1], context)
    strict = server_context(*keys.of("node"), keys.authority)
    with secured(tmp_path / "strict", strict) as (node, port):
        foreign = client(keys, "foreign")
        with pytest.raises((OSError, EOFError)):
            TlsPeer(port, foreign).send(request()).pdu()
        with TlsPeer(port, client(keys, "SENDER")) as peer:
            assert peer.accepted().store().status == 0
            peer.release()
        assert node.ended() == ["released"]


def test_only_tls_1_3_can_be_asked_for(tmp_path: Path, keys: Keys) -> None:
    with secured(tmp_path, server_context(*keys.of("node"), minimum="1.3"), plain=False) as (node, port):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TlsPeer(port, client(keys, newest=ssl.TLSVersion.TLSv1_2))
        with TlsPeer(port, client(keys)) as peer:
            assert peer.sock.version() == "TLSv1.3"  # type: ignore[attr-defined]
            peer.accepted().release()
        assert node.ended() == ["released"]


def test_what_cannot_be_used_as_a_certificate_stops_the_start(tmp_path: Path, keys: Keys) -> None:
    certificate, key = keys.of("node")
    locked = tmp_path / "locked.key"
    openssl("ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked)
    no_pem = str(CT_FILE)
    for arguments, said in (
        ((certificate, str(tmp_path / "none.key")), "No such file"),
        ((certificate, keys.of("SENDER")[1]), "key values mismatch"),
        ((certificate, str(locked)), "passphrase"),
        ((no_pem, key), "pem"),
        ((certificate, key, str(tmp_path / "none.crt")), "RADNODE_TLS_CA"),
    ):
        with pytest.raises(SettingsError, match=said):
            server_context(*arguments)


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "now.crt", tmp_path / "now.key"

    def install(name: str) -> None:
        for place, path in zip((certificate, key), keys.of(name), strict=True):
            place.write_bytes(Path(path).read_bytes())

    install("node")
    given = {"RADNODE_HOME": str(tmp_path), "RADNODE_TLS_PORT": "2762", "RADNODE_TLS_CERT": str(certificate)}
    node = load(given | {"RADNODE_TLS_KEY": str(key)}, tmp_path / "none")
    node.run.mkdir()
    policy, watermark = live.LivePolicy(node, lambda *_: True), Watermark(Spool(node.spool))
    monkeypatch.chdir(tmp_path)
    first = policy(watermark).tls
    assert policy(watermark).tls is first
    install("device")
    live.reload(node)
    second = policy(watermark).tls
    assert second is not first
    certificate.write_text("nothing")
    live.reload(node)
    assert policy(watermark).tls is second


# ---- bad peers -------------------------------------------------------------------------------------------------------


def works(port: int, keys: Keys) -> None:
    with TlsPeer(port, client(keys)) as peer:
        assert peer.accepted(calling=b"GOOD").store().status == 0
        peer.release()


def test_silent_clients_block_nobody_and_are_timed_out(tmp_path: Path, keys: Keys) -> None:
    with secured(tmp_path, server_context(*keys.of("node")), request_timeout=2.0) as (node, port):
        silent = [Peer(port) for _ in range(20)]
        works(port, keys)
        with Peer(node.port) as plain:
            plain.accepted(calling=b"GOOD").release()
        assert all(each.closed() for each in silent)
        for each in silent:
            each.sock.close()
        wait_for(node.receiver.idle)


@pytest.mark.parametrize(
    "said", [request(), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" + b"\xff" * 512, pdu(7, bytes(4)), b"\x16"]
)
def test_plain_bytes_on_the_tls_port_end_that_connection(both: tuple[Running, int], keys: Keys, said: bytes) -> None:
    node, port = both
    with Peer(port) as peer:
        peer.send(said)
        with suppress(OSError):  # the node may have ended it already
            peer.sock.shutdown(socket.SHUT_WR)
            while peer.sock.recv(4096):  # a TLS alert, then the end
                pass
    works(port, keys)
    wait_for(node.receiver.idle)


def test_a_client_hello_on_the_plain_port_is_answered_by_an_abort(both: tuple[Running, int], keys: Keys) -> None:
    with pytest.raises(ssl.SSLError):
        TlsPeer(both[0].port, client(keys))
    with Peer(both[0].port) as peer:
        peer.accepted(calling=b"GOOD").release()


def _vanish(peer: TlsPeer) -> None:
    peer.sock.close()


def _end_without_close_notify(peer: TlsPeer) -> None:
    socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)


def _fall_silent(peer: TlsPeer) -> None:
    assert peer.closed()


@pytest.mark.parametrize("end", [_vanish, _end_without_close_notify, _fall_silent])
def test_a_sender_that_stops_within_an_object_is_lost_and_leaves_nothing(
    tmp_path: Path, keys: Keys, end: Callable[[TlsPeer], None]
) -> None:
    with secured(tmp_path, server_context(*keys.of("node")), idle_timeout=1.0) as (node, port):
        with TlsPeer(port, client(keys)) as peer:
            peer.accepted().send(store("1.2.3", data_set("1.2.3"))[:20_000])
            if end is _fall_silent:
                peer.aborted()
            else:
                end(peer)
        assert node.ended() == ["lost"]
        assert node.parts() == []


def test_associations_over_tls_are_aborted_when_the_drain_is_over(both: tuple[Running, int], keys: Keys) -> None:
    node, port = both
    with TlsPeer(port, client(keys)) as peer:
        assert peer.accepted().store().status == 0
        node.receiver.abort_all()
        assert peer.aborted() == 0
    assert node.ended() == ["lost"]
