"""The receivers: one process binds the DICOM port, each receiver inherits it: one that dies loses no caller."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from radnode import metrics, settings
from radnode.dicom.acceptor import Stages
from radnode.domain.errors import SettingsError
from radnode.domain.routing import Senders
from radnode.run import live, receiver
from radnode.run.commitment import Promises
from radnode.run.lifeline import HangUp, StopSignal
from radnode.run.live import tls_of
from radnode.run.reload import addresses_of, senders_of
from radnode.run.supervisor import Part, Supervisor
from radnode.settings import Settings
from radnode.state import intake
from radnode.state.ledger import Ledger, Unavailable, boot_time
from radnode.state.presence import is_alive, present
from radnode.telemetry import log

_BACKLOG = 256
_LETTING_GO = 15.0
_SENDERS_EVERY = 1.0
_MOST_CALLERS = 100  # AE titles that get a label of their own; hostile ones cannot make metrics grow


def run(node: Settings, stop: StopSignal) -> int:
    """Binds the ports and keeps `RADNODE_RECEIVERS` receivers alive on them. Raises SettingsError where one is taken.

    On SIGHUP what may change while they run is read again.
    """
    tls_of(node)
    if not is_alive(node.run, "supervisor"):  # of a whole node: it reads the settings again itself
        live.begin(node)
    ports = [port for port in (node.port, node.tls_port) if port]
    if not ports:
        raise SettingsError("there is no DICOM port", remedy="set RADNODE_PORT or RADNODE_TLS_PORT")
    with ExitStack() as stack:
        listeners = {port: stack.enter_context(_listen(node, port)) for port in ports}
        supervisor = _receivers(node, [listeners[port].fileno() if port else -1 for port in (node.port, node.tls_port)])
        hung_up = HangUp()
        code = supervisor.watch(stop, lambda: hung_up.then(lambda: live.reload(node)))
    for part in supervisor.parts:  # all at once: each of them takes its time
        if part.process is not None:
            part.process.send_signal(signal.SIGTERM)
    supervisor.stop()
    return code


def _receivers(node: Settings, fds: list[int]) -> Supervisor:
    supervisor = Supervisor()
    env = settings.inherited() | settings.environment(node)
    for number in range(node.receivers):
        command = [sys.executable, "-m", "radnode.run.receiving_child", str(number), *map(str, fds)]
        supervisor.add(Part(f"receiver-{number}", command, env, [fd for fd in fds if fd >= 0]))
    return supervisor


def _listen(node: Settings, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in node.host else socket.AF_INET
    deadline = time.monotonic() + _LETTING_GO
    while True:
        try:
            return socket.create_server((node.host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _receivers_left(node) and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise SettingsError(
                f"the DICOM port {node.host}:{port} cannot be opened: {os.strerror(error.errno or 0)}",
                remedy="stop what listens there, or set RADNODE_PORT or RADNODE_TLS_PORT (and RADNODE_HOST); "
                "ports below 1024 need privileges",
            ) from None


def _receivers_left(node: Settings) -> bool:
    """Receivers whose parent was killed: they are about to let go of the port."""
    return any(each.alive for each in present(node.run, "receiver-"))


class AllowedSenders:
    """Who may push, by the routing in force; looked up again every second."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._senders = Senders()
        self._looked = -_SENDERS_EVERY
        self._lock = threading.Lock()

    def __call__(self, calling_aet: str, peer: str) -> bool:
        with self._lock:
            if time.monotonic() - self._looked >= _SENDERS_EVERY:
                self._look()
            senders = self._senders
        here = peer if _is_this_machine(peer) else ""
        return senders.allows(calling_aet, peer, resolve=addresses_of, local_ip=here)

    def _look(self) -> None:
        """A ledger that does not answer leaves the senders as they were."""
        self._looked = time.monotonic()
        try:
            with self._ledger.read() as tx:
                routing = intake.routing_in_force(tx)
        except Unavailable:
            return
        if routing is not None:
            self._senders = senders_of(routing.peers)


def _is_this_machine(address: str) -> bool:
    """Only an address of this machine can be bound: a sender here that names the node by its LAN address is local."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


class _Prometheus:
    """The receiver's events as metrics. Children are looked up once: a look-up costs as much as a count."""

    def __init__(self) -> None:
        self._callers: dict[str, tuple[Any, Any]] = {}
        self._stages = [metrics.store_seconds.labels(stage) for stage in Stages._fields]

    def received(self, size: int, stages: Stages, sop_class: str, calling_aet: str) -> None:
        del sop_class
        instances, received_bytes = self._callers.get(calling_aet) or self._caller(calling_aet)
        instances.inc()
        received_bytes.inc(size)
        for stage, seconds in zip(self._stages, stages, strict=True):
            stage.observe(seconds)

    def _caller(self, calling_aet: str) -> tuple[Any, Any]:
        if len(self._callers) >= _MOST_CALLERS:
            calling_aet = "other"
        found = metrics.instances_received.labels(calling_aet), metrics.received_bytes.labels(calling_aet)
        return self._callers.setdefault(calling_aet, found)

    def flawed(self) -> None:
        metrics.instances_flawed.inc()

    def association(self, event: str, reason: str) -> None:
        metrics.associations.labels(event, reason).inc()

    def open(self, delta: int) -> None:
        metrics.associations_open.inc(delta)


def receive(node: Settings, number: int, listener: socket.socket | None, tls_listener: socket.socket | None) -> None:
    """One receiver, to its end."""
    ledger = Ledger(node.home, node.database_url)
    ledger.ready(wait=60)

    def record(arrivals: Any, ends: Any) -> None:
        offset = ledger.now() - boot_time()
        with ledger.begin("record arrivals") as tx:
            intake.record(tx, arrivals, ends, clock_offset=offset)
        for (flaw, aet), instances in Counter((each.flaw, each.calling_aet) for each in arrivals if each.flaw).items():
            log().warning("instances of no study", instances=instances, flaw=flaw, calling_aet=aet,
                          remedy="`radnode studies --unfiled` lists them")  # fmt: skip

    receiver.serve(
        node,
        listener,
        number,
        record,
        allowed=AllowedSenders(ledger),
        metrics=_Prometheus(),
        tls_listener=tls_listener,
        promises=lambda name: Promises(ledger, node.spool, name),
    )
