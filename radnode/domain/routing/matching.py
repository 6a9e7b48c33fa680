"""What one value of an attribute is held against: patterns, limits, a period of time, or only that it is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from radnode.domain.study import Value

_NUMBER = re.compile(r"[+-]?[0-9]{1,300}(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
_AGE = re.compile(r"([0-9]{1,3})([DWMY])")  # PS3.5 6.2, VR AS
_AGES_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
# PS3.5 6.2, VRs DA, TM and DT, also as they were written before 1993: YYYY.MM.DD and HH:MM:SS.
_MOMENT = re.compile(r"([0-9]{2,14})(\.[0-9]{1,6})?([+-][0-9]{4})?")
_OLD_DATE = re.compile(r"([0-9]{4})\.([0-9]{2})\.([0-9]{2})")


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
        number = number_of(value)
        if number is None:
            return False
        return (self.minimum is None or number >= self.minimum) and (self.maximum is None or number <= self.maximum)

    def __str__(self) -> str:
        return _limits(*(None if each is None else f"{each:g}" for each in (self.minimum, self.maximum)))


@dataclass(frozen=True)
class Period:
    """A date or time between two limits, each included, either None. Limits are the digits of a DA, TM or DT.

    A limit counts as precisely as it is written: to be at most `2026` is to be in 2026 or before. What a value leaves
    out is taken as zeros; fractions of a second and the offset from UTC are not looked at.
    """

    minimum: str | None
    maximum: str | None

    def accepts(self, value: Value) -> bool:
        digits = _digits(text_of(value))
        if not digits:
            return False
        least, most = self.minimum, self.maximum
        return (least is None or _cut(digits, least) >= least) and (most is None or _cut(digits, most) <= most)

    def __str__(self) -> str:
        return _limits(self.minimum, self.maximum)


@dataclass(frozen=True)
class Present:
    """Any value at all."""

    def accepts(self, value: Value) -> bool:
        return True

    def __str__(self) -> str:
        return "present"


def text_of(value: Value) -> str:
    """A value as people write it: `5`, not `5.0`; padding does not count (PS3.5 6.2)."""
    return format(value, ".15g") if isinstance(value, float) else str(value).strip(" \0")


def number_of(value: Value) -> float | None:
    """The number a value is, an age in years; None where it is none."""
    if not isinstance(value, str):
        return value
    text = text_of(value)
    if age := _AGE.fullmatch(text):
        return int(age[1]) / _AGES_PER_YEAR[age[2]]
    return float(text) if _NUMBER.fullmatch(text) else None


def _limits(least: str | None, most: str | None) -> str:
    if most is None:
        return f"at least {least}"
    return f"at most {most}" if least is None else f"{least} to {most}"


def _digits(text: str) -> str:
    text = "".join(old.groups()) if (old := _OLD_DATE.fullmatch(text)) else text.replace(":", "")
    found = _MOMENT.fullmatch(text)
    return found[1] if found else ""


def _cut(digits: str, limit: str) -> str:
    return digits.ljust(len(limit), "0")[: len(limit)]


def _regex(pattern: str) -> str:
    """The pattern as a regular expression that needs no backtracking: hostile values cost linear time."""
    first, *others = (re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", pattern.casefold()))
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>.*?{part})" for part in middle if part) + ".*" + last
