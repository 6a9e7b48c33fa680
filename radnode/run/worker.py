"""A worker: Dramatiq actors that claim jobs and deliveries from the ledger and carry them out."""

from __future__ import annotations

import errno
import json
import os
import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from radnode import metrics
from radnode.dicom.headers import summarize
from radnode.domain.app import Resources
from radnode.domain.errors import ResultError, SpoolError
from radnode.domain.jobs import Assignment
from radnode.run import broker as brokers
from radnode.run.apps import Catalog, find
from radnode.run.assignments import assignment_of, site_uid
from radnode.run.capacity import Capacity, Share
from radnode.run.child import MODELS, OUT, REFUSED, write_assignment
from radnode.run.commitment import Reporter
from radnode.run.delivery import Deliverer
from radnode.run.hands import Hands
from radnode.run.joblog import log_path
from radnode.run.lifeline import StopSignal
from radnode.run.notices import Notices
from radnode.run.notifying import Notifier
from radnode.run.published import describe, read_manifest, rows_of
from radnode.run.runner import Child, Ending, Runner
from radnode.settings import Settings
from radnode.state import claims, jobs
from radnode.state.crash import point
from radnode.state.ledger import Ledger, Record, Unavailable
from radnode.state.origins import origin_of
from radnode.state.presence import Presence
from radnode.state.spool import Spool
from radnode.telemetry import log

DELIVERY_THREADS = 16
"""More than a destination is ever given: one that hangs holds up no other. They wait, mostly."""
_HANDS_EVERY = 3.0
Inputs = dict[str, list[str]]
_GRACE = 5.0  # seconds that running jobs have to end by themselves when the worker is told to stop


class Worker:
    """Carries out tickets of the queues it was given until it is told to stop."""

    def __init__(self, settings: Settings, queues: Sequence[str]) -> None:
        self.settings = settings
        self.queues = queues
        self.name = f"worker-{secrets.token_hex(6)}"
        self.ledger = Ledger(settings.home, settings.database_url)
        self.ledger.ready(wait=60)
        self.site_uid = site_uid(self.ledger)
        self.spool = Spool(settings.spool, settings.durability)
        self.presence = Presence(settings.run, self.name)
        self.stopping = threading.Event()
        self.aborting = threading.Event()
        self.broker = brokers.connect(settings.redis_url)
        self.tickets = brokers.Tickets(self.broker)
        self.log = log().bind(worker=self.name)
        self.catalog: Catalog = Catalog()
        self.needs: dict[str, Resources] = {}
        self.limits: dict[str, int] = {}
        self.capacity = Capacity(settings.workers, settings.gpus, settings.run)
        self.runner = Runner(settings, self.name, self.spool.work, self.presence.fd)
        self.hands = Hands(self.ledger, self.name)
        self.deliverer = Deliverer(settings, self.ledger, self.name, self.hands, self.stopping)
        self.notices = Notices(settings, self.ledger, self.name, self.stopping)
        self.notifier = Notifier(settings, self.ledger, self.name, self.stopping)
        self.reporter = Reporter(settings, self.ledger, self.name, self.stopping)

    def run(self, stop: StopSignal) -> None:
        """Works until `stop`; then lets what runs end within a few seconds, and gives the rest back."""
        if set(self.queues) & {"cpu", "gpu"}:
            self.catalog = find(self.settings.apps)
            self.needs = {name: app.resources for name, app in self.catalog.apps.items()}
            self.limits = {name: need.concurrent for name, need in self.needs.items() if need.concurrent}
            self.runner.start()
        served = [queue for queue in self.queues if self._threads(queue)]
        actions = {queue: (self._action(queue), self._threads(queue)) for queue in served}
        embedded = brokers.workers(self.broker, actions)
        for each in embedded:
            each.start()
        self.log.info("working", queues=",".join(served))
        while not stop.wait(_HANDS_EVERY):
            self._look_at_hands()
        self.stopping.set()
        late = threading.Timer(_GRACE, self.aborting.set)
        late.start()
        for each in embedded:
            each.stop(timeout=int(_GRACE * 2000))
        late.cancel()
        self.runner.stop()
        self.deliverer.close()
        self._give_back()
        self.presence.leave()

    def _look_at_hands(self) -> None:
        self.capacity.let_go(self.runner.end_idle())
        try:
            self.hands.give_back_forgotten()
        except Unavailable as error:
            self.log.error("ledger unavailable", error=str(error.orig), remedy="the worker goes on when it answers")

    def _action(self, queue: str) -> Any:
        if queue == "deliver":
            return self._deliver
        return lambda: self._drain(queue)

    def _deliver(self) -> None:
        self.notices.drain()
        self.deliverer.drain()
        self.reporter.drain()
        self.notifier.drain()

    def _threads(self, queue: str) -> int:
        return {"deliver": DELIVERY_THREADS, "gpu": len(self.capacity.slots)}.get(queue, self.settings.workers)

    def _give_back(self) -> None:
        with self.ledger.begin("interrupt jobs") as tx:
            claims.interrupt(tx, self.name)

    def _drain(self, queue: str) -> None:
        """One ticket: claims and runs jobs of the queue until there is none, so that no job waits for a lost ticket.

        On a full disk none is claimed: the reconciler sends tickets again for as long as jobs wait.
        """
        while not self.stopping.is_set() and not self.spool.exhausted():
            claimed = self.capacity.claim(self.needs, partial(self._claim, queue), lambda taken: str(taken[0].app))
            if claimed is None:
                return
            (job, inputs), share = claimed
            try:
                with self.hands.on(job):
                    self._guarded(job, inputs, share)
            finally:
                self.capacity.give_back(share, keep=self.runner.holds(share.slots))
            self.tickets.send(queue, share.cores - 1)  # there may be room now for several smaller ones

    def _claim(self, queue: str, too_big: Collection[str]) -> tuple[Record, Inputs] | None:
        with self.ledger.begin("claim job") as tx:
            job = claims.claim(tx, queue, self.name, limits=self.limits, too_big=too_big)
            return None if job is None else (job, jobs.inputs(tx, job.id))

    def _guarded(self, job: Record, inputs: Inputs, share: Share) -> None:
        """A fault of the disk or the ledger interrupts a job, which is given back; any other of ours fails it."""
        try:
            self._run(job, inputs, share)
        except (OSError, SpoolError, *Unavailable) as error:
            self.log.error("job interrupted", job=job.id[:12], error=str(error), remedy="it is run again by itself")
        except Exception as error:  # whatever it is: no job stays `running` with nobody at it
            self.log.exception("job broke the worker", job=job.id[:12])
            self._fail(job, f"{type(error).__name__}: {error}", self.log.bind(job=job.id[:12]))

    def _run(self, job: Record, inputs: Inputs, share: Share) -> None:
        logger = self.log.bind(study=job.study_id, job=job.id[:12], app=job.app)
        started = time.monotonic()
        try:
            if self.spool.result(job.id) is None:
                ending = self._in_child(job, inputs, share)
                if ending.how != "done":
                    self._ended_badly(job, ending, logger)
                    return
            self._conclude(job, logger, time.monotonic() - started)
        except ResultError as error:
            self._fail(job, str(error), logger)

    def _in_child(self, job: Record, inputs: Inputs, share: Share) -> Ending:
        """Runs the app and publishes its results, which the child has checked."""
        if job.app not in self.catalog.apps:
            return Ending(
                "error", f"app {job.app!r} is not installed on this worker: {self.catalog.broken(job.app) or 'unknown'}"
            )
        app = self.catalog.get(job.app)
        network = app.resources.network or asks_others(job.options, self.settings.models)
        with self.runner.child(app, share, network=network) as child:
            folder = self._prepare(child, job, inputs)
            said: list[str] = []
            log_file = log_path(self.settings.home, job.id, job.attempt)
            ending = child.run(
                folder, log_file, app.resources.timeout, lambda: self._still_ours(job, said), said.append
            )
            point("child ended")
            _count_models(folder / MODELS)
            self._quarantine(job, folder / OUT / REFUSED)
            if ending.how == "done":
                with self.ledger.read() as tx:
                    describe(folder / OUT, origin_of(tx, job.id))
                self.spool.publish(folder / OUT, job.id)
        return ending

    def _prepare(self, child: Child, job: Record, inputs: Inputs) -> Path:
        """The job's folder in the child's place, with what it needs to know; its images go where they are read-only."""
        folder = child.place / f"{job.id}.{job.attempt}"
        (folder / OUT).mkdir(parents=True)
        lent = {
            name: self._lend(child.place / "in" / str(number), paths)
            for number, (name, paths) in enumerate(inputs.items())
        }
        reissues = self._lend(child.place / "in" / "reissues", self._results_of(job.reissues))
        write_assignment(folder, self._assignment(job, lent, reissues))
        return folder

    def _lend(self, place: Path, paths: Sequence[str]) -> list[str]:
        """Puts files of the spool into a child's place; returns where they are there."""
        place.mkdir()
        targets = [place / f"{number:05d}.dcm" for number in range(len(paths))]
        for path, target in zip(paths, targets, strict=True):
            self.spool.lend(path, target)
        return list(map(str, targets))

    def _assignment(self, job: Record, inputs: Inputs, reissues: list[str]) -> Assignment:
        predecessors = [_reference(self.spool.root / path) for path in self._results_of(job.supersedes)]
        return assignment_of(job, inputs, self.settings, self.site_uid, predecessors=predecessors, reissues=reissues)

    def _results_of(self, job_id: str) -> list[str]:
        """Where in the spool lies what another job made, where there is one, and it is still kept."""
        with self.ledger.read() as tx:
            return [each.path for each in jobs.kept_results(tx, job_id)]

    def _still_ours(self, job: Record, said: list[str]) -> bool:
        if self.aborting.is_set():
            return False
        if said:
            text = said[-1]
            said.clear()
            with self.ledger.begin("job progress") as tx:
                return claims.progress(tx, job, text)
        with self.ledger.read() as tx:
            return claims.is_ours(tx, job)

    def _conclude(self, job: Record, logger: Any, seconds: float) -> None:
        """Publishing came first: from here on another worker would find the results instead of computing them."""
        folder = self.spool.result(job.id)
        assert folder is not None
        manifest = read_manifest(folder)
        metrics.job_seconds.labels(job.app).observe(seconds)
        if manifest["state"] == "declined":
            with self.ledger.begin("decline job") as tx:
                ended = claims.decline(tx, job, manifest["reason"])
            logger.info("job declined")
            metrics.jobs_ended.labels(job.app, "declined").inc(ended)
            return
        rows = rows_of(folder, manifest, self.spool.root)
        with self.ledger.begin("finish job") as tx:
            ended = claims.finish(tx, job, rows, seconds=manifest.get("seconds", {}))
        if ended:
            metrics.jobs_ended.labels(job.app, "done").inc()
            logger.info("job done", results=len(manifest["objects"]), seconds=round(seconds, 3))
            self.tickets.send("deliver", min(len(job.send_to), DELIVERY_THREADS))

    def _ended_badly(self, job: Record, ending: Ending, logger: Any) -> None:
        if ending.how == "stopped":
            logger.info("job stopped", reason=ending.detail)
        elif ending.how == "lost":
            with self.ledger.begin("lose job") as tx:
                claims.lose(tx, job)
            logger.error("job lost", how=ending.detail, remedy="it is run again by itself")
            self.tickets.send(job.queue)
        elif ending.how == "crashed" or _NO_ROOM in ending.detail:
            metrics.job_crashes.labels(job.app).inc()
            with self.ledger.begin("job crashed") as tx:
                claims.crashed(tx, job, ending.detail)
            logger.error("job crashed", how=ending.detail)
            self.tickets.send(job.queue)
        else:
            self._fail(job, ending.detail, logger)

    def _fail(self, job: Record, error: str, logger: Any) -> None:
        with self.ledger.begin("fail job") as tx:
            ended = claims.fail(tx, job, error)
        metrics.jobs_ended.labels(job.app, "failed").inc(ended)
        logger.error(
            "job failed",
            remedy=f"`radnode job {job.id[:12]}` shows its log; `radnode retry {job.id[:12]}` runs it again",
        )

    def _quarantine(self, job: Record, refused: Path) -> None:
        """Results that failed their check, for whoever has to find out why."""
        for path in refused.glob("*.dcm"):
            reason = path.with_suffix(".txt").read_text(encoding="utf-8")
            named = path.rename(refused / f"result-{job.id[:12]}-{job.attempt}-{path.name}")
            self.spool.set_aside(named, f"result of job {job.id}: {reason}")


_NO_ROOM = os.strerror(errno.ENOSPC)
"""An app that found the disk full, perhaps by others' fault, is no app that failed: it is run again, a few times."""


def asks_others(options: Mapping[str, Any], models: Mapping[str, str]) -> bool:
    """Whether an option names an address in the network, or a model that has one."""
    named = [models.get(each, each) for each in options.values() if isinstance(each, str)]
    return any(each.startswith(("http://", "https://")) for each in named)


def _count_models(path: Path) -> None:
    """What the child said it asked of models. One that was killed, or had no room on the disk, said nothing."""
    try:
        used = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return
    for each in used:
        metrics.model_requests.labels(each["model"], "failed").inc(each["failures"])
        metrics.model_requests.labels(each["model"], "answered").inc(each["requests"] - each["failures"])
        metrics.model_seconds.labels(each["model"]).inc(each["seconds"])


def _reference(result: Path) -> dict[str, str]:
    said = summarize(result)
    return {
        "SOPClassUID": said.sop_class_uid,
        "SOPInstanceUID": said.sop_instance_uid,
        "SeriesInstanceUID": said.head.series_uid,
    }
