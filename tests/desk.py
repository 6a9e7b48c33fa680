"""Core's desk without core: files reach a real spool and ledger, are judged at once, and jobs end as a test says."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from radnode import settings as settings_module
from radnode.dicom.headers import summarize
from radnode.domain.assembly import Situation
from radnode.domain.routing import Routing, parse_routing
from radnode.domain.study_assembly import StudySituation
from radnode.run import broker
from radnode.run.apps import find
from radnode.run.completion import Completion
from radnode.state import assembling, claims, deliveries, intake, jobs, schema
from radnode.state.arrivals import Arrival
from radnode.state.ledger import Ledger
from radnode.state.views import View, Views
from tests.databases import Database, result
from tests.peers import REPO

PLACES = "destinations: {a: {aet: A, host: h, port: 104}, b: {aet: B, host: h, port: 104}}\n"
TEST_APP = "{name: wiring, app: test, send_to: [a]}"
_results = count(1)


class Desk:
    """A home with a spool and a ledger, and the routing in force."""

    def __init__(self, database: Database) -> None:
        self.home = database.home
        given = {"RADNODE_HOME": str(self.home), "RADNODE_APPS": str(REPO / "apps"), "DATABASE_URL": database.url}
        self.settings = settings_module.load(given, self.home / "no.env")
        self.ledger: Ledger = database.open()
        self.ledger.migrate()
        self.catalog = find(self.settings.apps)
        tickets = broker.Tickets(broker.connect("redis://127.0.0.1:1"))  # nobody there: tickets are lost, harmlessly
        self.completion = Completion(self.settings, self.ledger, self.catalog, tickets)
        self._numbers = count(1)
        self.route(TEST_APP)

    def route(self, *rules: str) -> Routing:
        """Puts these rules in force."""
        text = f"{PLACES}rules: [{', '.join(rules)}]\n"
        self.routing = parse_routing(text, catalog=self.catalog)
        with self.ledger.begin() as tx:
            intake.remember_routing(tx, self.routing.version, text, {"destinations": {}, "senders": None})
        return self.routing

    def receive(self, files: Iterable[Path]) -> None:
        """Files arrive as a receiver would leave and report them."""
        with self.ledger.begin() as tx:
            intake.record(tx, [self._arrival(each) for each in files], [])

    def _arrival(self, file: Path) -> Arrival:
        path = Path("instances/20260101/10") / f"desk-{next(self._numbers):08d}.dcm"
        (self.settings.spool / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, self.settings.spool / path)
        said = summarize(self.settings.spool / path)
        return Arrival(
            str(path), said.sop_instance_uid, said.sop_class_uid, said.head.series_uid, said.head.study_uid,
            said.transfer_syntax_uid, file.stat().st_size, 1.7e9, 100.0, "PACS", "RADNODE", "p", "",
            flaw=said.head.flaw,
        )  # fmt: skip

    def judge(self) -> None:
        """All that is open has been quiet for long enough."""
        late = self.ledger.now() + 1e6
        with self.ledger.read() as tx:
            stirred = {row.id for row in assembling.stirred(tx, 0.0, late)}
            series = assembling.still_open(tx, stirred)
        for row in series:
            self.completion.judge_series(row, self.routing, Situation(late - row.seen))
        with self.ledger.read() as tx:
            studies = intake.quiet_studies(tx, late)
        for row in studies:
            self.completion.judge_study(row, self.routing, StudySituation(late - row.seen))

    def push(self, files: Iterable[Path]) -> None:
        self.receive(files)
        self.judge()

    def start(self) -> Row[Any]:
        """A worker takes the best job."""
        with self.ledger.begin() as tx:
            job = claims.claim(tx, "cpu", "worker-1")
        assert job is not None
        return job

    def end(self, job: Row[Any]) -> bool:
        """The job leaves one result, which no other job leaves."""
        with self.ledger.begin() as tx:
            return claims.finish(tx, job, [result(next(_results))])

    def run(self) -> Row[Any]:
        job = self.start()
        assert self.end(job)
        return job

    def deliver(self, stored: bool = True) -> Row[Any]:
        """The best delivery is taken by its destination, or stays in hand."""
        with self.ledger.begin() as tx:
            delivery = deliveries.claim(tx, "worker-2", self.ledger.now())
            assert delivery is not None
            if stored:
                pending = deliveries.pending(tx, delivery)
                deliveries.record_sent(tx, delivery, [(each.sop_instance_uid, 0, "", True) for each in pending])
                assert deliveries.delivered(tx, delivery)
        return delivery

    def jobs(self) -> list[Row[Any]]:
        with self.ledger.read() as tx:
            return list(tx.execute(select(schema.job).order_by(schema.job.c.created_at)).all())

    def states(self) -> list[str]:
        return [each.state for each in self.jobs()]

    def sent(self) -> list[tuple[str, str]]:
        """(destination, state) of every delivery, the oldest first."""
        column = schema.delivery.c
        with self.ledger.read() as tx:
            return [tuple(each) for each in tx.execute(select(column.destination, column.state).order_by(column.id))]

    def study(self) -> View:
        """The only study, as it is shown."""
        with self.ledger.read() as tx:
            (found,) = Views(tx, None).studies()
        return found

    def events(self, kind: str) -> list[View]:
        return [each for each in self.study()["timeline"] if each["event"] == kind]

    def inputs(self, job: Row[Any]) -> list[str]:
        """Paths that a job reads."""
        with self.ledger.read() as tx:
            return sorted(path for paths in jobs.inputs(tx, job.id).values() for path in paths)

    def retire(self) -> None:
        """Everything received came long ago."""
        with self.ledger.begin() as tx:
            tx.execute(update(schema.study).values(last_received_at=1.0))


@pytest.fixture
def desk(database: Database) -> Iterator[Desk]:
    made = Desk(database)
    yield made
    made.ledger.close()
