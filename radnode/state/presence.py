"""Which parts are alive, and up to where the receivers have told the ledger everything.

A part holds a lock file for as long as it lives: the kernel frees it however the part ends, and no clock is involved.
Into the same file a receiver writes its *mark*: the number of the last barrier it has flushed past. Core raises the
barrier and waits until every living receiver's mark has reached it: then all that was acknowledged before lies in the
ledger. Silence is never taken for completeness.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NUMBER = struct.Struct("<Q")
_TRIES = 5  # a look at whether a part lives holds its lock for microseconds: that is no part of the same name
_PAUSE = 0.01


class Presence:
    """This part's lock file. Children that inherit the descriptor keep it locked until they too are gone.

    Raises BlockingIOError where a living part has that name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._path = folder / f"{name}.lock"
        self.fd = _create_locked(self._path)
        _reserve(self.fd)

    def mark(self, barrier: int) -> None:
        """States that everything acknowledged before `barrier` was raised is in the ledger."""
        os.pwrite(self.fd, _NUMBER.pack(barrier), 0)

    def leave(self) -> None:
        """A clean end: the file goes, so that nobody takes this part for dead."""
        self._path.unlink(missing_ok=True)
        os.close(self.fd)


@dataclass(frozen=True)
class Present:
    name: str
    alive: bool
    mark: int


def present(folder: Path, prefix: str) -> Iterator[Present]:
    """Every part whose name starts with `prefix`, living or dead without having left."""
    for path in sorted(folder.glob(f"{prefix}*.lock")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            yield Present(path.stem, not _free(fd), _read(fd))
        finally:
            os.close(fd)


def is_alive(folder: Path, name: str) -> bool:
    return any(each.alive for each in present(folder, name) if each.name == name)


def forget(folder: Path, name: str) -> None:
    """Removes a dead part's lock file, once what it left behind has been dealt with.

    A part that was only starting when it was taken for dead keeps its file.
    """
    path = folder / f"{name}.lock"
    with suppress(FileNotFoundError, BlockingIOError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(path, fd):
                path.unlink()
        finally:
            os.close(fd)


class Barrier:
    """A number that core raises and receivers read, kept in a small file of the run folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(folder / "barrier", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _reserve(self._fd)

    def read(self) -> int:
        return _read(self._fd)

    def raise_(self) -> int:
        """Raises the barrier by one and returns it. Only core calls this."""
        number = self.read() + 1
        os.pwrite(self._fd, _NUMBER.pack(number), 0)
        return number


def _create_locked(path: Path) -> int:
    """Descriptor of the file at `path`, made if missing, and locked. Raises BlockingIOError where it is taken."""
    for _ in range(_TRIES):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(path, fd):  # or it was removed before it was locked, and nobody would see it
                return fd
        os.close(fd)
        time.sleep(_PAUSE)
    raise BlockingIOError(f"{path} is held by a living part")


def _names(path: Path, fd: int) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _reserve(fd: int) -> None:
    """Has the disk's room for the number, so that a full disk stops no mark; a number already there stays."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, _NUMBER.size)


def _read(fd: int) -> int:
    data = os.pread(fd, _NUMBER.size, 0)
    return int(_NUMBER.unpack(data)[0]) if len(data) == _NUMBER.size else 0


def _free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look at once do not see each other
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
