"""From a match to jobs: what a rule asks for becomes rows in the ledger, which never reread `routing.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from radnode import metrics
from radnode.domain.jobs import PRIORITIES, JobInput, JobState, job_id
from radnode.domain.routing import Catalog, Rule, open_at
from radnode.run.filing import Filed
from radnode.settings import Settings
from radnode.state import jobs
from radnode.state.ledger import Ledger, Transaction

FORWARD = "original"


@dataclass(frozen=True)
class Match:
    """A rule, and the series it takes.

    Attributes:
        names: the app's names for the series, in the same order.
        held: why its job does not run until a person says so.
    """

    rule: Rule
    routing_version: str
    study_id: int
    series_id: int | None
    chosen: tuple[Filed, ...]
    names: tuple[str, ...]
    held: str = ""

    def hold(self, why: str) -> Match:
        return replace(self, held=why)


class Making:
    """Makes the jobs of a match, or finds that their work is done already."""

    def __init__(self, settings: Settings, ledger: Ledger, catalog: Catalog) -> None:
        self._settings, self._ledger, self._catalog = settings, ledger, catalog

    def make(self, tx: Transaction, match: Match) -> list[str]:
        """The match's jobs; returns the queues to send a ticket to."""
        rule = match.rule
        metrics.rules_matched.labels(rule.name).inc()
        if rule.app is not None:
            state = JobState.HELD if match.held else JobState.WAITING
            jobs.create(tx, self._frozen(match, rule.send_to), state=state.value, error=match.held)
            return [] if match.held else [self._catalog.queue(rule.app)]
        for send_to, chosen in _not_sent_yet(tx, match):
            _forward(tx, self._frozen(replace(match, chosen=chosen), send_to), chosen)
        return ["deliver"]

    def _frozen(self, match: Match, send_to: tuple[str, ...]) -> jobs.NewJob:
        rule, inputs = match.rule, [_input(*each) for each in zip(match.chosen, match.names, strict=False)]
        return jobs.NewJob(
            id=job_id(rule.app or "", rule.app_version, rule.options, inputs),
            study_id=match.study_id,
            series_id=match.series_id,
            rule=rule.name,
            routing_version=match.routing_version,
            app=rule.app or "",
            app_version=rule.app_version,
            level=rule.level,
            options=dict(rule.options),
            send_to=send_to,
            queue="deliver" if rule.app is None else self._catalog.queue(rule.app),
            priority=PRIORITIES[rule.priority],
            last_image_at=max(each.row.last_received_at for each in match.chosen),
            inputs={
                one.name: [row.id for row in each.instances] for one, each in zip(inputs, match.chosen, strict=True)
            },
            label=rule.series,
            expire=rule.expire,
            not_before=self._not_before(rule),
        )

    def _not_before(self, rule: Rule) -> float:
        """On the ledger's clock, when the rule's hours begin; 0 where it is open now."""
        local = datetime.now(self._settings.zone)
        if open_at(rule.run_between, local.time()) or rule.run_between is None:
            return 0.0
        start = rule.run_between.start
        opening = local.replace(hour=start.hour, minute=start.minute, second=0, microsecond=0)
        if opening < local:
            opening += timedelta(days=1)
        return self._ledger.now() + (opening - local).total_seconds()


def _not_sent_yet(tx: Transaction, match: Match) -> Iterator[tuple[tuple[str, ...], tuple[Filed, ...]]]:
    """What a forwarding rule still has to send: destinations, and the instances that are new to them."""
    sent = jobs.forwarded(tx, match.study_id)
    news: dict[frozenset[int], list[str]] = {}
    everything = {row.id for each in match.chosen for row in each.instances}
    for name in match.rule.send_to:
        news.setdefault(frozenset(everything - sent.get(name, set())), []).append(name)
    for ids, names in news.items():
        rest = (replace(each, instances=tuple(row for row in each.instances if row.id in ids)) for each in match.chosen)
        if ids:
            yield tuple(names), tuple(each for each in rest if each.instances)


def _forward(tx: Transaction, new: jobs.NewJob, chosen: Sequence[Filed]) -> None:
    """A rule without an app: the originals are the results, and are sent as they came."""
    if not jobs.create(tx, new, state=JobState.DONE.value):
        return
    rows = [
        jobs.ResultRow(
            each.sop_instance_uid, each.sop_class_uid, each.transfer_syntax_uid, FORWARD, each.path, each.size
        )
        for filed in chosen
        for each in filed.instances
    ]
    jobs.add_results(tx, new.id, rows)
    jobs.make_deliveries(tx, jobs.get(tx, new.id))


def _input(filed: Filed, name: str) -> JobInput:
    uids = tuple(row.sop_instance_uid for row in filed.instances)
    return JobInput(name, filed.uid, uids, tuple(row.path for row in filed.instances))
