"""From a match to jobs: what a rule asks for becomes rows in the ledger, which never reread `routing.yaml`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from radnode import metrics
from radnode.domain.generations import LATE_IMAGES, Asked, Step, next_step
from radnode.domain.jobs import PRIORITIES, JobInput, JobState, SeriesLabel, job_id, successor_id
from radnode.domain.routing import Catalog, Routing, Rule, takes
from radnode.run.filing import Filed
from radnode.settings import Settings
from radnode.state import generations, intake, jobs, notices, notifications, purges
from radnode.state.ledger import Record, Transaction, note

SEVERAL_PATIENTS = "its images name several patients -> correct that in the PACS, and push the study again"
_NOT_YET = (JobState.HELD, JobState.CANCELLED)
"""A job in one of these takes nobody's place: a person has not let it, or has stopped it."""


@dataclass(frozen=True)
class Match:
    """A rule, and the series it takes.

    Attributes:
        routing: the one in force.
        names: the app's names for the series, in the same order.
        held: why its job does not run until a person says so.
    """

    rule: Rule
    routing: Routing
    study_id: int
    series_id: int | None
    chosen: tuple[Filed, ...]
    names: tuple[str, ...]
    held: str = ""

    def hold(self, why: str) -> Match:
        return replace(self, held=why)

    def note(self, tx: Transaction, kind: str, **data: Any) -> None:
        """Writes an event of the rule on this series or study."""
        note(tx, kind, study_id=self.study_id, series_id=self.series_id, rule=self.rule.name, **data)


class Making:
    """Makes the jobs of a match, or finds that their work is done already."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings, self._catalog = settings, catalog

    def make(self, tx: Transaction, match: Match) -> list[str]:
        """The match's jobs; returns the queues to send a ticket to."""
        rule = match.rule
        if held := intake.study_of(tx, match.study_id).held:
            match.note(tx, "held", why=held)
            return []
        metrics.rules_matched.labels(rule.name).inc()
        if rule.app is not None:
            return self._run(tx, match)
        for send_to, chosen in _not_sent_yet(tx, match):
            part = replace(match, chosen=chosen, names=tuple(each.uid for each in chosen))
            _forward(tx, self._frozen(part, send_to), chosen)
        return ["deliver"]

    def _run(self, tx: Transaction, match: Match) -> list[str]:
        """A job of the rule's app, unless one does this work already; it takes the place of those before it."""
        former = _former(tx, match)
        match = _inputs(tx, match, former)
        if not match.chosen:
            match.note(tx, "no images to run on")
            return []
        if gone := purges.lacking(tx, match.study_id, match.series_id):
            match.note(tx, "images were purged", missing=gone, remedy="push the whole study again")
            return []
        match = _of_one_patient(match)
        new = replace(self._frozen(match, match.rule.send_to), label=_label(tx, match))
        twin = generations.same_work(tx, new)
        if twin is not None and twin.purged:
            twin = purges.revive(tx, twin, new.inputs, () if new.shadow else new.send_to)
        if twin is not None:
            new, state = replace(new, id=twin.id), JobState(twin.state)
            jobs.join(tx, new)
        else:
            step = Step.RUN
            proper = [each for each in former if each.error != SEVERAL_PATIENTS]
            if proper:
                step, new = _following(tx, match, proper[0], new)
            if match.held:
                step = Step.HOLD
            if step is Step.LEAVE:
                match.note(tx, "nothing to do again", job_id=proper[0].id, why=new.why)
                return []
            state = JobState.HELD if step is Step.HOLD else JobState.WAITING
            jobs.create(tx, new, state=state.value, error=match.held or new.why if step is Step.HOLD else "")
            if new.why == LATE_IMAGES:
                done = "the new job is held" if step is Step.HOLD else "the app runs again"
                notifications.because(tx, new.id, "late", "", done)
        if match.rule.notice is not None and not match.rule.shadow:
            notices.expect(tx, new.id, match.rule.notice)
        for old in former:
            if old.id != new.id and (state not in _NOT_YET or old.state == JobState.HELD.value):
                generations.supersede(tx, old, match.rule.name, new.id)
        return [] if state is JobState.HELD else [new.queue]

    def _frozen(self, match: Match, send_to: tuple[str, ...]) -> jobs.NewJob:
        rule, inputs = match.rule, [_input(*each) for each in zip(match.chosen, match.names, strict=True)]
        copies = [each for filed in match.chosen for each in filed.copies.values()]
        corrected = sum(each.content for each in copies), sum(each.identity for each in copies)
        work = job_id(rule.app or "", rule.app_version, rule.options, inputs, revision=corrected[0])
        return jobs.NewJob(
            id=job_id(
                rule.app or "", rule.app_version, rule.options, inputs, revision=corrected[0], identity=corrected[1]
            ),
            work=work,
            revision=corrected[0],
            identity=corrected[1],
            study_id=match.study_id,
            series_id=match.series_id,
            rule=rule.name,
            routing_version=match.routing.version,
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
            notify=rule.notify,
            run_between=f"{rule.run_between} {self._settings.tz}".strip() if rule.run_between else "",
            mail_to=rule.mail_to,
            shadow=rule.shadow,
        )


def _not_sent_yet(tx: Transaction, match: Match) -> Iterator[tuple[tuple[str, ...], tuple[Filed, ...]]]:
    """What a forwarding rule still has to send: destinations, and the instances that are new to them."""
    sent = jobs.forwarded(tx, match.study_id)
    news: dict[frozenset[int], list[str]] = {}
    everything = {copies.original.id for each in match.chosen for copies in each.copies.values()}
    for name in match.rule.send_to:
        news.setdefault(frozenset(everything - sent.get(name, set())), []).append(name)
    for ids, names in news.items():
        rest = (_as_forwarded(each, ids) for each in match.chosen)
        if ids:
            yield tuple(names), tuple(each for each in rest if each.copies)


def _as_forwarded(filed: Filed, ids: Collection[int]) -> Filed:
    """Only the instances whose originals these are, as they came first."""
    wanted = {uid: each for uid, each in filed.copies.items() if each.original.id in ids}
    return replace(filed, copies={uid: replace(each, newest=each.original) for uid, each in wanted.items()})


def _forward(tx: Transaction, new: jobs.NewJob, chosen: Sequence[Filed]) -> None:
    """A rule without an app: the originals are the results, and are sent as they came."""
    rows = [
        jobs.ResultRow(
            each.sop_instance_uid, each.sop_class_uid, each.transfer_syntax_uid, jobs.FORWARD, each.path, each.size
        )
        for filed in chosen
        for each in filed.instances
    ]
    purges.refill(tx, new.id, rows)
    if not jobs.create(tx, new, state=JobState.DONE.value):
        return
    jobs.add_results(tx, new.id, rows)
    jobs.make_deliveries(tx, jobs.get(tx, new.id))


def _former(tx: Transaction, match: Match) -> Sequence[Record]:
    """The jobs before, of the rule or, where it was renamed, of its former self: a trial takes nothing over."""
    place, rule = (match.study_id, match.series_id, match.rule.name), match.rule
    found = generations.standing(tx, *place)
    if found or not rule.app or rule.shadow:
        return found
    taken = generations.take_over(tx, *place, rule.app, {each.name for each in match.routing.rules})
    return generations.standing(tx, *place) if taken else found


def _inputs(tx: Transaction, match: Match, former: Sequence[Record]) -> Match:
    """The match with what its app is to see: no late images where the rule ignores them."""
    rule, pairs = match.rule, list(zip(match.chosen, match.names, strict=True))
    if rule.level == "study" and not rule.inputs:
        pairs = [(filed, name) for filed, name in pairs if takes(rule, filed.series)]
    if rule.late == "ignore" and former and not former[0].flag:
        known = generations.inputs_of(tx, former[0].id)
        late = _images([filed for filed, _ in pairs]) - known
        if late:
            match.note(tx, "late images ignored", images=len(late))
            notifications.because(tx, former[0].id, "late", str(len(late)), "they are ignored")
        pairs = [(filed.only(known), name) for filed, name in pairs if known & filed.copies.keys()]
    return replace(match, chosen=tuple(filed for filed, _ in pairs), names=tuple(name for _, name in pairs))


def _of_one_patient(match: Match) -> Match:
    """The match, held where its images name several patients: what an app makes of them has one name on it."""
    named = {values for filed in match.chosen for values in filed.series.distinct("PatientID") if any(values)}
    return match.hold(SEVERAL_PATIENTS) if len(named) > 1 else match


def _label(tx: Transaction, match: Match) -> SeriesLabel:
    """With what is missing of the series it takes; where the rule names no inputs, of its whole study."""
    whole_study = match.rule.level == "study" and not match.rule.inputs
    lacking = intake.missing(tx, [each.row.id for each in match.chosen], match.study_id if whole_study else None)
    return replace(match.rule.series, missing=lacking)


def _following(tx: Transaction, match: Match, last: Record, new: jobs.NewJob) -> tuple[Step, jobs.NewJob]:
    """What to do after the last job, and the new one as its successor."""
    results = jobs.kept_results(tx, last.id)
    before = Asked(
        frozenset(generations.inputs_of(tx, last.id)),
        last.work,
        (last.app_version, last.options),
        # what was made of rejected images, and what is purged, is no result to go on from
        None if last.flag or last.purged else JobState(last.state),
        bool(results),
    )
    now = Asked(frozenset(_images(match.chosen)), new.work, (new.app_version, new.options))
    step, why = next_step(before, now, match.rule.late)
    return step, replace(
        new,
        id=successor_id(new.work, new.identity, last.id),
        predecessor=last.id,
        supersedes=generations.seen(tx, last),
        reissues=last.id if step is Step.REISSUE else "",
        why=why,
    )


def _images(chosen: Collection[Filed]) -> set[str]:
    return {uid for each in chosen for uid in each.copies}


def _input(filed: Filed, name: str) -> JobInput:
    uids = tuple(row.sop_instance_uid for row in filed.instances)
    return JobInput(name, filed.uid, uids, tuple(row.path for row in filed.instances))
