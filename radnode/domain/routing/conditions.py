"""Conditions on attributes, and the verdicts they come to.

A rule *requires* values (`when: x`, `unless: {not: x}`) and *forbids* values (`unless: x`, `when: {not: x}`). All
images are judged, in no order: what is required must be so in every image that has the attribute, and one must have
it; what is forbidden must be so in none. An image without the attribute says nothing. So a series with one stray image
in it does not fire a rule by chance, and the verdict names the values that were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radnode.domain.routing.keywords import CONTEXT_KEYWORDS, is_of_study
from radnode.domain.routing.matching import AnyOf, Present, Test, text_of
from radnode.domain.series_class import DERIVED_KEYWORDS, classify
from radnode.domain.study import Series, Study, Value

Context = Mapping[str, str | Sequence[str]]
"""`CallingAETitle` and `CalledAETitle` of a series: one, or several where it came by several associations."""

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

    @property
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


def judge(condition: Condition, series: Series, context: Context) -> Verdict:
    """The verdict of a condition on one series."""
    found = _found(condition.keyword, series, context)
    return _verdict(condition, found, _holds(condition, found), series.SeriesInstanceUID)


def judge_study(condition: Condition, study: Study) -> Verdict:
    """The verdict of a condition on a study: what it requires must be so in one of its series, at least."""
    per_series = [_found(condition.keyword, each, {}) for each in study]
    verdicts = [_holds(condition, found) for found in per_series]
    everything = [values for found in per_series for values in found]
    return _verdict(condition, everything, all(verdicts) if condition.forbids else any(verdicts), "")


def contradicts(condition: Condition, series: Series) -> bool:
    """Whether a series has the attribute, but not as required: it does not belong to what the rule is about."""
    found = _found(condition.keyword, series, {})
    return bool(found) and not _holds(condition, found)


def _found(keyword: str, series: Series, context: Context) -> list[tuple[Value, ...]]:
    """The different values of an attribute in a series; empty values count as absent."""
    if keyword in CONTEXT_KEYWORDS:
        titles = context.get(keyword, ())
        distinct: Sequence[tuple[Value, ...]] = [(each,) for each in ([titles] if isinstance(titles, str) else titles)]
    elif keyword in DERIVED_KEYWORDS:
        distinct = [classify(series).attributes().get(keyword, ())]
    else:
        distinct = series.distinct(keyword)
    present = (tuple(value for value in values if text_of(value)) for values in distinct)
    return [values for values in present if values]


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
        return "absent"
    more = f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return ", ".join(f'"{each}"' for each in distinct[:_SHOWN]) + more
