"""Study rules with named inputs: jobs as soon as the last input is complete, waits for missing ones, and their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from radnode.domain.routing import Evaluation, Routing, evaluate_study
from radnode.domain.study import Study
from radnode.run.filing import Filed, Filing
from radnode.run.making import Making, Match
from radnode.state import intake, jobs, waits
from radnode.state.intake import RECEIVING
from radnode.state.ledger import Ledger, Record, Transaction, note
from radnode.telemetry import log


class NamedInputs:
    """What becomes of rules with inputs while their study comes in, and after."""

    def __init__(self, ledger: Ledger, filing: Filing, making: Making) -> None:
        self._ledger, self._filing, self._making = ledger, filing, making

    def early(self, latest: Filed, routing: Routing) -> list[Match]:
        """Matches that need not wait for the rest of the study, now that this series is complete.

        Every input is there, the optional ones too, and nothing that is still receiving fits one of them.
        """
        if not any(each.filled.fitting for each in self._evaluate(routing, {latest.uid: latest})):
            return []
        filed = self._filing.file_study(latest.row.study_id, routing)
        receiving = {uid for uid, each in filed.items() if each.row.state == RECEIVING and uid != latest.uid}
        return [
            match_of(each, filed, routing, latest.row.study_id)
            for each in self._evaluate(routing, filed)
            if each.whole and not each.filled.fitting & receiving
        ]

    def make(self, tx: Transaction, match: Match) -> list[str]:
        """The match's job; what waited for it, or was held because of it, is settled."""
        if match.rule.inputs and not match.held:
            waits.end(tx, match.study_id, match.rule.name)
            jobs.replace_held(tx, match.study_id, match.rule.name)
        return self._making.make(tx, match)

    def study_complete(self, tx: Transaction, study: Record, evaluations: Sequence[Evaluation], now: float) -> None:
        """The whole study is there: rules that lack an input begin to wait, if they say so."""
        for each in evaluations:
            if each.missing and each.rule.wait:
                waits.begin(tx, study.id, each.rule.name, each.missing, each.rule.wait.seconds, now)

    def end_waits(self, routing: Routing) -> list[str]:
        """Does what the rules say whose wait is over; returns the queues to send a ticket to."""
        with self._ledger.read() as tx:
            over = waits.over(tx, self._ledger.now())
        made: list[str] = []
        for study in over:
            filed = self._filing.file_study(study.id, routing)
            found = [each for each in self._evaluate(routing, filed) if each.rule.name == study.rule]
            with self._ledger.begin("end wait") as tx:
                if intake.study_of(tx, study.id).changes != study.changes or not waits.end(tx, study.id, study.rule):
                    continue
                for each in found:
                    made += self._end(tx, study, match_of(each, filed, routing, study.id), each)
        return made

    def _end(self, tx: Transaction, study: Record, match: Match, evaluation: Evaluation) -> list[str]:
        wait = evaluation.rule.wait
        if evaluation.matched:  # the rule was edited while it waited
            return self.make(tx, match)
        if not evaluation.missing or wait is None:
            return []
        missing = ", ".join(evaluation.missing)
        note(tx, "wait over", study_id=study.id, rule=evaluation.rule.name, missing=missing, then=wait.then)
        log().warning("wait over", study=study.id, rule=evaluation.rule.name, missing=missing, then=wait.then)
        if wait.then == "run":
            return self.make(tx, match)
        return self.make(tx, match.hold(f"input {missing} never came"))

    def _evaluate(self, routing: Routing, filed: Mapping[str, Filed]) -> list[Evaluation]:
        """The rules with inputs; none where there is nothing to hold them against."""
        if not filed or not any(each.inputs for each in routing.rules):
            return []
        study = Study(tuple(each.series for each in filed.values()))
        contexts = {uid: each.context for uid, each in filed.items()}
        return [each for each in evaluate_study(routing, study, contexts) if each.rule.inputs]


def match_of(evaluation: Evaluation, filed: Mapping[str, Filed], routing: Routing, study_id: int) -> Match:
    """What a study rule takes: its inputs by their names, or the series it has chosen."""
    named = evaluation.inputs or {each.SeriesInstanceUID: each for each in evaluation.series}
    chosen = tuple(filed[each.SeriesInstanceUID] for each in named.values())
    return Match(evaluation.rule, routing, study_id, None, chosen, tuple(named))
