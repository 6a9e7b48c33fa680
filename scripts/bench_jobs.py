"""What jobs cost: jobs per second of an app that does nothing, and whether claims grow slower with the ledger.

The road's part: all studies are received and complete, and their jobs wait, while the app is paused; the clock runs
from `radnode resume` to the last result at the sink. The ledger's part: nothing else runs, and each operation is
committed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text

from radnode.run import look
from radnode.state import claims, deliveries, jobs, schema
from radnode.state.ledger import Ledger
from radnode.testing import head_ct
from radnode.testing.sink import SinkPacs
from scripts.chaos import settings_of
from tests.databases import Postgres
from tests.peers import Node, until

EMPTY = """\
import radnode
from PIL import Image

class Empty(radnode.App):
    name, version = "empty", "1"

    def process(self, series, options):
        yield radnode.SecondaryCapture(Image.new("RGB", (8, 8)))
"""
ROUTING = """\
destinations:
  pacs: {{aet: SINK, host: 127.0.0.1, port: {port}}}
complete: {{series: 1s, study: 1s}}
rules:
  - {{name: empty, app: empty, send_to: [pacs]}}
"""
WAITING = 200  # rows of each kind that are there to be claimed


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench jobs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--history", type=int, nargs="*", default=[10**2, 10**4, 10**6])
    given = parser.parse_args()
    if given.jobs:
        seconds = road(given.jobs)
        print(f"{given.jobs} jobs of an empty app: {given.jobs / seconds:.1f} jobs/s, from waiting to stored\n")
    for name, server in (("SQLite", None), ("PostgreSQL", Postgres())) if given.history else ():
        report(name, {history: measure(history, server) for history in given.history})
        if server is not None:
            server.remove()


def road(count: int) -> float:
    """Seconds from `resume` to the last result."""
    with tempfile.TemporaryDirectory() as name, SinkPacs() as sink:
        folder = Path(name)
        apps = folder / "apps"
        apps.mkdir()
        (apps / "empty.py").write_text(EMPTY)
        with Node(folder / "node", ROUTING.format(port=sink.port), apps=apps) as node:
            node.cli("pause", "empty")
            for number in range(count):
                node.send(head_ct(folder / str(number), slices=1, size=16, seed=number + 1))
            waiting = {"state": "waiting", "limit": count}
            until(lambda: len(look.jobs(settings_of(node), **waiting)) == count, "every job waits", timeout=600)
            start = time.monotonic()
            node.cli("resume", "empty")
            return sink.wait_for(count, timeout=600)[-1].received_at - start


# ---- the ledger ------------------------------------------------------------------------------------------------------


def measure(history: int, server: Postgres | None) -> dict[str, float]:
    """Operation -> median milliseconds, with so many finished jobs and deliveries in the ledger."""
    with _ledger(server) as ledger:
        _fill(ledger, "done", "delivered", history)
        _fill(ledger, "waiting", "waiting", WAITING, prefix="w")
        if server is not None:  # as its autovacuum does; nobody does it on SQLite
            with ledger.engine.connect() as tx:
                tx.execute(text("ANALYZE"))
                tx.commit()
        now = ledger.now()
        return {
            "claim a job": _median(ledger, lambda tx: claims.claim(tx, "cpu", "bench")),
            "claim a delivery": _median(ledger, lambda tx: _claim_delivery(tx, now)),
            "count what may run": _median(ledger, lambda tx: (claims.runnable(tx), deliveries.runnable(tx, now))),
            "read the gauges": _median(
                ledger, lambda tx: (jobs.states(tx), claims.oldest_waiting(tx), deliveries.states(tx))
            ),
        }


@contextmanager
def _ledger(server: Postgres | None) -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as name:
        ledger = Ledger(Path(name), "" if server is None else server.create())
        ledger.migrate()
        try:
            yield ledger
        finally:
            ledger.close()


def _fill(ledger: Ledger, job_state: str, delivery_state: str, count: int, prefix: str = "d") -> None:
    times = {"first_received_at": 1.0, "last_received_at": 1.0, "seen": 1.0}
    with ledger.begin() as tx:
        row = {"study_instance_uid": f"1.2.{prefix}", "state": "complete", **times}
        study = tx.execute(insert(schema.study).values(**row).returning(schema.study.c.id)).scalar_one()
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            tx.execute(insert(schema.job), [_job(f"{prefix}{n}", study, job_state, n) for n in numbers])
            tx.execute(insert(schema.delivery), [_delivery(f"{prefix}{n}", delivery_state, n) for n in numbers])


def _job(name: str, study: int, state: str, number: int) -> dict[str, Any]:
    return {
        "id": name, "work": name, "revision": 0, "study_id": study, "rule": "empty", "routing_version": "1",
        "app": "empty", "app_version": "1",
        "level": "series", "options": {}, "label": {}, "send_to": ["pacs"], "queue": "cpu", "priority": 1,
        "state": state, "created_at": float(number), "last_image_at": 1.0,
    }  # fmt: skip


def _delivery(job: str, state: str, number: int) -> dict[str, Any]:
    return {
        "job_id": job, "destination": f"pacs{number % 3}", "priority": 1, "state": state, "created_at": float(number),
    }  # fmt: skip


def _claim_delivery(tx: Any, now: float) -> None:
    """And gives it back: one destination is served by one worker at a time."""
    claimed = deliveries.claim(tx, "bench", now)
    deliveries.give_back(tx, claimed)


def _median(ledger: Ledger, action: Callable[[Any], Any], rounds: int = 100) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        with ledger.begin() as tx:
            action(tx)
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def report(database: str, found: dict[int, dict[str, float]]) -> None:
    print(f"| {database}, ms | " + " | ".join(f"{history:,} rows" for history in found) + " |")
    print("|---|" + "---|" * len(found))
    for operation in next(iter(found.values())):
        print(f"| {operation} | " + " | ".join(f"{each[operation]:.2f}" for each in found.values()) + " |")
    print()


if __name__ == "__main__":
    main()
