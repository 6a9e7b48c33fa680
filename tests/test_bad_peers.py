"""What the field's and the internet's worst senders do: each gets the answer it deserves, and nobody else notices.

Every test here runs beside a good association, which stores one instance when the bad peer is through; then no thread,
descriptor, slot or staging file may be left.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from radnode.state import spool as spools
from tests.receiving import (
    BIG,
    CT,
    CT_CONTEXT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    NO_DATA_SET,
    Peer,
    Running,
    command,
    context,
    data_set,
    deflate,
    item,
    open_descriptors,
    pdu,
    pdv,
    request,
    running,
    store,
    wait_for,
)

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # they are meant to be

INVALID, MISTYPED, UNRECOGNIZED, UNKNOWN_PDU, UNEXPECTED = 6, 0x0212, 0x0211, 1, 2


@contextmanager
def undisturbed(node: Running) -> Iterator[None]:
    """A good association at work all the while, and nothing left behind afterwards."""
    through = threading.Event()

    def work() -> None:
        with Peer(node.port) as good:
            good.accepted(context(1, CT, EXPLICIT), calling=b"GOOD")
            while not through.wait(0.05):
                echo = command(uid=None, field=0x0030, data=NO_DATA_SET)
                assert good.send(pdu(4, pdv(1, 3, echo))).response().status == 0
            assert good.store().status == 0
            good.release()

    with ThreadPoolExecutor(1) as pool:
        good = pool.submit(work)
        wait_for(lambda: len(node.receiver.sockets) == 1)
        threads, descriptors = threading.active_count(), open_descriptors()
        yield
        wait_for(lambda: len(node.receiver.sockets) == 1)
        wait_for(lambda: threading.active_count() == threads)
        wait_for(lambda: open_descriptors() == descriptors)
        assert node.parts() == []
        through.set()
        good.result()
    wait_for(lambda: any(each.calling_aet == "GOOD" and each.how == "released" for each in node.ends))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as node, undisturbed(node):
        yield node


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Running]:
    """A node that waits half a second for a peer."""
    with running(tmp_path, request_timeout=0.5, idle_timeout=0.5) as node, undisturbed(node):
        yield node


@pytest.fixture
def bad(node: Running) -> Iterator[Peer]:
    with Peer(node.port) as peer:
        yield peer


# ---- 1, 2, 3: connections that say nothing, or stop half-way --------------------------------------------------------


def test_probes_that_only_connect_and_close_take_no_slot(tmp_path: Path) -> None:
    with running(tmp_path, max_associations=1) as node:
        for _ in range(30):
            Peer(node.port).sock.close()
        with Peer(node.port) as peer:
            assert peer.accepted().store().status == 0
            peer.release()
        assert node.ended() == ["released"]


def test_silence_after_connecting_ends_with_the_request_timeout(hasty: Running) -> None:
    with Peer(hasty.port) as peer:
        assert peer.closed()


def test_half_a_request_ends_with_the_request_timeout(hasty: Running) -> None:
    with Peer(hasty.port) as peer:
        assert peer.send(request()[:40]).closed()


def test_a_request_that_drips_in_ends_with_the_request_timeout(hasty: Running) -> None:
    with Peer(hasty.port) as peer:
        peer.sock.settimeout(0.05)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            for byte in request() * 20:
                peer.send(bytes((byte,)))
                with suppress(TimeoutError):
                    peer.sock.recv(64)


def test_a_sender_that_stops_in_the_middle_of_a_pdu_is_timed_out(hasty: Running) -> None:
    uid = generate_uid()
    with Peer(hasty.port) as peer:
        peer.accepted().send(store(uid, data_set(uid))[:20_000])
        assert peer.aborted() == 0
    assert hasty.ended() == ["lost"]


# ---- 4, 5, 6: lengths and types that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 2**20 + 1, 2**31, 2**32 - 1])
def test_a_data_pdu_of_impossible_length_is_aborted_before_it_is_read(node: Running, bad: Peer, length: int) -> None:
    bad.accepted().send(struct.pack(">BxL", 4, length))
    assert bad.aborted() == INVALID
    assert node.ended() == ["aborted"]


def test_a_request_of_a_gigabyte_is_aborted_before_it_is_read(bad: Peer) -> None:
    bad.send(struct.pack(">BxL", 1, 1 << 30))
    assert bad.aborted() == INVALID


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">LBB", 0, 1, 3),
        struct.pack(">LB", 1, 1),
        struct.pack(">LBB", 1, 1, 3),
        struct.pack(">LBB", 400, 1, 3) + command(),
        struct.pack(">LBB", 2**32 - 1, 1, 3) + command(),
        pdv(1, 3, command()) + b"odd",
    ],
    ids=["no length", "shorter than a PDV", "length of 1", "longer than its PDU", "4 GiB", "odd bytes after it"],
)
def test_a_pdv_that_does_not_fit_its_pdu_is_aborted(node: Running, bad: Peer, body: bytes) -> None:
    bad.accepted().send(pdu(4, body))
    assert bad.aborted() == INVALID
    assert node.ended() == ["aborted"]


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9,
        pdu(9, b"what"),
    ],
    ids=["HTTP", "SSH", "TLS", "unknown PDU"],
)  # fmt: skip
def test_other_protocols_are_aborted_as_unrecognized(bad: Peer, noise: bytes) -> None:
    bad.send(noise)
    assert bad.aborted() == UNKNOWN_PDU


def test_an_unknown_pdu_in_an_association_is_aborted_as_unrecognized(bad: Peer) -> None:
    bad.accepted().send(pdu(9, b"what"))
    assert bad.aborted() == UNKNOWN_PDU


@pytest.mark.parametrize("kind", [2, 3, 4, 5, 6])
def test_a_connection_that_starts_with_another_pdu_is_aborted_as_unexpected(bad: Peer, kind: int) -> None:
    bad.send(pdu(kind, bytes(4)))
    assert bad.aborted() == UNEXPECTED


def test_a_second_request_in_an_association_is_aborted_as_unexpected(bad: Peer) -> None:
    bad.accepted().send(request())
    assert bad.aborted() == UNEXPECTED


# ---- 7, 8: messages in the wrong order, contexts that are none ------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        pdu(4, pdv(1, 2, b"data")),
        pdu(4, pdv(1, 3, command())) * 2,
        pdu(4, pdv(1, 3, command()) + pdv(1, 0, b"data") + pdv(1, 3, command())),
        pdu(4, pdv(1, 3, command()) + pdv(1, 0, data_set("1.2.3"))) + pdu(5, bytes(4)),
        pdu(4, pdv(1, 1, command()[:20])) + pdu(5, bytes(4)),
    ],
    ids=["data before its command", "two commands", "command inside data", "release before the last fragment",
         "release inside the command"],
)  # fmt: skip
def test_a_message_out_of_order_is_aborted(node: Running, bad: Peer, messages: bytes) -> None:
    bad.accepted().send(messages)
    assert bad.aborted() == UNEXPECTED
    assert node.ended() == ["aborted"]


@pytest.mark.parametrize("number", [0, 2, 5, 255])
def test_a_message_on_a_context_that_is_even_unknown_or_refused_is_aborted(bad: Peer, number: int) -> None:
    bad.accepted(CT_CONTEXT, context(5, "1.2.840.10008.5.1.4.31", EXPLICIT))
    bad.send(store("1.2.3", data_set("1.2.3"), number))
    assert bad.aborted() == INVALID


def test_a_data_set_on_another_context_than_its_command_is_aborted(bad: Peer) -> None:
    bad.accepted(CT_CONTEXT, context(3, CT, IMPLICIT))
    bad.send(pdu(4, pdv(1, 3, command())) + pdu(4, pdv(3, 2, data_set("1.2.3"))))
    assert bad.aborted() == UNEXPECTED


@pytest.mark.parametrize("body", [b"", b"garbage", b"\xff" * 64, command()[:-3], bytes(70_000)])
def test_a_command_set_that_is_none_is_aborted(bad: Peer, body: bytes) -> None:
    pieces = [pdv(1, 1, body[at : at + 30_000]) for at in range(0, len(body), 30_000)]
    bad.accepted().send(b"".join(pdu(4, piece) for piece in [*pieces, pdv(1, 3, b"")]))
    assert bad.aborted() == INVALID


# ---- 9, 10: commands that are wrong cost their instance, not the association ----------------------------------------


@pytest.mark.parametrize(
    "uid",
    [b"", b"1" * 65, b"1." * 5000 + b"1", b"../../etc/passwd", b"1.2\x00.3", "1.2.é".encode(), b"1.2.3/4", b".1.2"],
    ids=["empty", "65 long", "10 kB", "a path", "a NUL", "not ASCII", "a slash", "starts with a dot"],
)
def test_an_instance_uid_that_is_none_is_refused_with_0117(node: Running, bad: Peer, uid: bytes) -> None:
    bad.accepted()
    answer = bad.send(pdu(4, pdv(1, 3, command(uid))) + pdu(4, pdv(1, 2, data_set("1.2.3")))).response()
    assert (answer.status, answer.message) == (0x0117, 7)
    assert bad.store().status == 0
    bad.release()
    assert len(node.stored()) == 1


@pytest.mark.parametrize("uid", ["1.2.3 ", "1.02.003", "0.1"])
def test_an_instance_uid_that_is_merely_untidy_is_taken(node: Running, bad: Peer, uid: str) -> None:
    bad.accepted()
    data = data_set(uid.strip())
    answer = bad.send(pdu(4, pdv(1, 3, command(uid))) + pdu(4, pdv(1, 2, data))).response()
    assert answer.status == 0
    bad.release()
    assert node.stored()[0].sop_instance_uid == uid.strip()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (command(message=None), MISTYPED),
        (command(uid=None), MISTYPED),
        (command(sop_class=None), MISTYPED),
        (command(sop_class="1.2.840.10008.5.1.4.1.1.4"), 0xA900),
        (command(field=0x0777), UNRECOGNIZED),
        (command(field=0x0020), UNRECOGNIZED),
        (command(group_length=999_999), 0),
        (command(group_length=0), 0),
        (command(data=None), 0),
    ],
    ids=["no message ID", "no instance UID", "no class UID", "another class", "unknown field", "C-FIND",
         "group length too long", "group length zero", "no data set type"],
)  # fmt: skip
def test_a_mistyped_command_gets_its_status_and_the_next_one_its_own(bad: Peer, said: bytes, status: int) -> None:
    bad.accepted().send(pdu(4, pdv(1, 3, said)) + pdu(4, pdv(1, 2, data_set("1.2.3"))))
    assert bad.response().status == status
    assert bad.store().status == 0
    bad.release()


def test_a_store_without_a_data_set_is_refused_and_not_acknowledged(node: Running, bad: Peer) -> None:
    bad.accepted().send(pdu(4, pdv(1, 3, command(data=NO_DATA_SET))))
    assert bad.response().status == MISTYPED
    assert bad.store().status == 0
    bad.release()
    assert len(node.stored()) == 1


def test_an_empty_data_set_is_refused_and_not_acknowledged(node: Running, bad: Peer) -> None:
    bad.accepted().send(pdu(4, pdv(1, 3, command()) + pdv(1, 2, b"")))
    assert bad.response().status == 0xC000
    bad.release()
    assert node.ended() == ["released"]
    assert not node.arrivals


def test_a_cancel_is_passed_over(bad: Peer) -> None:
    bad.accepted().send(pdu(4, pdv(1, 3, command(field=0x0FFF, data=NO_DATA_SET))))
    assert bad.store().status == 0
    bad.release()


# ---- 11: requests without waiting for responses ---------------------------------------------------------------------


def test_pipelined_requests_are_answered_one_by_one_in_their_order(node: Running, bad: Peer) -> None:
    uids = [generate_uid() for _ in range(20)]
    sender = threading.Thread(target=bad.accepted().send, args=(b"".join(store(u, data_set(u)) for u in uids),))
    sender.start()
    assert [bad.response().uid for _ in uids] == uids
    sender.join()
    bad.release()
    assert [each.sop_instance_uid for each in node.stored(20)] == uids


def test_a_peer_that_never_reads_its_responses_is_lost(hasty: Running) -> None:
    echo = pdu(4, pdv(1, 3, command(field=0x0030, data=NO_DATA_SET))) * 5000
    with Peer(hasty.port) as peer:
        peer.accepted()
        with pytest.raises(OSError, match=r"timed out|Broken pipe|reset"):
            while True:
                peer.send(echo)
    assert hasty.ended() == ["lost"]


# ---- 12: ends at every place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["abort", "reset", "close"])
def test_an_association_that_ends_anywhere_leaves_nothing_but_its_end(node: Running, way: str) -> None:
    uid = generate_uid()
    whole = store(uid, data_set(uid)[:3000] + bytes(8), fragment=1200)
    cuts = [*range(0, 40), *range(40, len(whole), 97), len(whole) - 1]
    for cut in cuts:
        with Peer(node.port) as peer:
            peer.accepted().send(whole[:cut])
            if way == "abort":
                peer.send(pdu(7, bytes(4)))
            elif way == "reset":
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert len(node.ended(len(cuts))) == len(cuts)
    assert node.arrivals == []


def test_an_abort_between_the_last_fragment_and_its_response_keeps_what_was_received(node: Running, bad: Peer) -> None:
    uid = generate_uid()
    bad.accepted().send(store(uid, data_set(uid)) + pdu(7, bytes(4)))
    assert node.stored()[0].sop_instance_uid == uid
    assert node.ended() == ["aborted"]


# ---- 13, 14, 15, 16: negotiation ------------------------------------------------------------------------------------


def test_128_contexts_are_accepted(bad: Peer) -> None:
    bad.accepted(*[context(number, CT, EXPLICIT) for number in range(1, 256, 2)])
    assert [each[2] for each in bad.items(0x21)] == [0] * 128
    assert bad.store(number=255).status == 0
    bad.release()


@pytest.mark.parametrize("numbers", [(1, 1), (1, 2), (0,)], ids=["twice", "even", "zero"])
def test_context_ids_that_are_even_or_used_twice_are_aborted(bad: Peer, numbers: tuple[int, ...]) -> None:
    bad.send(request(*[context(number, CT, EXPLICIT) for number in numbers]))
    assert bad.aborted() == INVALID


def test_a_request_without_contexts_is_rejected(bad: Peer) -> None:
    bad.send(request(b""))
    assert bad.rejected() == (1, 1, 1)


def test_a_context_is_judged_by_itself(bad: Peer) -> None:
    huge = b"1." * 8000
    bad.accepted(
        context(1, CT, EXPLICIT),
        context(3, CT),
        context(5, huge, EXPLICIT),
        context(7, CT, huge),
        context(9, CT, huge, "1.2.840.113619.5.2"),
        context(11, "1.2.840.10008.5.1.4.1.2.2.1", IMPLICIT),
        context(13, b"not a UID", IMPLICIT),
        context(15, "1.2.840.10008.1.20.1", IMPLICIT),
    )
    results = {each[0]: (each[2], each[8:].decode()) for each in bad.items(0x21)}
    assert {number: result for number, (result, _) in results.items()} == {
        1: 0, 3: 4, 5: 3, 7: 4, 9: 0, 11: 3, 13: 3, 15: 3,
    }  # fmt: skip
    assert results[9][1] == "1.2.840.113619.5.2"
    assert bad.store().status == 0
    bad.release()


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"called": b""}, (1, 1, 7)),
        ({"called": b"SOMEBODYELSE"}, (1, 1, 7)),
        ({"calling": b""}, (1, 1, 3)),
        ({"calling": b"A\nB"}, (1, 1, 3)),
        ({"calling": b"A\\B"}, (1, 1, 3)),
        ({"version": 2}, (1, 2, 2)),
        ({"application": b"1.2.3"}, (1, 1, 2)),
        ({"max_pdu": 1}, (1, 1, 1)),
        ({"max_pdu": 7}, (1, 1, 1)),
    ],
    ids=str,
)
def test_a_rejection_reaches_the_peer_with_its_reason(bad: Peer, given: dict, answer: tuple[int, int, int]) -> None:
    bad.send(request(**given))
    assert bad.rejected() == answer


def test_the_log_names_the_title_that_a_peer_asked_for(bad: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    bad.send(request(called=b"RADNOED"))
    assert bad.rejected() == (1, 1, 7)
    said = capsys.readouterr()
    assert "called AE title not recognized: 'RADNOED'" in said.out + said.err


@pytest.mark.parametrize("called", [b"RADNODE", b"SECOND", b"RADNODE\0\0", b" RADNODE"])
def test_every_own_title_is_answered_however_it_is_padded(bad: Peer, called: bytes) -> None:
    bad.accepted(called=called).release()


def test_a_calling_title_beyond_ascii_is_a_title(node: Running, bad: Peer) -> None:
    assert bad.accepted(calling="MÜNCHEN".encode("latin-1")).store().status == 0
    bad.release()
    arrival = node.stored()[0]
    assert arrival.calling_aet == "MÜNCHEN"
    raw = (node.spool.root / arrival.path).read_bytes()[:400]
    assert "MÜNCHEN".encode("latin-1") in raw


@pytest.mark.parametrize("windows", [(0, 0), (8, 8)])
def test_asynchronous_operations_are_answered_with_one(bad: Peer, windows: tuple[int, int]) -> None:
    bad.accepted(user=item(0x53, struct.pack(">HH", *windows)))
    assert bad.items(0x53) == [struct.pack(">HH", 1, 1)]
    bad.release()


def test_a_role_is_answered_and_extended_negotiation_is_not(bad: Peer) -> None:
    def role(uid: str, scu: int, scp: int) -> bytes:
        return struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp))

    bad.accepted(user=item(0x54, role(CT, 1, 1)) + item(0x54, role("1.2.3", 1, 0)) + item(0x56, role(CT, 1, 1)))
    assert bad.items(0x54) == [role(CT, 1, 0)]
    assert bad.items(0x56) == []
    assert bad.store().status == 0
    bad.release()


def test_user_identity_is_accepted_and_passed_on(node: Running, bad: Peer) -> None:
    name = "Fr. Müller\n".encode()
    identity = bytes((2, 1)) + struct.pack(">H", len(name)) + name + struct.pack(">H", 6) + b"secret"
    assert bad.accepted(user=item(0x58, identity)).store().status == 0
    assert bad.items(0x59) == [b"\0\0"]
    bad.release()
    assert node.stored()[0].user_identity == "Fr. Müller"


@pytest.mark.parametrize(
    "user",
    [
        item(0x53, b"\0"[:0]) + struct.pack(">BxH", 0x54, 90),
        item(0x54, struct.pack(">H", 500) + CT.encode()),
        item(0x54, b""),
        item(0x58, b"\1\1" + struct.pack(">H", 500) + b"name"),
        item(0x58, b"\1"),
        item(0x51, b"\0\1"),
    ],
    ids=["item beyond its end", "role beyond its end", "empty role", "identity beyond its end", "short identity",
         "short size"],
)  # fmt: skip
def test_user_information_of_bad_length_is_aborted(bad: Peer, user: bytes) -> None:
    bad.send(request(user=user))
    assert bad.aborted() == INVALID


def test_every_cut_of_a_request_is_survived(node: Running) -> None:
    body = request(user=item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\0"))[6:]
    for cut in range(0, len(body), 3):
        with Peer(node.port) as peer:
            kind, _ = peer.send(pdu(1, body[:cut])).pdu()
            assert kind in (2, 3, 7)


@pytest.mark.parametrize("max_pdu", [0, 8, 33, 2**32 - 1])
def test_responses_fit_the_peers_pdu_length(bad: Peer, max_pdu: int) -> None:
    bad.accepted(max_pdu=max_pdu)
    uid = generate_uid()
    answer = bad.store(uid)
    assert (answer.status, answer.uid) == (0, uid)
    bad.release()


# ---- 17: data sets --------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """Sequences of undefined length inside each other; pydicom itself gives up at about 250."""
    begin = struct.pack("<HH2sxxLHHL", 0x0008, 0x1115, b"SQ", 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    return begin * depth + struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * depth


def encapsulated(end: bytes) -> bytes:
    head = data_set("1.2.3", PixelData=None)
    return head + long_header(0x7FE0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0) + end


def long_header(group: int, length: int) -> bytes:
    return struct.pack("<HH2sxxL", group, 0x10, b"OB", length)


BROKEN: dict[str, tuple[str, Callable[[], bytes]]] = {
    "truncated in its pixels": (EXPLICIT, lambda: data_set("1.2.3")[:-100]),
    "truncated in a header": (EXPLICIT, lambda: data_set("1.2.3", PixelData=None, DataSetTrailingPadding=None)[:-9]),
    "length beyond the end": (EXPLICIT, lambda: data_set("1.2.3") + long_header(0x7FE1, 2**31)),
    "encapsulated pixels without an end": (EXPLICIT, lambda: encapsulated(b"")),
    "encapsulated pixels with noise": (EXPLICIT, lambda: encapsulated(b"\1\2\3\4\5\6\7\10")),
    "sequences 300 deep": (EXPLICIT, lambda: nested(300)),
    "implicit bytes under explicit": (EXPLICIT, lambda: data_set("1.2.3", IMPLICIT)),
    "explicit bytes under implicit": (IMPLICIT, lambda: data_set("1.2.3")),
    "little endian under big endian": (BIG, lambda: data_set("1.2.3")),
    "noise": (EXPLICIT, lambda: b"\xa5" * 5000),
    "deflated and cut": (DEFLATED, lambda: deflate(data_set("1.2.3"))[:-200]),
    "deflated noise": (DEFLATED, lambda: b"\xa5" * 5000),
    "not deflated": (DEFLATED, lambda: data_set("1.2.3")),
}


@pytest.mark.parametrize(("syntax", "made"), BROKEN.values(), ids=BROKEN)
def test_a_broken_data_set_is_quarantined_with_its_reason_and_the_association_goes_on(
    node: Running, bad: Peer, syntax: str, made: Callable[[], bytes]
) -> None:
    bad.accepted(context(1, CT, syntax), CT_CONTEXT.replace(b"\1\0\0\0", b"\3\0\0\0", 1))
    data = made()
    answer = bad.store("1.2.3", data)
    assert answer.status == 0xC000
    assert "data set" in answer.comment
    assert bad.store(number=3).status == 0
    bad.release()
    assert len(node.stored()) == 1
    (reason,) = node.reasons()
    assert "C000" in reason and "PACS at 127.0.0.1" in reason
    (kept,) = node.spool.quarantine.glob("*.dcm")
    assert kept.read_bytes().endswith(data)


def test_a_deflate_bomb_is_not_inflated_into_memory(node: Running, bad: Peer) -> None:
    bomb = deflate(long_header(0x7FE0, 2**32 - 2), zeros=64 << 20)
    before = resident()
    bad.accepted(context(1, CT, DEFLATED))
    assert bad.store("1.2.3", bomb).status == 0xC000
    assert resident() - before < 20 << 20
    bad.release()


def test_an_instance_whose_data_set_names_another_is_refused_with_a900(node: Running, bad: Peer) -> None:
    bad.accepted()
    assert bad.store("1.2.3", data_set("1.2.4")).status == 0xA900
    assert bad.store("1.2.3", data_set("1.2.3", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")).status == 0xA900
    assert bad.store().status == 0
    bad.release()
    assert len(node.reasons()) == 2


@pytest.mark.parametrize(
    ("changes", "flaw"),
    [
        ({"SeriesInstanceUID": None}, "no SeriesInstanceUID"),
        ({"StudyInstanceUID": "", "SeriesInstanceUID": "x/../y"}, "no StudyInstanceUID, bad SeriesInstanceUID"),
        ({"SOPInstanceUID": None}, "no SOPInstanceUID"),
    ],
)
def test_a_data_set_that_cannot_be_filed_is_stored_with_its_flaw(
    node: Running, bad: Peer, changes: dict[str, object], flaw: str
) -> None:
    assert bad.accepted().store("1.2.3", data_set("1.2.3", **changes)).status == 0
    bad.release()
    assert node.stored()[0].flaw == flaw
    assert node.stored()[0].sop_instance_uid == "1.2.3"


@pytest.mark.parametrize(
    "data",
    [
        data_set("1.2.3") + struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", 6) + b"1.2.3\0",
        data_set("1.2.3", PatientName="odd"[:3]),
        data_set("1.2.3") + bytes(3),
        nested(50) + data_set("1.2.3"),
    ],
    ids=["group 0002", "odd value", "zeros at the end", "sequences 50 deep"],
)
def test_an_odd_data_set_that_can_be_walked_is_stored_as_it_is(node: Running, bad: Peer, data: bytes) -> None:
    assert bad.accepted().store("1.2.3", data).status == 0
    bad.release()
    assert (node.spool.root / node.stored()[0].path).read_bytes().endswith(data)


# ---- 18: the disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "radnode-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_answered_with_a700_and_loses_nothing_acknowledged(small_disk: Path) -> None:
    with running(small_disk) as node, Peer(node.port) as peer:
        peer.accepted()
        acknowledged, status = [], 0
        while not status:
            uid = generate_uid()
            status = peer.store(uid, data_set(uid, PixelData=bytes(200_000))).status
            acknowledged += [uid] * (status == 0)
        assert status == 0xA700
        assert 5 < len(acknowledged) < 25
        assert {each.sop_instance_uid for each in node.stored(len(acknowledged))} == set(acknowledged)
        assert all((node.spool.root / each.path).stat().st_size == each.size for each in node.arrivals)
        assert node.parts() == []
        wait_for(lambda: not node.receiver.watermark.ok)
        with Peer(node.port) as another:
            assert another.send(request()).rejected() == (2, 3, 2)
        for path in node.spool.instances.rglob("*.dcm"):
            path.unlink()
        wait_for(lambda: node.receiver.watermark.ok)
        assert peer.store().status == 0
        peer.release()


def test_a_disk_that_fills_within_one_instance_is_answered_with_a700(small_disk: Path) -> None:
    with running(small_disk) as node, Peer(node.port) as peer:
        uid = generate_uid()
        assert peer.accepted().store(uid, data_set(uid, PixelData=bytes(6_000_000))).status == 0xA700
        assert node.parts() == []
        wait_for(lambda: node.receiver.watermark.ok)
        assert peer.store().status == 0
        peer.release()


def test_a_sync_that_fails_is_not_acknowledged(node: Running, bad: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    bad.accepted()
    with monkeypatch.context() as patched:
        patched.setattr(spools, "_sync_data", broken)
        assert bad.store().status == 0xA700
    assert bad.store().status == 0
    bad.release()
    assert len(node.stored()) == 1


# ---- 20: many at once -----------------------------------------------------------------------------------------------


def test_a_hundred_associations_at_once_are_all_served(tmp_path: Path) -> None:
    with running(tmp_path, max_associations=100) as node:
        peers = [Peer(node.port).accepted() for _ in range(100)]
        assert [peer.store().status for peer in peers] == [0] * 100
        for peer in peers:
            peer.release()
        assert node.ended(100) == ["released"] * 100


def test_one_association_too_many_is_rejected_as_transient(tmp_path: Path) -> None:
    with running(tmp_path, max_associations=2) as node:
        first, second = Peer(node.port).accepted(), Peer(node.port).accepted()
        with Peer(node.port) as third:
            assert third.send(request()).rejected() == (2, 3, 2)
        first.release()
        with Peer(node.port) as fourth:
            wait_for(lambda: len(node.ends) == 1)
            fourth.accepted().release()
        second.release()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

