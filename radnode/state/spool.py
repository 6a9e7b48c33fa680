"""The spool: every instance received as a plain Part 10 file, results as published folders, refused data in quarantine.

    instances/<YYYYMMDD>/<HH>/<incarnation>-<number>.dcm    the hour is UTC's; `.part` while being written
    work/<worker>.<number>/                                 scratch of one process that runs apps
    results/<job id>/                                       published: all of it or nothing, first wins
    results/<job id>.<word>/                                what was made to be sent in place of these; the same
    quarantine/<incarnation>-<number>.dcm, .txt             what was not acknowledged, and why; bounded

All names are ours: nothing a peer sends becomes a path. The *incarnation* names one start of one receiver.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import struct
import time
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

from radnode.domain.errors import SpoolError
from radnode.state.crash import point

_QUARANTINED_MOST = 1000
_QUARANTINED_BYTES = 4 << 30
_RESERVE = 1 << 30
_BUCKET = "%Y%m%d/%H"
"""One hour's folder, of UTC."""
_INODES = 256
LENGTH, LENGTH_AT = struct.Struct("<Q"), 120
"""A whole file's length stands in the end of its preamble, which is the writer's own (PS3.10 7.1): a `.part` that was
cut between two elements looks whole otherwise."""
_sync_data = getattr(os, "fdatasync", os.fsync)


class Spool:
    """One process' hand on the spool. Makes the folders; raises SpoolError where it cannot.

    Args:
        durability: `fsync`: a kept instance is on the disk; `flush`: in the system's cache.
        incarnation: names the files written here; a new one for each start.
    """

    def __init__(self, root: Path, durability: str = "fsync", incarnation: str = "") -> None:
        self.root = root
        self.incarnation = incarnation or uuid.uuid4().hex[:16]
        self.durable = durability == "fsync"
        self.instances, self.results, self.quarantine = (root / each for each in ("instances", "results", "quarantine"))
        try:
            for folder in (self.instances, self.results, self.quarantine):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise SpoolError(f"{root} cannot be used: {fault.strerror}", remedy="see RADNODE_HOME") from None
        self._numbers = itertools.count(1)
        self._bucket, self._bucket_hour = "", -1

    def open(self, head: bytes) -> Incoming:
        """A new file that starts with `head`, the preamble and File Meta. Raises OSError."""
        try:
            return Incoming(self, self._next_name(), head)
        except FileNotFoundError:  # this process was stopped for so long that its bucket was removed: see below
            self._bucket_hour = -1
            return Incoming(self, self._next_name(), head)

    def _next_name(self) -> str:
        return f"{self._present_bucket()}/{self.incarnation}-{next(self._numbers):08d}"

    def _present_bucket(self) -> str:
        hour = int(time.time()) // 3600
        if hour != self._bucket_hour:
            bucket = time.strftime(_BUCKET, time.gmtime(hour * 3600))
            folder = self.instances / bucket
            folder.mkdir(parents=True, exist_ok=True)
            for each in (folder.parent, self.instances):
                sync_folder(each)
            self._bucket, self._bucket_hour = bucket, hour
        return self._bucket

    def buckets(self) -> list[str]:
        """`YYYYMMDD/HH` of every bucket there is, oldest first."""
        return sorted(f"{path.parent.name}/{path.name}" for path in self.instances.glob("[0-9]*/[0-9]*"))

    def remove(self, paths: Iterable[str]) -> None:
        """Removes instances, durably: what the ledger takes for gone does not come back with a power failure."""
        folders = set()
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                (self.root / path).unlink()
                point("purge file")
            folders.add((self.root / path).parent)
        for each in folders:
            with contextlib.suppress(FileNotFoundError):
                sync_folder(each)

    def remove_empty_buckets(self) -> None:
        """But for the last two hours' ones: a receiver may be about to write there."""
        recent = time.strftime(_BUCKET, time.gmtime(time.time() - 3600))
        empty = [self.instances / each for each in self.buckets() if each < recent]
        days = [each for each in self.instances.glob("[0-9]*") if each.name < recent[:8]]
        for each in (*empty, *days):
            with contextlib.suppress(OSError):  # it is not empty
                each.rmdir()

    def remove_result(self, name: str) -> None:
        """Removes what was published, all at once; what a crash leaves of it is cleared with dead workers' places."""
        place, going = self.results / name, self.work / f"purge.{name}"
        if place.exists():
            self.work.mkdir(exist_ok=True)
            shutil.rmtree(going, ignore_errors=True)
            place.rename(going)
            point("purge result")
            sync_folder(self.results)
            shutil.rmtree(going, ignore_errors=True)

    def publish(self, work: Path, job_id: str) -> Path:
        """Moves a finished folder of results to its place, durably, and returns it.

        First wins: where the job's results are published already, those are returned and `work` stays as it is.
        `work` has to lie on the spool's file system. Raises SpoolError.
        """
        place = self.results / job_id
        try:
            for folder, _, names in os.walk(work):
                for name in names:
                    sync_file(Path(folder) / name)
                sync_folder(Path(folder))
            point("publish", "before")
            try:
                work.rename(place)
            except OSError as fault:
                if fault.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            point("publish", "renamed")
            sync_folder(self.results)
        except OSError as fault:
            remedy = "look at the disk that holds RADNODE_HOME"
            raise SpoolError(f"results of job {job_id} cannot be published: {fault}", remedy=remedy) from None
        return place

    @property
    def work(self) -> Path:
        """Folder of the places, where apps' processes work: scratch, on the file system where results are published."""
        return self.root / "work"

    def places(self) -> dict[Path, str]:
        """Every place there is, and the name of the worker it belongs to."""
        return {each: each.name.partition(".")[0] for each in self.work.glob("*")}

    def lend(self, path: str, target: Path) -> None:
        """Puts an instance at `target` without copying it, where the file system can. Raises OSError.

        One that is gone is left out: the app's process fails with its name.
        """
        with contextlib.suppress(FileNotFoundError):
            try:
                target.hardlink_to(self.root / path)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(self.root / path, target)

    def result(self, job_id: str) -> Path | None:
        """Where the job's results were published; None before that."""
        place = self.results / job_id
        return place if place.is_dir() else None

    def published(self, job_ids: Collection[str]) -> list[str]:
        """Names of all that was published of these jobs: their results, and as `JOB.…` what was made in place of
        these, whether it was sent or something else was in the end."""
        there = self.all_published() if job_ids else {}
        return [name for each in job_ids for name in there.get(each, ())]

    def all_published(self) -> dict[str, list[str]]:
        """Job ID -> names of what was published of it."""
        found: dict[str, list[str]] = {}
        for each in self.results.iterdir():
            found.setdefault(each.name.partition(".")[0], []).append(each.name)
        return found

    def free_bytes(self) -> int:
        """Free space where the spool lies, in bytes."""
        return shutil.disk_usage(self.root).free

    def exhausted(self) -> bool:
        """Whether the reserve itself is nearly used up, on which running jobs go on: what starts now would fail."""
        disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize < _reserve_of(disk) // 8

    def prune_quarantine(self) -> None:
        """Keeps the newest 1000 files of it, and no more than 4 GiB."""
        files = []
        for path in self.quarantine.glob("*.dcm"):
            with contextlib.suppress(FileNotFoundError):  # another receiver prunes too
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = 0
        for rank, (_, size, path) in enumerate(sorted(files, reverse=True)):
            total += size
            if rank >= _QUARANTINED_MOST or (rank and total > _QUARANTINED_BYTES):
                path.unlink(missing_ok=True)
                path.with_suffix(".txt").unlink(missing_ok=True)

    def set_aside(self, path: Path, reason: str) -> None:
        """Moves a file to quarantine, with the reason beside it. Raises OSError."""
        place = self.quarantine / f"{path.stem}.dcm"
        path.rename(place)
        point("set aside")
        self.prune_quarantine()
        place.with_suffix(".txt").write_text(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {reason}\n", encoding="utf-8")


class Incoming:
    """One instance on its way into the spool: written, then kept, quarantined or discarded."""

    def __init__(self, spool: Spool, name: str, head: bytes) -> None:
        self._spool, self._name = spool, name
        self._part = f"{spool.instances}/{name}.part"
        self._head: bytes | None = head
        self.size = len(head)
        self.fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def write(self, piece: memoryview) -> None:
        """Appends to the file. Raises OSError, ENOSPC among others."""
        self.size += len(piece)
        if self._head is not None:
            head, self._head = self._head, None
            written = os.writev(self.fd, [head, piece])
            if written < len(head):
                _write_all(self.fd, memoryview(head)[written:])
                written = len(head)
            written -= len(head)
        else:
            written = os.write(self.fd, piece)
        if written < len(piece):
            _write_all(self.fd, piece[written:])

    def keep(self) -> str:
        """Makes the instance durable, then gives it its name; returns its path relative to the spool. Raises OSError.

        The folder is not synced: if the power fails now, the scan finds the `.part` whole, and adopts it.
        """
        point("keep", "written")
        os.pwrite(self.fd, LENGTH.pack(self.size), LENGTH_AT)
        if self._spool.durable:
            _sync_data(self.fd)
        point("keep", "synced")
        os.rename(self._part, f"{self._spool.instances}/{self._name}.dcm")  # noqa: PTH104 - the hot path
        point("keep", "renamed")
        self._close()
        return f"instances/{self._name}.dcm"

    def quarantine(self, reason: str) -> None:
        """Sets the data aside, unacknowledged. Raises OSError."""
        self._spool.set_aside(Path(self._part), reason)
        self._close()

    def discard(self) -> None:
        """Removes the file; nothing happens where it was kept or set aside."""
        if self.fd >= 0:
            self._close()
            Path(self._part).unlink(missing_ok=True)

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        os.close(fd)


class Watermark:
    """Whether there is room to receive: no below the reserve, yes again at twice of it.

    The reserve is 1 GiB, or a twentieth of a smaller file system: what the ledger and running jobs need to go on.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.ok = True
        self.look()

    def look(self) -> bool:
        """Measures again; cheap enough for several times a second."""
        disk = os.statvfs(self._spool.root)
        reserve = _reserve_of(disk)
        inodes = disk.f_favail if disk.f_files else _INODES * 2  # some file systems have no fixed number
        wanted = 1 if self.ok else 2
        self.ok = disk.f_bavail * disk.f_frsize >= wanted * reserve and inodes >= wanted * _INODES
        return self.ok

    def full(self) -> None:
        """A write has found the disk full."""
        self.ok = False


def _reserve_of(disk: os.statvfs_result) -> int:
    return min(_RESERVE, disk.f_blocks * disk.f_frsize // 20)


def sync_folder(folder: Path) -> None:
    """Makes a folder's entries durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Makes a file's bytes durable."""
    # An app may have left a link or a pipe: neither is followed or waited for.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
