"""Crash labels: instructions at which a test lets a process die as `kill -9` would. Off, they cost nothing.

Every transaction has a label with two moments, `before` and `after` its commit (`Ledger.begin`); whatever else divides
one durable step from the next names itself by `point`. A test puts an empty file called `LABEL.MOMENT` into the folder
that RADNODE_CRASH_AT names: the process that comes there first takes the file away and kills itself.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_folder: Path | None = None


def arm(folder: str) -> None:
    """Called once by each process, with the setting; empty: off."""
    global _folder  # noqa: PLW0603 - a process has one
    _folder = Path(folder) if folder else None


def point(label: str, moment: str = "here") -> None:
    """Dies here if a test wants it."""
    if _folder is None:
        return
    try:
        (_folder / f"{label}.{moment}").unlink()  # of several processes one gets it, and what comes after it goes on
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
