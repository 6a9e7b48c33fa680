"""How many connections each receiver has, in memory they share: one that has more than another lets that be faster.

Whoever wakes first takes what a listener holds, and on a busy machine that may be one of them several times: it would
serve them on one core while another stood idle.
"""

from __future__ import annotations

import mmap
import os
import tempfile


class Shares:
    """One receiver's view of the counts; `fd`: from `shared_counts`, and inherited by all of them."""

    def __init__(self, fd: int, number: int) -> None:
        self._number = number
        self._memory = mmap.mmap(fd, 0)
        os.close(fd)
        self._counts = memoryview(self._memory).cast("I")
        self.set(0)  # the one before has died with its connections

    def set(self, count: int) -> None:
        self._counts[self._number] = count

    def ahead(self) -> bool:
        """Whether another receiver has fewer connections than this one."""
        return self._counts[self._number] > min(self._counts)


def shared_counts(receivers: int) -> int:
    """A descriptor of memory for so many receivers' counts, all zero."""
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * receivers)
        return os.dup(file.fileno())
