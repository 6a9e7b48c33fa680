"""From "nothing came for a while" to matches: completes series and studies, and holds the rules against them."""

from __future__ import annotations

from collections.abc import Sequence

from radnode import metrics
from radnode.dicom.rejection import REASONS
from radnode.domain.assembly import Assessment, Situation, Times, Verdict, assemble, judge
from radnode.domain.routing import Catalog, Evaluation, Routing, evaluate_series, evaluate_study
from radnode.domain.study import Study
from radnode.domain.study_assembly import StudySituation, assemble_study, judge_study
from radnode.run.broker import Tickets
from radnode.run.filing import OF_SERIES, OF_STUDY, Filed, Filing
from radnode.run.making import Making, Match
from radnode.run.named_inputs import NamedInputs, match_of
from radnode.run.reload import addresses_of
from radnode.settings import Settings
from radnode.state import assembling, intake, rejections
from radnode.state.ledger import Ledger, Record, Transaction, Unavailable, note
from radnode.telemetry import log

_FAULT_PAUSE = 60.0


class Completion:
    """Judges what has gone quiet. A rule with times of its own fires when those have passed."""

    def __init__(self, settings: Settings, ledger: Ledger, catalog: Catalog, tickets: Tickets) -> None:
        self._ledger, self._tickets = ledger, tickets
        self._filing = Filing(settings, ledger)
        self._making = Making(settings, catalog)
        self._inputs = NamedInputs(ledger, self._filing, self._making)
        self._later: dict[tuple[str, int], tuple[int, float]] = {}

    def postponed(self, now: float) -> dict[str, dict[int, int]]:
        """Series and studies that wait for a longer quiet time: by their id, with what they had received then."""
        found: dict[str, dict[int, int]] = {"series": {}, "study": {}}
        for (kind, row_id), (changes, until) in list(self._later.items()):
            if now < until:
                found[kind][row_id] = changes
        return found

    def judge_series(self, row: Record, routing: Routing, now: Situation) -> Assessment | None:
        """Judges a series, by all that is known around it. One that cannot be judged is tried again later (None), and
        holds up no other. Raises what the ledger raises when it does not answer."""
        try:
            return self._series(row, routing, now)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - whatever strangers' data brings about: it is this series' fault alone
            self._try_again("series", row)
            return None

    def judge_study(self, row: Record, routing: Routing, now: StudySituation) -> Assessment | None:
        """Judges a study all of whose series are complete, as `judge_series` does."""
        try:
            return self._study(row, routing, now)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001
            self._try_again("study", row)
            return None

    def wake(self, kind: str, row_id: int) -> None:
        """Something new is known around a series or a study: it need not wait for what it waits for."""
        self._later.pop((kind, row_id), None)

    def _try_again(self, kind: str, row: Record) -> None:
        log().exception("cannot be judged", kind=kind, row=row.id, again_in=_FAULT_PAUSE)
        self._later[kind, row.id] = (row.changes, self._ledger.now() + _FAULT_PAUSE)

    def _series(self, row: Record, routing: Routing, situation: Situation) -> Assessment:
        """Holds the series-level rules against a series, makes the jobs of those whose time has come, completes it."""
        filed = self._filing.file(row, routing)
        if filed is None:
            with self._ledger.begin("complete empty series") as tx:
                nothing = {"generation": row.generation, "instance_ids": (), "instances": 0, "headers": row.headers}
                intake.complete_series(tx, row, **nothing)
            return Assessment(Verdict.PRESUMED, True, "nothing is left of it")
        evaluations = evaluate_series(routing, filed.series, filed.context)
        matched = [each for each in evaluations if each.matched]
        times, assessed = _assess(row, routing, matched, filed, situation)
        whole = _least(assessed)
        early = self._inputs.early(filed, routing) if whole.done else []
        rejected, now = self._filing.rejections(filed) if whole.done else [], self._ledger.now()
        made: list[str] = []
        with self._ledger.begin("complete series") as tx:
            if whole.done:
                if not self._complete_series(tx, filed, evaluations, whole):
                    return whole
            elif whole.missing:
                assembling.found_missing(tx, row, whole.missing, whole.evidence)
            for each, verdict in zip(matched, assessed, strict=False):
                if verdict.done:
                    match = Match(each.rule, routing, row.study_id, row.id, (filed,), (filed.uid,))
                    made += self._making.make(tx, match)
            for match in early:
                made += self._inputs.make(tx, match)
            for row_of_note, said in rejected:
                rejections.reject(tx, row_of_note, row.study_id, said.code, REASONS[said.code], said.uids, now)
        self._after("series", row, times, assessed, made)
        if whole.done:
            metrics.series_completed.inc()
            metrics.series_verdicts.labels(whole.verdict.value).inc()
            metrics.series_unmatched.inc(not matched)
        return whole

    def _study(self, row: Record, routing: Routing, situation: StudySituation) -> Assessment:
        """Holds the study-level rules against a study, makes the jobs of those whose time has come, completes it."""
        filed = self._filing.file_study(row.id, routing)
        evaluations: tuple[Evaluation, ...] = ()
        if filed:
            study = Study(tuple(each.series for each in filed.values()))
            evaluations = evaluate_study(routing, study, {uid: each.context for uid, each in filed.items()})
        concerned = [each for each in evaluations if each.matched or each.missing]
        times = [each.study_times for each in [one.rule.complete for one in concerned] or [routing.complete]]
        given_up = sum(each.row.missing for each in filed.values())
        here = assemble_study([each.series for each in filed.values()], given_up)
        assessed = [judge_study(here, situation, each) for each in times]
        whole = _least(assessed)
        made: list[str] = []
        now = self._ledger.now()
        with self._ledger.begin("complete study") as tx:
            if whole.done:
                if not intake.complete_study(tx, row, whole.missing):
                    return whole
                note(
                    tx,
                    "study complete",
                    study_id=row.id,
                    series=len(filed),
                    verdict=whole.verdict.value,
                    evidence=whole.evidence,
                    missing=whole.missing,
                    rules=[each.for_timeline() for each in evaluations],
                )
                self._inputs.study_complete(tx, row, evaluations, now)
            elif whole.missing:
                assembling.study_found_missing(tx, row, whole.missing, whole.evidence)
            for each, verdict in zip(concerned, assessed, strict=False):
                if verdict.done and each.matched:
                    made += self._inputs.make(tx, match_of(each, filed, routing, row.id))
        self._after("study", row, times, assessed, made)
        if whole.done:
            metrics.studies_completed.inc()
            metrics.study_verdicts.labels(whole.verdict.value).inc()
            log().info("study complete", study=row.id, series=len(filed), jobs=len(made))
        return whole

    def end_waits(self, routing: Routing) -> None:
        """Goes on with the rules that have waited long enough for an input."""
        for queue in self._inputs.end_waits(routing):
            self._tickets.send(queue)

    def _after(
        self, kind: str, row: Record, times: Sequence[Times], assessed: Sequence[Assessment], queues: Sequence[str]
    ) -> None:
        """Remembers until when those wait that are not done, and sends tickets to what was made."""
        waits = [
            each.give_up if verdict.missing else each.quiet
            for each, verdict in zip(times, assessed, strict=True)
            if not verdict.done
        ]
        if waits:
            self._later[kind, row.id] = (row.changes, row.seen + min(waits))
        else:
            self._later.pop((kind, row.id), None)
        for queue in queues:
            self._tickets.send(queue)

    def _complete_series(
        self, tx: Transaction, filed: Filed, evaluations: Sequence[Evaluation], whole: Assessment
    ) -> bool:
        row, series = filed.row, filed.series
        new = [each.id for each in filed.instances if each.generation == 0]
        generation = row.generation + bool(new)
        headers = {keyword: series.first.text(keyword) for keyword in OF_SERIES}
        instances = len(filed.instances)
        counted = {"generation": generation, "instance_ids": new, "instances": instances, "missing": whole.missing}
        if not intake.complete_series(tx, row, **counted, headers=headers, kept=filed.kept):
            return False
        study = {keyword: series.first.text(keyword) for keyword in OF_STUDY}
        intake.describe_study(tx, row.study_id, study["AccessionNumber"], study["PatientID"], study)
        note(
            tx,
            "complete",
            study_id=row.study_id,
            series_id=row.id,
            instances=instances,
            new=len(new),
            generation=generation,
            verdict=whole.verdict.value,
            evidence=whole.evidence,
            missing=whole.missing,
            rules=[each.for_timeline() for each in evaluations],
        )
        return True


def _assess(
    row: Record, routing: Routing, matched: Sequence[Evaluation], filed: Filed, situation: Situation
) -> tuple[list[Times], list[Assessment]]:
    """By the times of each rule that matches, or of the file where none does: what is to be thought of the series."""
    sender = routing.senders.complete_of(row.calling_aet, row.peer, addresses_of)
    completes = [each.rule.complete for each in matched] or [routing.complete]
    times, here = [each.of_sender(sender).times for each in completes], assemble(filed.series)
    return times, [judge(here, situation, each) for each in times]


def _least(assessed: Sequence[Assessment]) -> Assessment:
    """What is to be thought of it as a whole, where rules with times of their own are not of one mind."""
    return min(assessed, key=lambda each: (each.done, list(Verdict).index(each.verdict)))
