"""What another routing would have done with studies that came before, as a difference against what happened."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from radnode.domain.routing.conditions import Condition, Context
from radnode.domain.routing.evaluate import Evaluation, evaluate_series, evaluate_study
from radnode.domain.routing.rules import Routing, Rule
from radnode.domain.series_class import DERIVED_KEYWORDS, KEYWORDS
from radnode.domain.study import Study

Place = tuple[str, str]
"""Study Instance UID and Series Instance UID, the latter empty for a rule of level study."""


@dataclass(frozen=True)
class Past:
    """A study that came before.

    Attributes:
        matched: what happened: (rule, Series Instance UID or empty) of every match.
        unknown: Series Instance UID -> attributes of which nobody knows any more what they were.
    """

    study: Study
    contexts: Mapping[str, Context]
    matched: frozenset[tuple[str, str]]
    unknown: Mapping[str, Collection[str]]


@dataclass
class Difference:
    """Of one rule: where it would match now and did not, the other way round, and where that cannot be told."""

    rule: str
    before: int = 0
    after: int = 0
    gained: dict[Place, str] = field(default_factory=dict)
    lost: dict[Place, str] = field(default_factory=dict)
    unknown: dict[Place, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        listed = {
            name: [{"StudyInstanceUID": study, "SeriesInstanceUID": series, "reason": reason}
                   for (study, series), reason in places.items()]
            for name, places in (("gained", self.gained), ("lost", self.lost), ("unknown", self.unknown))
        }  # fmt: skip
        return {"rule": self.rule, "before": self.before, "after": self.after, **listed}


def compare(routing: Routing, studies: Sequence[Past]) -> list[Difference]:
    """Holds a routing against the past: one Difference for each of its rules, then for rules that are no more."""
    found = {rule.name: Difference(rule.name) for rule in routing.rules}
    for past in studies:
        uid = past.study.StudyInstanceUID
        judged = set()
        for series, evaluation, open_question in _outcomes(routing, past):
            name = evaluation.rule.name
            judged.add((name, series))
            _count(found[name], (uid, series), evaluation, (name, series) in past.matched, open_question)
        for name, series in sorted(past.matched - judged):
            gone = found.setdefault(name, Difference(name))
            gone.before += 1
            gone.lost[uid, series] = "the rule is no more, or of another level"
    return list(found.values())


def _count(difference: Difference, place: Place, evaluation: Evaluation, before: bool, open_question: str) -> None:
    difference.before += before
    if open_question:
        difference.unknown[place] = open_question
        return
    difference.after += evaluation.matched
    if evaluation.matched and not before:
        difference.gained[place] = evaluation.reason
    elif before and not evaluation.matched:
        difference.lost[place] = evaluation.reason


def _outcomes(routing: Routing, past: Past) -> Iterator[tuple[str, Evaluation, str]]:
    """(Series Instance UID or empty, what the rule says, why that is not certain) for each rule."""
    for series in past.study:
        uid = series.SeriesInstanceUID
        context = past.contexts.get(uid, {})
        unknown = _unknown(past.unknown.get(uid, ()))
        relaxed = evaluate_series(_without(routing, unknown), series, context)
        for one, free in zip(evaluate_series(routing, series, context), relaxed, strict=True):
            yield uid, one, _question(one.rule, free, unknown)
    unknown = _unknown(name for names in past.unknown.values() for name in names)
    relaxed = evaluate_study(_without(routing, unknown), past.study, past.contexts)
    for one, free in zip(evaluate_study(routing, past.study, past.contexts), relaxed, strict=True):
        yield "", one, _question(one.rule, free, unknown)


def _unknown(names: Iterable[str]) -> frozenset[str]:
    """With what is concluded from these attributes."""
    found = frozenset(names)
    return found.union(DERIVED_KEYWORDS) if found.intersection(KEYWORDS) else found


def _question(rule: Rule, relaxed: Evaluation, unknown: frozenset[str]) -> str:
    """Empty where the outcome does not hang on what is unknown."""
    named = sorted({each.keyword for each in _all_conditions(rule)} & unknown)
    return f"{', '.join(named)}: not kept, and no longer in the spool" if named and relaxed.matched else ""


def _all_conditions(rule: Rule) -> tuple[Condition, ...]:
    return rule.conditions + tuple(one for each in rule.inputs for one in each.conditions)


def _without(routing: Routing, unknown: frozenset[str]) -> Routing:
    """The same rules, but for their conditions on what is unknown."""
    return replace(routing, rules=tuple(_relaxed(rule, unknown) for rule in routing.rules)) if unknown else routing


def _relaxed(rule: Rule, unknown: frozenset[str]) -> Rule:
    def known(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        return tuple(each for each in conditions if each.keyword not in unknown)

    inputs = tuple(replace(each, conditions=known(each.conditions)) for each in rule.inputs)
    return replace(rule, when=known(rule.when), unless=known(rule.unless), inputs=inputs)
