"""How processes end together: what a parent starts dies with it, whatever kills the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

_PR_SET_PDEATHSIG = 1


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Asks the kernel for a signal when the parent's thread that started this process ends (Linux only).

    Args:
        parent: the parent's process ID, taken before the fork: one that is gone already sends no signal.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


class StopSignal:
    """Set by SIGTERM or SIGINT. The second one ends the process at once."""

    def __init__(self, on_stop: Callable[[], None] | None = None) -> None:
        self._event = threading.Event()
        self._on_stop = on_stop
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(128 + number)
        self._event.set()
        if self._on_stop is not None:
            self._on_stop()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        return self._event.wait(seconds)


class HangUp:
    """Notes SIGHUP: read the settings again. In a terminal it means that this has gone, and ends the process."""

    def __init__(self) -> None:
        self._event = threading.Event()
        if not sys.stdin.isatty():
            signal.signal(signal.SIGHUP, lambda *_: self._event.set())

    def then(self, action: Callable[[], None]) -> bool:
        """Does it once for the signals that came; returns False, as a supervisor's `each_turn` does to go on."""
        if self._event.is_set():
            self._event.clear()
            action()
        return False
