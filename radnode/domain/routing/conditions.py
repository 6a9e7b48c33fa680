"""Conditions on attributes, and the verdicts they come to.

A rule *requires* values (`when: x`, `unless: {not: x}`) and *forbids* values (`unless: x`, `when: {not: x}`). All
images are judged, in no order: what is required must be so in every image that has the attribute, and one must have
it; what is forbidden must be so in none. An image without the attribute says nothing. So a series with one stray image
in it does not fire a rule by chance, and the verdict names the values that were found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from radnode.domain.routing.keywords import CONTEXT_KEYWORDS, STUDY_KEYWORDS
from radnode.domain.study import Series, Study, Value

Context = Mapping[str, str | Sequence[str]]
"""`CallingAETitle` and `CalledAETitle` of a series: one, or several where it came by several associations."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,300}(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
_AGE = re.compile(r"([0-9]{3})([DWMY])")  # PS3.5 6.2, VR AS
_AGES_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_SHOWN = 5
_SHOWN_LENGTH = 80


class Test(Protocol):
    """What one value is held against."""

    def accepts(self, value: Value) -> bool: ...


@dataclass(frozen=True)
class AnyOf:
    """Any of several patterns with the wildcards of C-FIND (`*`, `?`; PS3.4 C.2.2.2.4), case-insensitive.

    A number is accepted by a pattern that is the same number: `5` accepts the 5.0 of a DS.
    """

    patterns: tuple[str, ...]

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile("|".join(_regex(each) for each in self.patterns), re.DOTALL)

    @cached_property
    def _numbers(self) -> frozenset[float]:
        return frozenset(float(each) for each in self.patterns if _NUMBER.fullmatch(each))

    def accepts(self, value: Value) -> bool:
        if not isinstance(value, str) and value in self._numbers:
            return True
        return self._compiled.fullmatch(text_of(value).casefold()) is not None

    def __str__(self) -> str:
        return " or ".join(f'"{each}"' for each in self.patterns)


@dataclass(frozen=True)
class Between:
    """A number between two limits, each included, either None. An age (VR AS) counts in years."""

    minimum: float | None
    maximum: float | None

    def accepts(self, value: Value) -> bool:
        number = _number(value)
        if number is None:
            return False
        return (self.minimum is None or number >= self.minimum) and (self.maximum is None or number <= self.maximum)

    def __str__(self) -> str:
        if self.maximum is None:
            return f"at least {self.minimum:g}"
        return f"at most {self.maximum:g}" if self.minimum is None else f"{self.minimum:g} to {self.maximum:g}"


@dataclass(frozen=True)
class Condition:
    """One line of a rule's `when` or `unless`; `forbids` where no image may be so."""

    keyword: str
    test: Test
    forbids: bool
    line: int

    @property
    def on_study(self) -> bool:
        return self.keyword in STUDY_KEYWORDS

    @property
    def wanted(self) -> str:
        if self.forbids and isinstance(self.test, AnyOf) and len(self.test.patterns) > 1:
            return "none of " + ", ".join(f'"{each}"' for each in self.test.patterns)
        return f"not {self.test}" if self.forbids else str(self.test)


@dataclass(frozen=True)
class Verdict:
    """What became of one condition. `series_uid` is empty where the study as a whole was judged."""

    keyword: str
    wanted: str
    found: str
    holds: bool
    line: int
    series_uid: str = ""

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


def text_of(value: Value) -> str:
    """A value as people write it: `5`, not `5.0`; padding does not count (PS3.5 6.2)."""
    return format(value, ".15g") if isinstance(value, float) else str(value).strip(" \0")


def _found(keyword: str, series: Series, context: Context) -> list[tuple[Value, ...]]:
    """The different values of an attribute in a series; empty values count as absent."""
    if keyword in CONTEXT_KEYWORDS:
        titles = context.get(keyword, ())
        distinct: Sequence[tuple[Value, ...]] = [(each,) for each in ([titles] if isinstance(titles, str) else titles)]
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


def _number(value: Value) -> float | None:
    if not isinstance(value, str):
        return value
    text = text_of(value)
    if age := _AGE.fullmatch(text):
        return int(age[1]) / _AGES_PER_YEAR[age[2]]
    return float(text) if _NUMBER.fullmatch(text) else None


def _regex(pattern: str) -> str:
    """The pattern as a regular expression that needs no backtracking: hostile values cost linear time."""
    first, *others = (re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", pattern.casefold()))
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>.*?{part})" for part in middle if part) + ".*" + last
