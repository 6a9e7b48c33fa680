"""Conditions on attributes, and the verdicts they come to.

A rule *requires* values (`when: x`, `unless: {not: x}`) and *forbids* values (`unless: x`, `when: {not: x}`). All
images are judged, in no order: what is required must be so in every image that has the attribute, and one must have
it; what is forbidden must be so in none. An image without the attribute says nothing. So a series with one stray image
in it does not fire a rule by chance, and the verdict names the values that were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from radnode.domain.routing.keywords import CONTEXT_KEYWORDS, is_of_study
from radnode.domain.routing.matching import AnyOf, Present, Test, text_of
from radnode.domain.series_class import DERIVED_KEYWORDS, classify
from radnode.domain.study import Series, Value

Context = Mapping[str, str | Sequence[str]]
"""`CallingAETitle` and `CalledAETitle` of a series: one, or several where it came by several associations."""

ABSENT = "absent"
"""What is found where there is nothing; a value that says so stands in quotes."""
_SHOWN = 5
_SHOWN_LENGTH = 80


@dataclass(frozen=True)
class Condition:
    """One line of a rule's `when` or `unless`; `forbids` where no image may be so.

    `keyword` is the attribute's name: a keyword, a path, a private element (`domain.attributes`).
    """

    keyword: str
    test: Test
    forbids: bool
    line: int

    @cached_property
    def key(self) -> str:
        """The same for conditions that ask the same, in whichever line."""
        return f"{self.keyword} {self.forbids} {self.test!r}"

    @cached_property
    def on_study(self) -> bool:
        return is_of_study(self.keyword)

    @property
    def wanted(self) -> str:
        if self.forbids and isinstance(self.test, Present):
            return "absent"
        if self.forbids and isinstance(self.test, AnyOf) and len(self.test.patterns) > 1:
            return "none of " + ", ".join(f'"{each}"' for each in self.test.patterns)
        return f"not {self.test}" if self.forbids else str(self.test)


@dataclass(frozen=True)
class Verdict:
    """What became of one condition.

    Attributes:
        series_uid: empty where the study as a whole was judged.
        input: the rule's input that the condition is one of; empty for the rule's own.
    """

    keyword: str
    wanted: str
    found: str
    holds: bool
    line: int
    series_uid: str = ""
    input: str = ""

    def __str__(self) -> str:
        return f"{self.keyword} is {self.found}, wanted {self.wanted}"

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Facts:
    """What one series says: every attribute looked up, and every condition tried, once for all rules.

    `context` are the titles of the association(s) it came by.
    """

    def __init__(self, series: Series, context: Context) -> None:
        self.series, self.context = series, context
        self._found: dict[str, list[tuple[Value, ...]]] = {}
        self._held: dict[str, bool] = {}

    def found(self, keyword: str) -> list[tuple[Value, ...]]:
        """The different values of an attribute; empty values count as absent."""
        if keyword not in self._found:
            present = (tuple(value for value in values if text_of(value)) for values in self._distinct(keyword))
            self._found[keyword] = [values for values in present if values]
        return self._found[keyword]

    def holds(self, condition: Condition) -> bool:
        held = self._held.get(condition.key)
        if held is None:
            held = self._held[condition.key] = _holds(condition, self.found(condition.keyword))
        return held

    def _distinct(self, keyword: str) -> Sequence[tuple[Value, ...]]:
        if keyword in CONTEXT_KEYWORDS:
            titles = self.context.get(keyword, ())
            return [(each,) for each in ([titles] if isinstance(titles, str) else titles)]
        if keyword in DERIVED_KEYWORDS:
            return [self._concluded.get(keyword, ())]
        return self.series.distinct(keyword)

    @cached_property
    def _concluded(self) -> dict[str, tuple[Value, ...]]:
        return classify(self.series).attributes()


def judge(condition: Condition, facts: Facts) -> Verdict:
    """The verdict of a condition on one series."""
    found = facts.found(condition.keyword)
    return _verdict(condition, found, facts.holds(condition), facts.series.SeriesInstanceUID)


def judge_study(condition: Condition, study: Sequence[Facts]) -> Verdict:
    """The verdict of a condition on a study: what it requires must be so in one of its series, at least."""
    verdicts = [each.holds(condition) for each in study]
    everything = [values for each in study for values in each.found(condition.keyword)]
    return _verdict(condition, everything, all(verdicts) if condition.forbids else any(verdicts), "")


def contradicts(condition: Condition, facts: Facts) -> bool:
    """Whether a series has the attribute, but not as required: it does not belong to what the rule is about."""
    return bool(facts.found(condition.keyword)) and not facts.holds(condition)


def _holds(condition: Condition, found: Sequence[tuple[Value, ...]]) -> bool:
    accepted = [any(condition.test.accepts(value) for value in values) for values in found]
    return not any(accepted) if condition.forbids else bool(accepted) and all(accepted)


def _verdict(condition: Condition, found: Sequence[tuple[Value, ...]], holds: bool, series_uid: str) -> Verdict:
    return Verdict(condition.keyword, condition.wanted, _shown(found), holds, condition.line, series_uid)


def _shown(found: Sequence[tuple[Value, ...]]) -> str:
    """For people, in a terminal too: bounded, and without control characters."""
    texts = ("\\".join(map(text_of, values))[:_SHOWN_LENGTH] for values in found)
    distinct = list(dict.fromkeys("".join(c if c.isprintable() else "�" for c in text) for text in texts))
    if not distinct:
        return ABSENT
    more = f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return ", ".join(f'"{each}"' for each in distinct[:_SHOWN]) + more
