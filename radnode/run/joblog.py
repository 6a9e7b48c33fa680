"""A job's log: what its app printed, of bounded size, with the beginning and the end kept."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_HEAD = 1 << 20
_TAIL = 1 << 20


class JobLog:
    """Written by the child's warden while the job runs; readable all the time. A full disk costs lines, not the job."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        self._size = self._left_out = 0
        self.last = b""
        """The last bytes of it."""

    def write(self, data: bytes) -> None:
        self.last = (self.last + data)[-4096:]
        with suppress(OSError):
            self._size += os.pwrite(self._fd, data, self._size)
            if self._size > _HEAD + 2 * _TAIL:
                self._shorten()

    def _shorten(self) -> None:
        tail = os.pread(self._fd, _TAIL, self._size - _TAIL)
        self._left_out += self._size - _HEAD - len(tail)
        note = f"\n[{self._left_out} bytes or more are left out here]\n".encode()
        self._size = _HEAD + os.pwrite(self._fd, note + tail, _HEAD)
        os.ftruncate(self._fd, self._size)

    def close(self) -> None:
        os.close(self._fd)


def log_path(home: Path, job_id: str, attempt: int) -> Path:
    """Where the log of one attempt at a job lies."""
    return home / "log" / "jobs" / f"{job_id}.{attempt}.log"
