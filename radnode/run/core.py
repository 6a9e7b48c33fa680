"""Core: decides what is complete, makes jobs, tops tickets up, finishes what dead parts left, and answers probes.

There is one core. It loops a few times a second; nothing it decides rests on anything but the ledger, the spool and
the parts' lock files, so that it can be killed at any instruction and started again.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from radnode import metrics
from radnode.dicom.headers import summarize
from radnode.domain.errors import LedgerError
from radnode.run import broker as brokers
from radnode.run import gauges, published
from radnode.run.apps import find
from radnode.run.assembling import Assembling
from radnode.run.commitment import Gate
from radnode.run.completion import Completion
from radnode.run.fetching import Fetcher
from radnode.run.inquiry import Peers, SeriesInquiry
from radnode.run.lanes import Lane
from radnode.run.lifeline import StopSignal
from radnode.run.receiver import receiver_alive
from radnode.run.reload import RoutingFile
from radnode.run.retention import Retention
from radnode.run.study_inquiry import StudyInquiry
from radnode.run.study_watch import StudyWatch
from radnode.settings import Settings
from radnode.state import claims, commitments, deliveries, holds, intake, notices, notifications, waits
from radnode.state.ledger import Ledger, Unavailable, ping
from radnode.state.presence import Barrier, Presence, forget, present
from radnode.state.scan import scan
from radnode.state.spool import Spool
from radnode.telemetry import Health, log, serve_http

_ADOPT_AT_ONCE = 500
_TICK = 0.02
_IDLE_TICK = 0.1
_RECONCILE_EVERY = 2.0
_GAUGES_EVERY = 5.0
_ROUTING_EVERY = 0.5
_COMMITMENTS_EVERY = 0.2
_WAITS_EVERY = 0.5
_PURGE_EVERY = 60.0
_FAULT_PAUSE = 1.0
_BROKER_SAID_EVERY = 60.0


class Core:
    """The state of one running core; `run` is its life."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        settings.home.mkdir(parents=True, exist_ok=True)
        try:
            self.presence = Presence(settings.run, "core")
        except BlockingIOError:
            raise LedgerError(
                f"a core runs already on {settings.home}", remedy="stop it, or set another RADNODE_HOME"
            ) from None
        self.ledger = Ledger(settings.home, settings.database_url)
        self.ledger.migrate()
        self.spool = Spool(settings.spool, settings.durability)
        self.barrier = Barrier(settings.run)
        self.broker = brokers.connect(settings.redis_url)
        self.tickets = brokers.Tickets(self.broker)
        self.catalog = find(settings.apps)
        self.routing_file = RoutingFile(settings.routing, self.ledger, self.catalog)
        self.completion = Completion(settings, self.ledger, self.catalog, self.tickets)
        asking = settings, self.ledger, Peers(self.ledger), Fetcher(self.ledger, self.spool)
        studies = StudyWatch(settings, self.ledger, self.completion, StudyInquiry(*asking))
        self.assembling = Assembling(
            settings, self.ledger, self.barrier, self.completion, SeriesInquiry(*asking), studies
        )
        self.retention = Retention(settings, self.ledger, self.spool)
        self.purging, self.topping_up = Lane("purge"), Lane("tickets")
        self.commitments = Gate(self.ledger, self.barrier, settings.run, self.tickets)
        self._timers: dict[str, float] = {}

    def run(self, stop: StopSignal) -> None:
        for name, fault in self.catalog.faults.items():
            log().error("app broken", app=name, error=fault, remedy="mend it and restart core; all other apps work")
        self._recover()
        server = serve_http(self.settings, Health(self._readiness))
        log().info("core ready", home=str(self.settings.home), apps=",".join(sorted(self.catalog.apps)))
        while not stop:
            try:
                busy = self._tick()
            except Unavailable as error:
                log().error(
                    "ledger unavailable", error=str(error.orig), remedy="core goes on by itself when it answers again"
                )
                stop.wait(_FAULT_PAUSE)
                continue
            stop.wait(_TICK if busy else _IDLE_TICK)
        if server is not None:
            server.shutdown()
        self.presence.leave()

    # ---- at start -----------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Finishes what an earlier life left half done, before anything is judged."""
        now = self.ledger.now()
        with self.ledger.begin("recover") as tx:
            intake.restart_quiet_time(tx, now)
            deliveries.wake_all(tx)
            commitments.wake_all(tx)
            notifications.wake_all(tx)
            waits.after_restart(tx, now)
            notices.after_restart(tx, now)
            holds.watch_for_loss(tx)
            metrics.info.labels(version("radnode")).set(1)
        adopted = self._adopt()
        with self.ledger.begin("loss") as tx:
            held = holds.loss(tx)
        if held:
            remedy = "`radnode studies --attention` lists them, `radnode release` lets them go: docs/deployment.md"
            log().error("the ledger was lost: its studies are held", studies=held, remedy=remedy)
        put_back = published.put_back(self.ledger, self.spool)
        self._clear_places()
        if put_back:
            remedy = "they are sent again, as they were: docs/deployment.md, Backup and restore"
            log().error("the ledger is older than the results in the spool: put back", jobs=put_back, remedy=remedy)
        if adopted:
            log().warning("adopted from the spool", instances=adopted)

    def _adopt(self) -> int:
        """Files what lies in the spool and the ledger does not know: acknowledged, then a part died."""
        with self.ledger.read() as tx:
            before = intake.sealed(tx)
        sealed = dict(before)
        found = scan(self.spool, self._known, self._writes, summarize, self.ledger.now, sealed)
        adopted = 0
        while batch := list(itertools.islice(found, _ADOPT_AT_ONCE)):
            with self.ledger.begin("adopt") as tx:
                holds.adopting(tx)
                intake.record(tx, batch, [])
            adopted += len(batch)
        if sealed != before:
            with self.ledger.begin("seal") as tx:
                intake.seal(tx, {bucket: at for bucket, at in sealed.items() if before.get(bucket) != at})
        return adopted

    def _writes(self, incarnation: str) -> bool:
        """Whether files of that name are being written still: by a receiver, or fetched by this core itself."""
        return incarnation == self.spool.incarnation or receiver_alive(self.settings.run, incarnation)

    def _known(self, bucket: str) -> set[str]:
        with self.ledger.read() as tx:
            return intake.known_paths(tx, f"instances/{bucket}/")

    # ---- the loop -----------------------------------------------------------------------------------------------

    def _tick(self) -> bool:
        """One turn; True while something is still receiving."""
        self._every("routing", _ROUTING_EVERY, self._follow_routing)
        self._bury_receivers()
        with self.ledger.read() as tx:
            receiving = intake.anything_open(tx)
        if receiving:
            self.assembling.advance(self.routing_file.routing)
        self._every("commitments", _COMMITMENTS_EVERY, self.commitments.advance)
        self._every("waits", _WAITS_EVERY, lambda: self.completion.end_waits(self.routing_file.routing))
        self._every("notices", _WAITS_EVERY, self._start_notices)
        self._every("reconcile", _RECONCILE_EVERY, self._reconcile)
        self._every("purge", _PURGE_EVERY, lambda: self.purging.submit("purge", self.retention.round))
        self._every("gauges", _GAUGES_EVERY, self._gauges)
        return receiving

    def _every(self, name: str, seconds: float, action: Callable[[], object]) -> None:
        now = time.monotonic()
        if now >= self._timers.get(name, 0.0):
            action()
            self._timers[name] = time.monotonic() + seconds

    def _follow_routing(self) -> None:
        before = self.routing_file.routing
        self.routing_file.poll()
        if self.routing_file.routing is not before:  # it may name a destination that a report has been waiting for
            with self.ledger.begin("wake commitments") as tx:
                commitments.wake_all(tx)

    def _bury_receivers(self) -> None:
        """A receiver died: files what it acknowledged; quiet times start anew, so that its sender can come back."""
        for each in list(present(self.settings.run, "receiver-")):
            if each.alive:
                continue
            adopted = self._adopt()
            with self.ledger.begin("bury receiver") as tx:
                intake.restart_quiet_time(tx, self.ledger.now())
                commitments.release_lost(tx, each.name)
            forget(self.settings.run, each.name)
            log().error("receiver died", name=each.name, adopted=adopted)

    # ---- now and then -------------------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        """Gives back what dead workers had in hand, and refills missing tickets."""
        with self.ledger.read() as tx:
            owners = claims.owners(tx) | commitments.owners(tx)
        alive = {each.name for each in present(self.settings.run, "worker-") if each.alive}
        for owner in owners - alive:
            with self.ledger.begin("release lost") as tx:
                lost = claims.release_lost(tx, owner)
                deliveries.release_lost(tx, owner)
                commitments.release_lost(tx, owner)
            log().error("worker lost", worker=owner, jobs=len(lost))
        for each in present(self.settings.run, "worker-"):
            if not each.alive:
                forget(self.settings.run, each.name)
        self._clear_places()
        now = self.ledger.now()
        with self.ledger.read() as tx:
            to_send = deliveries.runnable(tx, now) + commitments.runnable(tx, now) + notifications.runnable(tx, now)
            to_send += notices.runnable(tx, now)
            runnable = {**claims.runnable(tx), "deliver": to_send}
        self.topping_up.submit("tickets", lambda: self._top_up(runnable))

    def _top_up(self, runnable: Mapping[str, int]) -> None:
        """Beside the loop: a server that hangs holds nothing else up."""
        missing = self.tickets.top_up(runnable)
        if self.tickets.fault:
            self._every("broker unavailable", _BROKER_SAID_EVERY, self._say_fault)
        for queue in brokers.QUEUES:
            metrics.tickets_missing.labels(queue).set(missing.get(queue, 0))

    def _say_fault(self) -> None:
        remedy = "look at Redis/Valkey and REDIS_URL; nothing is lost, and all goes on when it takes tickets again"
        log().warning("broker unavailable", error=self.tickets.fault, remedy=remedy)

    def _start_notices(self) -> None:
        """The time begins that new jobs have for a result."""
        with self.ledger.read() as tx:
            news = notices.any_new(tx)
        if news:
            with self.ledger.begin("start notices") as tx:
                notices.start(tx, self.ledger.now())

    def _clear_places(self) -> None:
        """Removes what dead workers left in the work folder, also of jobs that had ended just before."""
        places = self.spool.places()  # before the look at who lives: who has a place by now lives, or has died
        alive = {each.name for each in present(self.settings.run, "worker-") if each.alive}
        for place, worker in places.items():
            if worker not in alive:
                shutil.rmtree(place, ignore_errors=True)

    def _gauges(self) -> None:
        gauges.show(self.settings, self.ledger, self.catalog, self.routing_file.routing.destinations)

    def _readiness(self) -> dict[str, str]:
        alive = {each.name.split("-")[0] for each in present(self.settings.run, "") if each.alive}
        faults = {part: "" if part in alive else f"no {part} runs" for part in ("receiver", "worker")}
        faults["broker"] = brokers.reachable(self.broker) or self.tickets.fault
        try:
            with self.ledger.read() as tx:
                ping(tx)
        except Unavailable as error:
            faults["ledger"] = str(error.orig)
        return faults
