"""The ways out: a DICOM peer, a DICOMweb server, a folder. Each takes what a delivery sends, and answers per file.

Connections are kept open between deliveries, and used again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from radnode.dicom import scu, transcode
from radnode.dicom.scu import CONTEXT_NOT_ACCEPTED, Answer, OutgoingFile, Peer, Sender
from radnode.dicom.stow import Service, WebClient
from radnode.domain.errors import PeerError
from radnode.domain.jobs import PRIORITIES
from radnode.domain.routing import Destination
from radnode.run.transcoding import transcoded
from radnode.settings import Settings
from radnode.state.spool import sync_folder

_PRIORITY = {PRIORITIES["urgent"]: 1, PRIORITIES["normal"]: scu.MEDIUM, PRIORITIES["low"]: 2}  # PS3.7 9.3.1.1
_IDLE = 10.0  # seconds an association stays open for the next delivery: peers abort theirs after 30 or 60
_STORED, _CANNOT_CONVERT = 0x0000, 0xC000


@dataclass(frozen=True)
class Consignment:
    """What goes out at once: some results of one job.

    Attributes:
        priority: the job's.
        about: written beside the files of a folder.
    """

    job_id: str
    priority: int
    files: Sequence[OutgoingFile]
    about: Mapping[str, str]


class Outlet(Protocol):
    """A way to one destination, for one thread at a time."""

    def send(self, consignment: Consignment) -> Iterator[Answer]:
        """An Answer for each file. Raises PeerError, then what was not answered has not been sent; SpoolError."""

    def close(self) -> None: ...


class DimseOutlet:
    """C-STORE. What the peer does not take as it lies there is sent in a plain transfer syntax, if it takes that."""

    def __init__(self, peer: Peer, settings: Settings, owner: str) -> None:
        self._sender = Sender(peer, calling_aet=settings.aet[0], idle=_IDLE)
        self._scratch, self._owner = settings.spool / "work", owner

    def send(self, consignment: Consignment) -> Iterator[Answer]:
        priority = _PRIORITY[consignment.priority]
        strange: dict[tuple[str, str], list[OutgoingFile]] = {}
        by_uid = {each.sop_instance_uid: each for each in consignment.files}
        for answer in self._sender.send(consignment.files, priority=priority):
            file = by_uid[answer.sop_instance_uid]
            if answer.status == CONTEXT_NOT_ACCEPTED:
                strange.setdefault(file.context, []).append(file)
            else:
                yield answer
        for context, files in strange.items():
            yield from self._converted(context, files, priority)

    def _converted(self, context: tuple[str, str], files: Sequence[OutgoingFile], priority: int) -> Iterator[Answer]:
        wanted = [(context[0], syntax) for syntax in transcode.TARGETS if syntax != context[1]]
        taken = self._sender.accepted(wanted)
        syntax = next((each[1] for each in wanted if each in taken), None)
        if syntax is None:
            said = "does not take its SOP class"
            yield from (Answer(each.sop_instance_uid, CONTEXT_NOT_ACCEPTED, said) for each in files)
            return
        self._scratch.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix=f"{self._owner}.transcoding-") as folder:
            for file, made in zip(files, transcoded(files, syntax, Path(folder)), strict=True):
                if isinstance(made, str):
                    yield Answer(file.sop_instance_uid, _CANNOT_CONVERT, f"cannot be decoded for it: {made}")
                else:
                    yield from self._sender.send([made], priority=priority)

    def close(self) -> None:
        self._sender.release()


class WebOutlet:
    """STOW-RS."""

    def __init__(self, service: Service) -> None:
        self._client = WebClient(service)

    def send(self, consignment: Consignment) -> Iterator[Answer]:
        return self._client.store(consignment.files)

    def close(self) -> None:
        self._client.close()


class FolderOutlet:
    """A folder for each job, which is there as a whole or not at all; what lies there is never overwritten."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def send(self, consignment: Consignment) -> Iterator[Answer]:
        target = self._root / consignment.job_id
        if not self._root.is_dir():
            raise PeerError(f"{self._root} is not there", remedy="is it mounted, and may radnode write there?")
        try:
            if target.exists():
                differing = [each for each in consignment.files if not _same(each.path, target / each.path.name)]
            else:
                self._write(consignment, target)
                differing = []
        except OSError as error:
            raise PeerError(f"{target}: {error.strerror}", remedy="has it room, and may radnode write there?") from None
        for each in consignment.files:
            status = _CANNOT_CONVERT if each in differing else _STORED
            yield Answer(each.sop_instance_uid, status, "another file lies there" if status else "")

    def _write(self, consignment: Consignment, target: Path) -> None:
        part = self._root / f".part-{consignment.job_id}"
        shutil.rmtree(part, ignore_errors=True)  # of an attempt that died
        part.mkdir()
        for each in consignment.files:
            shutil.copyfile(each.path, part / each.path.name)
        (part / "delivery.json").write_text(json.dumps(dict(consignment.about), indent=1) + "\n", encoding="utf-8")
        for path in part.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(part)
        part.rename(target)
        sync_folder(self._root)

    def close(self) -> None:
        """Nothing is kept open."""


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def outlet_of(place: Destination, settings: Settings, owner: str) -> Outlet:
    """Raises PeerError where its certificates cannot be used."""
    if place.folder:
        return FolderOutlet(Path(place.folder))
    if place.url:
        return WebOutlet(Service.of(place))
    return DimseOutlet(Peer.of(place), settings, owner)


class Outlets:
    """Those that nobody uses just now, for all threads of a worker. One whose destination was edited is closed.

    Args:
        owner: the worker, which names its scratch folders: they are removed when it is gone, and not before.
    """

    def __init__(self, settings: Settings, owner: str) -> None:
        self._settings, self._owner = settings, owner
        self._lock = threading.Lock()
        self._free: dict[str, list[tuple[Destination, Outlet]]] = {}

    @contextmanager
    def to(self, place: Destination) -> Iterator[Outlet]:
        """An outlet of one's own; after an exception it is closed, else kept for the next delivery."""
        outlet = self._take(place) or outlet_of(place, self._settings, self._owner)
        try:
            yield outlet
        except BaseException:
            outlet.close()
            raise
        with self._lock:
            self._free.setdefault(place.name, []).append((place, outlet))

    def _take(self, place: Destination) -> Outlet | None:
        with self._lock:
            kept = self._free.pop(place.name, [])
            fitting = [each for each in kept if each[0] == place]
            self._free[place.name] = fitting[:-1]
        for known, outlet in kept:
            if known != place:
                outlet.close()
        return fitting[-1][1] if fitting else None

    def close(self) -> None:
        with self._lock:
            kept, self._free = self._free, {}
        for _, outlet in (each for places in kept.values() for each in places):
            outlet.close()
