"""The receivers: one process binds the DICOM port, each receiver inherits it: one that dies loses no caller."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from typing import Any

from radnode import metrics, settings
from radnode.domain.errors import SettingsError
from radnode.domain.routing import Senders
from radnode.run import receiver
from radnode.run.lifeline import StopSignal
from radnode.run.reload import addresses_of, senders_of
from radnode.run.supervisor import Part, Supervisor
from radnode.settings import Settings
from radnode.state import intake
from radnode.state.ledger import Ledger, Unavailable, boot_time
from radnode.state.presence import present
from radnode.telemetry import set_up

_BACKLOG = 256
_LETTING_GO = 15.0
_SENDERS_EVERY = 1.0
_MOST_CALLERS = 100  # AE titles that get a label of their own; hostile ones cannot make metrics grow


def run(node: Settings, stop: StopSignal) -> int:
    """Binds the port and keeps `RADNODE_RECEIVERS` receivers alive on it. Raises SettingsError where it is taken."""
    with _listen(node) as listener:
        supervisor = Supervisor()
        env = settings.inherited() | settings.environment(node)
        for number in range(node.receivers):
            command = [sys.executable, "-m", "radnode.run.receiving", str(listener.fileno()), str(number)]
            supervisor.add(Part(f"receiver-{number}", command, env, (listener.fileno(),)))
        code = supervisor.watch(stop)
        listener.close()
        supervisor.stop()
        return code


def _listen(node: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in node.host else socket.AF_INET
    deadline = time.monotonic() + _LETTING_GO
    while True:
        try:
            return socket.create_server((node.host, node.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _receivers_left(node) and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise SettingsError(
                f"the DICOM port {node.host}:{node.port} cannot be opened: {os.strerror(error.errno or 0)}",
                remedy="stop what listens there, or set RADNODE_PORT (and RADNODE_HOST); "
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
    """The receiver's events as metrics."""

    def __init__(self) -> None:
        self._callers: set[str] = set()

    def received(self, size: int, seconds: float, sop_class: str, calling_aet: str) -> None:
        del sop_class
        caller = self._label(calling_aet)
        metrics.instances_received.labels(caller).inc()
        metrics.received_bytes.labels(caller).inc(size)
        metrics.store_seconds.observe(seconds)

    def _label(self, calling_aet: str) -> str:
        if calling_aet not in self._callers:
            if len(self._callers) >= _MOST_CALLERS:
                return "other"
            self._callers.add(calling_aet)
        return calling_aet

    def flawed(self) -> None:
        metrics.instances_flawed.inc()

    def association(self, event: str, reason: str) -> None:
        metrics.associations.labels(event, reason).inc()

    def open(self, delta: int) -> None:
        metrics.associations_open.inc(delta)


def receive(node: Settings, listener: socket.socket, number: int) -> None:
    """One receiver, to its end."""
    ledger = Ledger(node.home, node.database_url)
    ledger.ready(wait=60)

    def record(arrivals: Any, ends: Any) -> None:
        offset = ledger.now() - boot_time()
        with ledger.begin() as tx:
            intake.record(tx, arrivals, ends, clock_offset=offset)

    receiver.serve(node, listener, number, record, allowed=AllowedSenders(ledger), metrics=_Prometheus())


def main(fd: int, number: int) -> None:
    node = settings.load()
    set_up(node, "receiver")
    with socket.socket(fileno=fd) as listener:
        receive(node, listener, number)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
