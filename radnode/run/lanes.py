"""One thread that does one thing after the other, for what must hold up nobody: a slow peer, a very big series."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable

from radnode.telemetry import log

_MOST_WAITING = 1000


class Lane:
    """Does what it is given, each key once at a time. It dies with the process: nothing durable hangs on it."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.Queue[tuple[Hashable, Callable[[], None]]] = queue.Queue(_MOST_WAITING)
        self._keys: set[Hashable] = set()
        self._name = name
        self._thread: threading.Thread | None = None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def submit(self, key: Hashable, task: Callable[[], None]) -> bool:
        """Whether it will be done; not where that key waits already, or too many do."""
        if key in self._keys:
            return False
        self._keys.add(key)
        try:
            self._tasks.put_nowait((key, task))
        except queue.Full:
            self._keys.discard(key)
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return True

    def _run(self) -> None:
        while True:
            key, task = self._tasks.get()
            try:
                task()
            except Exception:  # noqa: BLE001 - the next task is not to blame
                log().exception("task failed", lane=self._name)
            finally:
                self._keys.discard(key)
