"""A small file system of its own, that can be filled to the last byte."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


class SmallDisk:
    """A small file system, and a file on it that takes all the room there is."""

    def __init__(self, root: Path) -> None:
        self.root, self._ballast = root, root / "ballast"

    def fill(self) -> None:
        """To the last byte."""
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (MIB, 4096, 1):
                try:
                    while True:
                        os.write(fd, bytes(size))
                except OSError as fault:
                    assert fault.errno == errno.ENOSPC
        finally:
            os.close(fd)

    def free(self) -> None:
        self._ballast.unlink()


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[SmallDisk]:
    """A tmpfs mounted at `folder`, which is made. Raises PermissionError where this user may not (it needs root)."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "radnode-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"a small tmpfs cannot be mounted here (that needs root): {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
