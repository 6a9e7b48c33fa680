"""The wall clock of a node, for tests to step."""

from __future__ import annotations

import os
import struct
from pathlib import Path


class Clock:
    """`env` goes to the node; then `step` moves the wall clock of all its processes."""

    def __init__(self, file: Path) -> None:
        self.offset = 0.0
        self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.step(0.0)
        self.env = {"PYTHONPATH": str(Path(__file__).parent), "CLOCK_OFFSET": str(file)}

    def step(self, seconds: float) -> None:
        """Forward, or back where negative."""
        self.offset += seconds
        os.pwrite(self._fd, struct.pack("<d", self.offset), 0)  # never half of it, to who reads at this moment
