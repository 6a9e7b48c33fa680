"""A small storage SCP that keeps what it is sent, and can refuse, pause and come back: for tests, authors and the demo.

`python -m radnode.testing.sink --port 11113 --folder received` runs it alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.presentation import PresentationContext

from radnode.domain.errors import PeerError

_config.LOG_HANDLER_LEVEL = "none"

_SYNTAXES = [
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian first: the acceptor's order decides
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)),
    "1.2.840.10008.1.2.5",
]


@dataclass(frozen=True)
class Received:
    """One C-STORE the sink answered with success: in order of arrival, so that what came twice is here twice."""

    sop_instance_uid: str
    sha256: str
    """Of the data set's bytes as they came, without File Meta."""
    calling_aet: str
    received_at: float
    """Seconds on the monotonic clock, when the answer was given."""
    path: Path | None


class SinkPacs:
    """A PACS that only takes. Use it as a context manager: `with SinkPacs() as sink: ...` listens on `sink.port`.

    Args:
        folder: where the .dcm files go, each arrival its own file; None keeps no files.
        port: 0 finds a free one, which stays the sink's over `stop` and `start`.
        refuse: SOP Instance UID -> the status to refuse it with, or None to take it.
    """

    def __init__(
        self,
        folder: Path | None = None,
        port: int = 0,
        aet: str = "SINK",
        refuse: Callable[[str], int | None] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.folder, self.port, self.aet, self.host = folder, port, aet, host
        self.refuse = refuse or (lambda uid: None)
        self.received: list[Received] = []
        self._arrived = threading.Condition()
        self._running = threading.Event()
        self._running.set()
        self._ae = AE(ae_title=aet)
        self._server: Any = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def uids(self) -> list[str]:
        """SOP Instance UIDs in order of arrival."""
        with self._arrived:
            return [each.sop_instance_uid for each in self.received]

    def start(self) -> None:
        """Listens, on the same port as before where it did already."""
        contexts = [_context(str(each.abstract_syntax)) for each in AllStoragePresentationContexts]
        contexts.append(_context("1.2.840.10008.1.1"))
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._ae.maximum_associations = 64
        self._ae.maximum_pdu_size = 131072
        self._server = self._ae.start_server(
            (self.host, self.port),
            block=False,
            contexts=contexts,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_CONN_OPEN, _no_delay)],
        )
        self.port = self._server.socket.getsockname()[1]

    def stop(self) -> None:
        """Aborts its associations and stops listening, as a PACS that goes down: connections are refused."""
        self._running.set()
        if self._server:
            self._ae.shutdown()
            self._server = None

    def pause(self) -> None:
        """Takes data but answers nothing until `resume`, as a PACS that hangs."""
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def wait_for(self, count: int, timeout: float = 30.0) -> list[Received]:
        """What has arrived, once it is `count` instances or more. Raises PeerError after `timeout` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.received) >= count, timeout):
                raise PeerError(f"{self.aet}: {len(self.received)} of {count} instances after {timeout} s")
            return list(self.received)

    def _store(self, event: evt.Event) -> int:
        self._running.wait()
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.refuse(uid)
        if status is not None:
            return status
        sha256 = hashlib.sha256(event.request.DataSet.getbuffer()).hexdigest()
        with self._arrived:
            path = self._write(event, len(self.received) + 1)
            calling = str(event.assoc.requestor.ae_title).strip()
            self.received.append(Received(uid, sha256, calling, time.monotonic(), path))
            self._arrived.notify_all()
        return 0x0000

    def _write(self, event: evt.Event, number: int) -> Path | None:
        if self.folder is None:
            return None
        path = self.folder / f"{number:06}.dcm"
        while path.exists():  # of an earlier run into the same folder
            number += 1
            path = self.folder / f"{number:06}.dcm"
        path.write_bytes(event.encoded_dataset())
        return path


class _SharedContext(PresentationContext):  # type: ignore[misc]  # pynetdicom is untyped
    """pynetdicom copies all its contexts for each association, which takes longer than the rest; none changes them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def _context(abstract_syntax: str) -> PresentationContext:
    context = _SharedContext()
    context.abstract_syntax = abstract_syntax
    context.transfer_syntax = list(_SYNTAXES)
    return context


def _no_delay(event: evt.Event) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main() -> None:
    """Runs a sink until it is interrupted; a line for each instance."""
    parser = argparse.ArgumentParser(prog="python -m radnode.testing.sink", description=SinkPacs.__doc__)
    parser.add_argument("--port", type=int, default=11113)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--aet", default="SINK")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), SinkPacs(given.folder, given.port, given.aet) as sink:
        print(f"{sink.aet} listens on {sink.host}:{sink.port}", flush=True)
        shown = 0
        while True:
            time.sleep(0.2)
            for each in sink.received[shown:]:
                print(f"{each.sop_instance_uid} {each.sha256}", flush=True)
                shown += 1


if __name__ == "__main__":
    main()
