"""The room a worker has: cores, which its jobs share out, and GPU slots, which all workers of a host share."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from radnode.domain.app import Resources

T = TypeVar("T")


@dataclass
class Slot:
    """One job's place on a GPU. Its lock file keeps other workers off; the kernel frees it however this one ends."""

    device: str
    path: Path
    busy: bool = False
    app: str = ""
    """Whose model may lie on it still."""
    fd: int = field(default=-1, repr=False)

    def lock(self) -> bool:
        """Whether it is ours, now or already."""
        if self.fd >= 0:
            return True
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.fd = fd
            return True
        os.close(fd)
        return False

    def unlock(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.app = -1, ""


@dataclass(frozen=True)
class Share:
    """What one job was given."""

    cores: int = 0
    slots: tuple[Slot, ...] = ()

    @property
    def devices(self) -> str:
        """As `CUDA_VISIBLE_DEVICES` has them."""
        return ",".join(each.device for each in self.slots)


class Capacity:
    """What of a worker's cores and GPU slots is free.

    Args:
        gpus: the setting; see `devices`.
        folder: holds the slots' lock files, for all workers of the host.
    """

    def __init__(self, cores: int, gpus: str, folder: Path) -> None:
        self.cores = self._free = cores
        self.slots: list[Slot] = []
        for device in devices(gpus):
            number = sum(each.device == device for each in self.slots)
            name = re.sub(r"[^\w.-]", "_", device)
            self.slots.append(Slot(device, folder / f"gpu-{name}-{number}.slot"))
        self._lock = threading.Lock()

    def claim(
        self, needs: Mapping[str, Resources], take: Callable[[Collection[str]], T | None], app_of: Callable[[T], str]
    ) -> tuple[T, Share] | None:
        """Takes a job and the room for it, or neither.

        Args:
            needs: app -> what its jobs need.
            take: claims a job of an app that is not among those it is given.
        """
        with self._lock:
            slots = [each for each in self.slots if not each.busy and each.lock()]
            given: tuple[Slot, ...] = ()
            try:
                lacking = [app for app, need in needs.items() if not self._fits(need, slots)]
                claimed = take(lacking)
                if claimed is None:
                    return None
                app = app_of(claimed)
                need = needs.get(app, Resources())
                given = self._choose(app, need.gpu, slots)
                share = Share(min(need.cpu, self.cores), given)
                self._free -= share.cores
                for each in given:
                    each.busy, each.app = True, app
                return claimed, share
            finally:
                for each in slots:
                    if each not in given and not each.app:
                        each.unlock()

    def give_back(self, share: Share, *, keep: bool) -> None:
        """The job has ended. `keep`: a process with its model goes on living on its GPU slots, which stay ours."""
        with self._lock:
            self._free += share.cores
            for each in share.slots:
                each.busy = False
                if not keep:
                    each.unlock()

    def let_go(self, slots: Collection[Slot]) -> None:
        """The processes that stayed on these GPU slots have ended."""
        with self._lock:
            for each in slots:
                if not each.busy:
                    each.unlock()

    def _fits(self, need: Resources, slots: Collection[Slot]) -> bool:
        wanted = min(need.gpu, len({each.device for each in self.slots}))
        return min(need.cpu, self.cores) <= self._free and len({each.device for each in slots}) >= wanted

    def _choose(self, app: str, wanted: int, slots: Collection[Slot]) -> tuple[Slot, ...]:
        """Slots on as many devices; first those where the app's model lies already, then those where none does."""
        load = Counter(each.device for each in self.slots if each.busy)
        by_preference = sorted(slots, key=lambda each: (each.app != app, each.app != "", load[each.device]))
        chosen: dict[str, Slot] = {}
        for each in by_preference:
            if len(chosen) < wanted:
                chosen.setdefault(each.device, each)
        return tuple(chosen.values())


def devices(setting: str) -> list[str]:
    """The devices that `RADNODE_GPUS` names.

    On a machine without a GPU `auto` gives one nameless slot: apps for a GPU run there one at a time, and say
    themselves what they lack.
    """
    if setting == "none":
        return []
    if setting == "auto":
        found = sorted(int(each.name[6:]) for each in Path("/dev").glob("nvidia[0-9]*"))
        return [str(number) for number in found] or [""]
    return [each.strip() for each in setting.split(",") if each.strip()]
