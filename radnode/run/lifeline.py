"""How processes end together: what a parent starts dies with it, whatever kills the parent."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
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


def end_with_parent(parent: int) -> None:
    """`die_with_parent` between fork and exec: there the parent's handler would hear SIGTERM, and exec forget it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)


class SignalEvent:
    """An event that signal handlers set.

    `threading.Event` is none: a handler runs in the thread that it interrupts, and where that holds the event's lock
    just then (it waits for the event, or another signal's handler sets it) it would wait for itself for ever.
    """

    def __init__(self) -> None:
        self._set = False
        self._read, self._write = os.pipe()

    def set(self) -> None:
        if not self._set:
            self._set = True
            os.write(self._write, b"\0")  # never read: whoever waits, now or later, sees it

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float | None = None) -> bool:
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        poll.poll(None if seconds is None else seconds * 1000)
        return self._set


class StopSignal:
    """Set by SIGTERM or SIGINT. The second one ends the process at once."""

    def __init__(self) -> None:
        self._event = SignalEvent()
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(128 + number)
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        return self._event.wait(seconds)


class HangUp:
    """Notes SIGHUP: read the settings again. In a terminal it means that this has gone, and ends the process."""

    def __init__(self) -> None:
        self._noted = False
        if not sys.stdin.isatty():
            signal.signal(signal.SIGHUP, self._note)

    def _note(self, *_: object) -> None:
        self._noted = True

    def then(self, action: Callable[[], None]) -> bool:
        """Does it once for the signals that came; returns False, as a supervisor's `each_turn` does to go on."""
        if self._noted:
            self._noted = False
            action()
        return False
