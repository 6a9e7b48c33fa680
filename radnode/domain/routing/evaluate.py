"""What the rules say about a series or a study taken as complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from radnode.domain.routing.conditions import ABSENT, Context, Facts, Verdict, contradicts, judge, judge_study
from radnode.domain.routing.inputs import fill
from radnode.domain.routing.rules import Routing, Rule
from radnode.domain.study import Series, Study

_REASONS = 3
_SHOWN = 64

Said = tuple[tuple[Verdict, ...], str]
"""Verdicts, and the reason they come to."""


@dataclass(frozen=True)
class Filled:
    """What a rule with inputs has of them.

    Attributes:
        inputs: which series serves which, as far as they are there.
        missing: inputs the rule needs and has none for, where all else holds and some input is there. It did not match,
            and may once they come.
        fitting: UIDs of all series that fit some input, chosen or not.
    """

    inputs: Mapping[str, Series] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    fitting: frozenset[str] = frozenset()


_NOTHING = Filled()


@dataclass(frozen=True)
class Evaluation:
    """One rule held against one series or study.

    Attributes:
        series: what the rule takes: empty unless it matched.
        saying: tells the verdicts, and the reason: for a thousand rules that takes longer than to decide.
    """

    rule: Rule
    matched: bool
    series: tuple[Series, ...]
    saying: Callable[[], Said] = field(repr=False, compare=False)
    filled: Filled = _NOTHING

    @cached_property
    def _said(self) -> Said:
        return self.saying()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Of every condition, also after one has failed; at study level those on the study come first."""
        return self._said[0]

    @property
    def reason(self) -> str:
        """Why it matched or not, in one line; it may hold patient data."""
        return self._said[1]

    @property
    def inputs(self) -> Mapping[str, Series]:
        return self.filled.inputs

    @property
    def missing(self) -> tuple[str, ...]:
        return self.filled.missing

    @property
    def whole(self) -> bool:
        """Whether every input is there, the optional ones too."""
        return self.matched and len(self.inputs) == len(self.rule.inputs)

    def for_timeline(self) -> dict[str, Any]:
        """All of a rule that matched; of one that did not, what explains it: a thousand rules have to be kept.

        `failed` counts the conditions that did not hold, `absent` names those whose attribute is absent.
        """
        if self.matched:
            return self.to_json()
        failed = {(each.line, each.keyword, each.wanted, each.input): each for each in self.verdicts if not each.holds}
        said = {
            "absent": list(dict.fromkeys(each.keyword for each in failed.values() if each.found == ABSENT)),
            "missing": list(self.missing),
        }
        return {
            "rule": self.rule.name,
            "line": self.rule.line,
            "matched": False,
            "reason": self.reason,
            "failed": len(failed),
            **{key: each for key, each in said.items() if each},
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
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
    facts = Facts(series, context)
    return tuple(_on_series(rule, facts) for rule in routing.rules if rule.level == "series")


def evaluate_study(routing: Routing, study: Study, contexts: Mapping[str, Context]) -> tuple[Evaluation, ...]:
    """Every study-level rule held against a study.

    Conditions on study attributes choose the study, all others choose its series. A series whose own study attributes
    contradict what the rule requires is left out too; one that lacks them follows its study. From those, a rule with
    inputs fills its inputs.

    Args:
        contexts: Series Instance UID -> the series' context.
    """
    facts = {each.SeriesInstanceUID: Facts(each, contexts.get(each.SeriesInstanceUID, {})) for each in study}
    return tuple(_on_study(rule, facts) for rule in routing.rules if rule.level == "study")


def _on_series(rule: Rule, facts: Facts) -> Evaluation:
    least = rule.min_instances.instances
    matched = not _hindrance(rule) and len(facts.series) >= least and all(map(facts.holds, rule.conditions))
    return Evaluation(rule, matched, (facts.series,) if matched else (), partial(_say_of_series, rule, facts))


def _say_of_series(rule: Rule, facts: Facts) -> Said:
    verdicts = (*(judge(each, facts) for each in rule.conditions), *rule.min_instances.verdicts(facts.series))
    return verdicts, _failed(verdicts) or _hindrance(rule) or _matching(rule)


def _on_study(rule: Rule, facts: Mapping[str, Facts]) -> Evaluation:
    of_study = tuple(judge_study(each, tuple(facts.values())) for each in rule.conditions if each.on_study)
    of_series: list[Verdict] = []
    chosen: list[Series] = []
    for each in facts.values():
        verdicts = _on_series_of_study(rule, each)
        of_series += verdicts
        if all(verdict.holds for verdict in verdicts):
            chosen.append(each.series)
    failed = _failed(of_study)
    if not failed and not chosen:
        failed = "no series is left: " + _failed(of_series)
    said = (*of_study, *of_series), failed or _hindrance(rule) or _matching(rule)
    matched = not failed and not _hindrance(rule)
    evaluation = Evaluation(rule, matched, tuple(chosen) if matched else (), lambda: said)
    return _with_inputs(evaluation, facts) if rule.inputs and matched else evaluation


def _with_inputs(evaluation: Evaluation, facts: Mapping[str, Facts]) -> Evaluation:
    """Fills the rule's inputs with the series that its own conditions have chosen."""
    rule = evaluation.rule
    verdicts = {
        each.name: [
            [replace(one, input=each.name) for one in each.verdicts(facts[series.SeriesInstanceUID])]
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
    of_inputs = [one for found in verdicts.values() for each in found for one in each]
    reason = "; ".join(served if matched else [*reasons, *served]) or "no series fits any input"
    said = (*evaluation.verdicts, *of_inputs), reason
    return replace(
        evaluation,
        matched=matched,
        series=tuple(filled.values()) if matched else (),
        saying=lambda: said,
        filled=Filled(
            filled,
            tuple(lacking) if filled else (),
            frozenset(one.SeriesInstanceUID for each in fitting.values() for one in each),
        ),
    )


def _failed_of(series: Sequence[Sequence[Verdict]]) -> str:
    return _failed([one for each in series for one in each])


def _named(series: Series) -> str:
    description = series.first.text("SeriesDescription")[:_SHOWN]
    return f'"{description}" ({len(series)} instances)' if description else f"a series of {len(series)} instances"


def _on_series_of_study(rule: Rule, facts: Facts) -> list[Verdict]:
    astray = (each for each in rule.conditions if each.on_study and not each.forbids and contradicts(each, facts))
    own = (each for each in rule.conditions if not each.on_study)
    return [*(judge(each, facts) for each in (*astray, *own)), *rule.min_instances.verdicts(facts.series)]


def _hindrance(rule: Rule) -> str:
    """Why the rule matches nothing, whatever its conditions say; empty where it can."""
    if rule.app_broken:
        return f"it would match, but app {rule.app} is broken: {rule.app_broken}"
    return "" if rule.enabled else "it would match, but is switched off (enabled: false)"


def _matching(rule: Rule) -> str:
    return f"all {len(rule.conditions)} conditions hold" if rule.conditions else "it has no conditions"


def _failed(verdicts: Sequence[Verdict]) -> str:
    """The verdicts that do not hold, in one line; empty where all do."""
    texts = list(dict.fromkeys(str(each) for each in verdicts if not each.holds))
    more = f"; and {len(texts) - _REASONS} more" if len(texts) > _REASONS else ""
    return "; ".join(texts[:_REASONS]) + more
