"""What the ledger and the disk say now, as metrics: small indexed sums, asked every few seconds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection

from radnode import metrics
from radnode.run.apps import Catalog
from radnode.settings import Settings
from radnode.state import claims, commitments, deliveries, intake, jobs, purges
from radnode.state.ledger import Ledger
from radnode.state.presence import present

_SLACK = 60.0  # seconds over its time limit after which a job is overdue: its worker should long have ended it


def show(settings: Settings, ledger: Ledger, catalog: Catalog, destinations: Collection[str]) -> None:
    """Sets every gauge that core keeps, but for those of the routing and of tickets."""
    now = time.time()
    living = [each.name.split("-")[0] for each in present(settings.run, "") if each.alive]
    for part in ("core", "receiver", "worker"):
        metrics.parts.labels(part).set(living.count(part))
    with ledger.read() as tx:
        states, oldest, running = jobs.states(tx), claims.oldest_waiting(tx), claims.running(tx)
        moving, still_open = deliveries.states(tx), intake.counts(tx)
        promised, first_kept = commitments.states(tx), purges.first_kept(tx)
    for state in ("waiting", "running", "failed", "held"):
        metrics.jobs.labels(state).set(states.get(state, 0))
    metrics.oldest_waiting_job.set(0 if oldest is None else max(now - oldest, 0))
    metrics.jobs_overdue.set(sum(since + _limit(catalog, app) < now for app, since in running))
    metrics.series_open.set(still_open["series_open"])
    metrics.series_incomplete.set(still_open["series_incomplete"])
    for state in ("received", "waiting", "sending", "parked"):
        metrics.commitments.labels(state).set(promised.get(state, 0))
    metrics.oldest_kept.set(0 if first_kept is None else max(now - first_kept, 0))
    metrics.spool_free_bytes.set(shutil.disk_usage(settings.spool).free)
    _show_deliveries(moving, destinations, now)


def _limit(catalog: Catalog, app: str) -> float:
    return _SLACK + (catalog.get(app).resources.timeout if app in catalog.apps else 0.0)


def _show_deliveries(
    moving: Collection[tuple[str, str, int, float]], destinations: Collection[str], now: float
) -> None:
    counts = {(destination, state): (count, first) for destination, state, count, first in moving}
    for destination in {*destinations, *(each for each, _ in counts)}:
        for state in ("waiting", "sending", "parked", "held"):
            metrics.deliveries.labels(destination, state).set(counts.get((destination, state), (0, 0))[0])
        firsts = [counts[destination, state][1] for state in ("waiting", "sending") if (destination, state) in counts]
        metrics.oldest_waiting_delivery.labels(destination).set(max(now - min(firsts, default=now), 0))
