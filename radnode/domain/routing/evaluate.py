"""What the rules say about a series or a study taken as complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radnode.domain.routing.conditions import Context, Verdict, contradicts, judge, judge_study
from radnode.domain.routing.rules import Least, Routing, Rule
from radnode.domain.study import Series, Study

_REASONS = 3


@dataclass(frozen=True)
class Evaluation:
    """One rule held against one series or study.

    Attributes:
        verdicts: of every condition, also after one has failed; at study level those on the study come first.
        series: what the rule takes: empty unless it matched.
        reason: why it matched or not, in one line; it may hold patient data.
    """

    rule: Rule
    matched: bool
    verdicts: tuple[Verdict, ...]
    series: tuple[Series, ...]
    reason: str

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
    contradict what the rule requires is left out too; one that lacks them follows its study.

    Args:
        contexts: Series Instance UID -> the series' context.
    """
    return tuple(_on_study(rule, study, contexts) for rule in routing.rules if rule.level == "study")


def _on_series(rule: Rule, series: Series, context: Context) -> Evaluation:
    verdicts = (*(judge(each, series, context) for each in rule.conditions), *_enough(rule.min_instances, series))
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
    return _evaluation(rule, (*of_study, *of_series), tuple(chosen), failed)


def _on_series_of_study(rule: Rule, series: Series, context: Context) -> list[Verdict]:
    astray = (each for each in rule.conditions if each.on_study and not each.forbids and contradicts(each, series))
    own = (each for each in rule.conditions if not each.on_study)
    return [*(judge(each, series, context) for each in (*astray, *own)), *_enough(rule.min_instances, series)]


def _enough(least: Least, series: Series) -> Iterator[Verdict]:
    if least.instances:
        count, uid = len(series), series.SeriesInstanceUID
        wanted, found = f"at least {least.instances}", str(count)
        yield Verdict("min_instances", wanted, found, count >= least.instances, least.line, uid)


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
