"""How many associations are open, over all receivers: a limit that is exact, and that a receiver's death sets free.

Each receiver lists the peers of its associations in a lock file of its own. Who wants one more takes a common lock,
adds up what the living ones have listed, and lists itself.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from radnode.state.presence import Presence, forget, present

_SIZE = 8  # bytes of a peer's digest


class Slots:
    """One receiver's share of the slots; `folder` None: it is the only one."""

    def __init__(self, folder: Path | None = None, name: str = "") -> None:
        self._lock = threading.Lock()
        self._mine: Counter[bytes] = Counter()
        self._folder, self._name = folder, name
        if folder is not None:
            self._presence = Presence(folder, name)
            for each in list(present(folder, "")):
                if not each.alive:
                    forget(folder, each.name)
            self._guard = os.open(folder / "guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, peer: str, most: int, most_per_peer: int) -> str:
        """Takes a slot, or says why there is none: `all` or `peer`; empty where one was taken. Raises OSError.

        Args:
            most_per_peer: 0: no limit of its own.
        """
        key = digest(peer)
        with self._alone():
            taken = self._mine + self._others()
            if taken.total() >= most:
                return "all"
            if most_per_peer and taken[key] >= most_per_peer:
                return "peer"
            self._publish(self._mine + Counter((key,)))
        return ""

    def free(self, peer: str) -> None:
        with self._lock:
            self._publish(self._mine - Counter((digest(peer),)))

    def leave(self) -> None:
        """A clean end."""
        if self._folder is not None:
            self._presence.leave()
            os.close(self._guard)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if self._folder is None:
                yield
                return
            fcntl.flock(self._guard, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._guard, fcntl.LOCK_UN)

    def _others(self) -> Counter[bytes]:
        counted: Counter[bytes] = Counter()
        if self._folder is None:
            return counted
        for name, listed in _listed(self._folder):
            if name != self._name:
                counted.update(listed)
        return counted

    def _publish(self, mine: Counter[bytes]) -> None:
        if self._folder is not None:
            listed = b"".join(mine.elements())
            os.pwrite(self._presence.fd, listed, 0)
            os.ftruncate(self._presence.fd, len(listed))
        self._mine = mine


def peers_open(folder: Path) -> frozenset[bytes]:
    """Digests of the peers that have an association open with any receiver."""
    return frozenset(each for _, listed in _listed(folder) for each in listed)


def _listed(folder: Path) -> Iterator[tuple[str, list[bytes]]]:
    """The living receivers, and the peers that each has listed, as often as they have an association open."""
    for each in present(folder, ""):
        if each.alive:
            listed = (folder / f"{each.name}.lock").read_bytes()
            yield each.name, [listed[at : at + _SIZE] for at in range(0, len(listed), _SIZE)]


def digest(peer: str) -> bytes:
    return blake2b(peer.encode(), digest_size=_SIZE).digest()
