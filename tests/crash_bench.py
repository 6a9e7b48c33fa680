"""Parts of a node as warm forks, which die at crash labels in a fraction of the time that a whole node takes.

Each is the real part on a ledger and a spool of its own, without Valkey: tickets are lost, harmlessly. A worker tries
once all that there is to send; `Bench.goes_on` then does what core does for one that died, and lets its leases run out.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

from sqlalchemy import update

from radnode.domain.routing import Destination
from radnode.run.fetching import Wanted
from radnode.state import deliveries, notifications, schema
from radnode.testing.sink import SinkPacs
from tests.crash_parts import Part, core, fetch, receive, work
from tests.crashes import Armed
from tests.databases import PROCESSES, rows
from tests.peers import Orthanc, free_port, listens, until
from tests.sending import Desk
from tests.test_mail import server


class Town:
    """What is around the node: a real PACS, a real mail server, and a sink that counts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, ExitStack()

    def __enter__(self) -> Self:
        self.pacs = self._stack.enter_context(Orthanc(self._folder / "pacs", settings={"OverwriteInstances": True}))
        self.sink = self._stack.enter_context(SinkPacs(self._folder / "sink"))
        self.smtp_port = free_port()
        self.box = self._stack.enter_context(server(self.smtp_port))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def arrivals(self) -> dict[str, int]:
        """Orthanc's own name of an instance -> how often it has come."""
        changes = self.pacs.changes("NewInstance")
        return {each: changes.count(each) for each in changes}


class Bench(Armed):
    """A node's home, and the parts that work on it."""

    def __init__(self, folder: Path, town: Town) -> None:
        super().__init__(folder / "crash")
        self.folder, self.town, self.port = folder, town, free_port()
        self._log = folder / "parts.log"
        self.desk = Desk(folder / "home")
        self.routing = folder / "routing.yaml"
        self.env = {
            "RADNODE_HOME": str(self.desk.settings.home),
            "RADNODE_ROUTING": str(self.routing),
            "RADNODE_HTTP_PORT": "0",
            "RADNODE_CRASH_AT": str(self.crash_at),
            "RADNODE_SMTP_HOST": "localhost",
            "RADNODE_SMTP_PORT": str(town.smtp_port),
            "RADNODE_SMTP_TLS": "none",
            "RADNODE_SMTP_FROM": "radnode@hospital.org",
            "REDIS_URL": "redis://127.0.0.1:1",
        }
        self._parts: dict[tuple[Any, ...], BaseProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._parts.values():
            each.terminate()
            each.join()
        self.desk.close()

    def output(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def to_pacs(self, **more: Any) -> None:
        """The PACS is the only destination, and knows the node."""
        self.desk.route(Destination("pacs", self.town.pacs.aet, "127.0.0.1", self.town.pacs.port, **more))
        self.town.pacs.knows("radnode", "RADNODE", self.port)

    def to_sink(self, **more: Any) -> None:
        self.desk.route(Destination("pacs", self.town.sink.aet, "127.0.0.1", self.town.sink.port, **more))

    def receives(self) -> None:
        """A receiver is there from now on."""
        self._stays(receive, self.port)
        until(lambda: listens(self.port), "the receiver listens")

    @contextmanager
    def judging(self) -> Iterator[None]:
        """A core is there for a while."""
        judge = self._fork(core)
        yield
        judge.terminate()
        judge.join()

    def fetches(self, destination: Destination, want: Wanted) -> int | None:
        """The exit code."""
        fetcher = self._fork(fetch, destination, want)
        fetcher.join(60)
        return fetcher.exitcode

    def goes_on(self) -> None:
        """Core finds the worker dead, time passes, and another worker tries what there is to send."""
        for part in list(self._parts):
            self._stays(*part)
        with self.desk.ledger.begin() as tx:
            for each in rows(self.desk.ledger, schema.delivery):
                deliveries.release_lost(tx, each.owner)
            deliveries.wake_all(tx)
            notifications.wake_all(tx)
            tx.execute(update(schema.notice).values(until=0.0))
        worker = self._fork(work)
        worker.join(60)
        assert worker.exitcode in (0, -signal.SIGKILL), self.output()

    def settle(self, there: Callable[[], Any], what: str) -> None:
        """Goes on until it is so."""

        def so() -> Any:
            self.goes_on()
            return there()

        until(so, what)

    def _stays(self, *part: Any) -> None:
        """Starts it where it is not there, or has died."""
        if part not in self._parts or not self._parts[part].is_alive():
            self._parts[part] = self._fork(*part)

    def _fork(self, part: Part, *more: Any) -> BaseProcess:
        process = PROCESSES.Process(target=part, args=(self.env, self._log, *more), daemon=True)
        process.start()
        return process
