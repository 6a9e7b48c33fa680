"""What a worker has in hand, held against the ledger: a claim that a fault came between is given back.

A thread can lose a claim without the worker dying: the disk was full, or the ledger went away around a commit. Nobody
else would free it, since its owner lives.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from radnode.state import claims, deliveries
from radnode.state.ledger import Ledger, Record
from radnode.telemetry import log

_Claim = tuple[str, int]


class Hands:
    """Claims of jobs and deliveries that the threads of one worker are busy with."""

    def __init__(self, ledger: Ledger, owner: str) -> None:
        self._ledger, self._owner = ledger, owner
        self._lock = threading.Lock()
        self._held: set[_Claim] = set()
        self._suspects: set[_Claim] = set()

    @contextmanager
    def on(self, claimed: Record) -> Iterator[None]:
        """Around the work on a job or delivery as it was claimed."""
        claim = _claim(claimed)
        with self._lock:
            self._held.add(claim)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(claim)

    def give_back_forgotten(self) -> None:
        """Called now and then. A claim is forgotten when two looks in a row found nobody at work on it."""
        with self._ledger.read() as tx:
            claimed = [(kind, row) for kind in (claims, deliveries) for row in kind.claimed_by(tx, self._owner)]
        with self._lock:
            idle = {_claim(row): (kind, row) for kind, row in claimed if _claim(row) not in self._held}
        for claim in self._suspects & idle.keys():
            kind, row = idle[claim]
            with self._ledger.begin("give back") as tx:
                kind.give_back(tx, row)
            log().warning("claim given back", worker=self._owner, id=claim[0][:12], attempt=claim[1])
        self._suspects = set(idle)


def _claim(row: Record) -> _Claim:
    """A job's ID is text and a delivery's a number, so that the two are never mistaken."""
    return str(row.id), int(row.attempt)
