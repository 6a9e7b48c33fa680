"""The least a durable receiver can do in Python: for `scripts/bench ingest`, as the floor under radnode's figures.

A thread per association copies fragments from the socket to a file, syncs it and answers 0x0000. It writes no File
Meta, looks at no data set, keeps no ledger, refuses nothing, and falls over whatever is wrong: it is of no other use.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import sys
import threading
from pathlib import Path

from radnode.dicom import negotiation, services
from radnode.dicom.negotiation import Context

_HEADER = struct.Struct(">BxLLBB")  # of a PDU, and of the one PDV in it
_numbers = itertools.count()


def serve(sock: socket.socket, folder: Path) -> None:
    """One association, to its release."""
    view = memoryview(bytearray(1 << 20))
    contexts = _negotiate(sock, view)
    while True:
        message = bytearray()
        number, flags = 0, 0
        while not flags & 2:
            read = _fragment(sock, view)
            if read is None:
                sock.sendall(negotiation.RELEASE_RP)
                return
            number, flags, piece = read
            message += piece
        command = services.decode_command(bytes(message))
        if command.has_data_set:
            _store(sock, view, folder)
        sock.sendall(services.respond(command, contexts[number].id, services.STORED, 0))


def _store(sock: socket.socket, view: memoryview, folder: Path) -> None:
    path = folder / f"{next(_numbers)}.part"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    flags = 0
    while not flags & 2:
        read = _fragment(sock, view)
        assert read is not None
        _, flags, piece = read
        os.write(fd, piece)
    os.fdatasync(fd)
    os.close(fd)
    path.rename(path.with_suffix(".dcm"))


def _negotiate(sock: socket.socket, view: memoryview) -> dict[int, Context]:
    sock.recv_into(view, 6, socket.MSG_WAITALL)
    (length,) = struct.unpack_from(">2xL", view)
    sock.recv_into(view, length, socket.MSG_WAITALL)
    request = negotiation.decode(bytes(view[:length]))
    accepted, refused = negotiation.choose(request)
    sock.sendall(negotiation.accept(request, accepted, refused, len(view) - 6))
    return accepted


def _fragment(sock: socket.socket, view: memoryview) -> tuple[int, int, memoryview] | None:
    """Context ID, flags and bytes of the next PDV, which has a PDU of its own; None: the peer asks for release."""
    _quick(sock)
    sock.recv_into(view, 10, socket.MSG_WAITALL)
    if view[0] != 4:
        return None
    _quick(sock)
    sock.recv_into(view[10:], 2, socket.MSG_WAITALL)
    _, _, length, number, flags = _HEADER.unpack_from(view)
    _quick(sock)
    sock.recv_into(view, length - 2, socket.MSG_WAITALL)
    return number, flags, view[: length - 2]


def _quick(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def main(port: int, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(sock, folder), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
