"""What lies in the spool and the ledger does not know: acknowledged, then the receiver died. A scan adopts it.

A bucket all of whose files the ledger has is *sealed* with the time its folder was changed last: until that is another,
no scan lists it again. The time is only ever compared for equality, so no step of the wall clock hides a file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from radnode.domain.errors import NotDicomError
from radnode.state.arrivals import Arrival
from radnode.state.crash import point
from radnode.state.spool import LENGTH, LENGTH_AT, Spool, sync_file, sync_folder

_STILL = 60.0
"""Seconds: a folder changed since may change once more within the same tick of its file system's clock."""


class Head(Protocol):
    """What a file's data set says of itself; see `radnode.dicom.headers.Head`."""

    @property
    def study_uid(self) -> str: ...
    @property
    def series_uid(self) -> str: ...
    @property
    def flaw(self) -> str: ...


class Summary(Protocol):
    """What a Part 10 file says of itself; see `radnode.dicom.headers.Summary`."""

    @property
    def head(self) -> Head: ...
    @property
    def sop_class_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...
    @property
    def transfer_syntax_uid(self) -> str: ...
    @property
    def calling_aet(self) -> str: ...
    @property
    def called_aet(self) -> str: ...


def scan(
    spool: Spool,
    known: Callable[[str], set[str]],
    alive: Callable[[str], bool],
    summarize: Callable[[Path], Summary],
    clock: Callable[[], float] = time.monotonic,
    sealed: dict[str, int] | None = None,
) -> Iterator[Arrival]:
    """Adopts what dead receivers left: whole files that the ledger does not know.

    A whole `.part` was perhaps acknowledged, so it gets its name; one cut short never was, and goes. A file that has
    its name and is broken is set aside. Files of living receivers are theirs to report.

    Args:
        known: bucket -> its paths, relative to the spool, that the ledger has.
        alive: whether the receiver of an incarnation lives.
        summarize: reads a file, `radnode.dicom.headers.summarize`.
        clock: gives `Arrival.seen`.
        sealed: bucket -> when its folder was changed last, in ns; what this scan seals is added to it, and holds once
            the ledger has what was adopted.
    """
    sealed = {} if sealed is None else sealed
    for bucket in spool.buckets():
        try:
            changed = (spool.instances / bucket).stat().st_mtime_ns  # before it is listed
            if sealed.get(bucket) == changed:
                continue
            paths, lives = known(bucket), dict[str, bool]()
            files = list((spool.instances / bucket).iterdir())
        except FileNotFoundError:  # it was empty, and has just been removed
            continue
        strange = [each for each in files if f"instances/{bucket}/{each.name}" not in paths]
        for path in sorted(strange, key=_written):
            incarnation = path.name.partition("-")[0]
            if path.suffix not in (".dcm", ".part"):
                continue
            if incarnation not in lives:
                lives[incarnation] = alive(incarnation)
            if not lives[incarnation]:
                arrival = _adopt(spool, path, summarize, clock)
                if arrival:
                    yield arrival
        if not any(lives.values()) and time.time() - changed / 1e9 > _STILL:
            sealed[bucket] = changed


def _written(path: Path) -> tuple[int, str]:
    """Orders files as they came, whichever receiver wrote them: of two copies the later is the correction."""
    try:
        return path.stat().st_mtime_ns, path.name
    except FileNotFoundError:  # a living receiver's `.part` that has got its name, or was discarded
        return 0, path.name


def _adopt(
    spool: Spool, path: Path, summarize: Callable[[Path], Summary], clock: Callable[[], float]
) -> Arrival | None:
    if path.suffix == ".part" and not _written_whole(path):
        path.unlink()
        return None
    try:
        summary = summarize(path)
    except NotDicomError as fault:
        if path.suffix == ".part":
            path.unlink()
        else:
            spool.set_aside(path, f"broken on disk: {fault.message}")
        return None
    if path.suffix == ".part":
        sync_file(path)
        path = path.rename(path.with_suffix(".dcm"))
        point("adopt part")
        sync_folder(path.parent)  # once its bucket is sealed, nobody would look for the `.part` again
    status = path.stat()
    return Arrival(
        path=str(path.relative_to(spool.root)),
        sop_instance_uid=summary.sop_instance_uid,
        sop_class_uid=summary.sop_class_uid,
        series_uid=summary.head.series_uid,
        study_uid=summary.head.study_uid,
        transfer_syntax_uid=summary.transfer_syntax_uid,
        size=status.st_size,
        received_at=status.st_mtime,
        seen=clock(),
        calling_aet=summary.calling_aet,
        called_aet=summary.called_aet,
        peer="",
        association="",
        flaw=summary.head.flaw,
    )


def _written_whole(part: Path) -> bool:
    """Whether the receiver had all of it: only then can it have been acknowledged."""
    with part.open("rb") as file:
        file.seek(LENGTH_AT)
        stated = file.read(LENGTH.size)
        return len(stated) == LENGTH.size and LENGTH.unpack(stated)[0] == os.fstat(file.fileno()).st_size
