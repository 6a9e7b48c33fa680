"""What the rules say about a series or a study taken as complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from radnode.domain.routing.conditions import Context, Verdict, contradicts, judge, judge_study
from radnode.domain.routing.inputs import fill
from radnode.domain.routing.rules import Routing, Rule
from radnode.domain.study import Series, Study

_REASONS = 3


@dataclass(frozen=True)
class Evaluation:
    """One rule held against one series or study.

    Attributes:
        verdicts: of every condition, also after one has failed; at study level those on the study come first.
        series: what the rule takes: empty unless it matched.
        reason: why it matched or not, in one line; it may hold patient data.
        inputs: of a rule with inputs, which series serves which, as far as they are there.
        missing: inputs the rule needs and has none for, where all else holds and some input is there. It did not match,
            and may once they come.
        fitting: UIDs of all series that fit some input, chosen or not.
    """

    rule: Rule
    matched: bool
    verdicts: tuple[Verdict, ...]
    series: tuple[Series, ...]
    reason: str
    inputs: Mapping[str, Series] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    fitting: frozenset[str] = frozenset()

    @property
    def whole(self) -> bool:
        """Whether every input is there, the optional ones too."""
        return self.matched and len(self.inputs) == len(self.rule.inputs)

    def to_json(self) -> dict[str, Any]:
        """For the timeline: plain values only."""
        return {
            "rule": self.rule.name,
            "line": self.rule.line,
            "app": self.rule.app,
            "level": self.rule.level,
            "matched": self.matched,
            "reason": self.reason,
            "series": [each.SeriesInstanceUID for each in self.series],
            "inputs": {name: each.SeriesInstanceUID for name, each in self.inputs.items()},
            "missing": list(self.missing),
            "verdicts": [each.to_json() for each in self.verdicts],
        }


def evaluate_series(routing: Routing, series: Series, context: Context) -> tuple[Evaluation, ...]:
    """Every series-level rule held against a series, whether it matches or not, in the order of the file.

    Args:
        context: `CallingAETitle` and `CalledAETitle` of the association(s) the series came by.
    """
    return tuple(_on_series(rule, series, context) for rule in routing.rules if rule.level == "series")


def evaluate_study(routing: Routing, study: Study, contexts: Mapping[str, Context]) -> tuple[Evaluation, ...]:
    """Every study-level rule held against a study.

    Conditions on study attributes choose the study, all others choose its series. A series whose own study attributes
    contradict what the rule requires is left out too; one that lacks them follows its study. From those, a rule with
    inputs fills its inputs.

    Args:
        contexts: Series Instance UID -> the series' context.
    """
    return tuple(_on_study(rule, study, contexts) for rule in routing.rules if rule.level == "study")


def _on_series(rule: Rule, series: Series, context: Context) -> Evaluation:
    verdicts = (*(judge(each, series, context) for each in rule.conditions), *rule.min_instances.verdicts(series))
    return _evaluation(rule, verdicts, (series,), _failed(verdicts))


def _on_study(rule: Rule, study: Study, contexts: Mapping[str, Context]) -> Evaluation:
    of_study = tuple(judge_study(each, study) for each in rule.conditions if each.on_study)
    of_series: list[Verdict] = []
    chosen: list[Series] = []
    for series in study:
        verdicts = _on_series_of_study(rule, series, contexts.get(series.SeriesInstanceUID, {}))
        of_series += verdicts
        if all(each.holds for each in verdicts):
            chosen.append(series)
    failed = _failed(of_study)
    if not failed and not chosen:
        failed = "no series is left: " + _failed(of_series)
    evaluation = _evaluation(rule, (*of_study, *of_series), tuple(chosen), failed)
    return _with_inputs(evaluation, contexts) if rule.inputs and evaluation.matched else evaluation


def _with_inputs(evaluation: Evaluation, contexts: Mapping[str, Context]) -> Evaluation:
    """Fills the rule's inputs with the series that its own conditions have chosen."""
    rule = evaluation.rule
    verdicts = {
        each.name: [
            [replace(one, input=each.name) for one in each.verdicts(series, contexts.get(series.SeriesInstanceUID, {}))]
            for series in evaluation.series
        ]
        for each in rule.inputs
    }
    fitting = {
        name: [one for one, said in zip(evaluation.series, found, strict=True) if all(each.holds for each in said)]
        for name, found in verdicts.items()
    }
    filled = fill(rule.inputs, fitting)
    lacking = [each.name for each in rule.inputs if not each.optional and each.name not in filled]
    reasons = [f"no series for input {name}: " + (_failed_of(verdicts[name]) or "taken by others") for name in lacking]
    served = [f"{name} is {_named(series)}" for name, series in filled.items()]
    matched = bool(filled) and not lacking
    said = [one for found in verdicts.values() for each in found for one in each]
    return replace(
        evaluation,
        matched=matched,
        verdicts=(*evaluation.verdicts, *said),
        series=tuple(filled.values()) if matched else (),
        reason="; ".join(served if matched else [*reasons, *served]) or "no series fits any input",
        inputs=filled,
        missing=tuple(lacking) if filled else (),
        fitting=frozenset(one.SeriesInstanceUID for each in fitting.values() for one in each),
    )


def _failed_of(series: Sequence[Sequence[Verdict]]) -> str:
    return _failed([one for each in series for one in each])


def _named(series: Series) -> str:
    description = series.first.text("SeriesDescription")
    return f'"{description}" ({len(series)} instances)' if description else f"a series of {len(series)} instances"


def _on_series_of_study(rule: Rule, series: Series, context: Context) -> list[Verdict]:
    astray = (each for each in rule.conditions if each.on_study and not each.forbids and contradicts(each, series))
    own = (each for each in rule.conditions if not each.on_study)
    return [*(judge(each, series, context) for each in (*astray, *own)), *rule.min_instances.verdicts(series)]


def _evaluation(rule: Rule, verdicts: tuple[Verdict, ...], series: tuple[Series, ...], failed: str) -> Evaluation:
    if not failed and rule.app_broken:
        failed = f"it would match, but app {rule.app} is broken: {rule.app_broken}"
    if not failed and not rule.enabled:
        failed = "it would match, but is switched off (enabled: false)"
    if failed:
        return Evaluation(rule, False, verdicts, (), failed)
    reason = f"all {len(rule.conditions)} conditions hold" if rule.conditions else "it has no conditions"
    return Evaluation(rule, True, verdicts, series, reason)


def _failed(verdicts: Sequence[Verdict]) -> str:
    """The verdicts that do not hold, in one line; empty where all do."""
    texts = list(dict.fromkeys(str(each) for each in verdicts if not each.holds))
    more = f"; and {len(texts) - _REASONS} more" if len(texts) > _REASONS else ""
    return "; ".join(texts[:_REASONS]) + more
