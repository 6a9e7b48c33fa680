"""Named inputs of a study rule: which series serves which, and the keys `inputs` and `wait` in `routing.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import yaml

from radnode.domain.routing import values
from radnode.domain.routing.condition_keys import read_condition, read_conditions
from radnode.domain.routing.conditions import Condition, Facts, Verdict, judge
from radnode.domain.routing.least import Least, read_least
from radnode.domain.routing.matching import AnyOf
from radnode.domain.routing.nodes import Entry, choice_of, line_of, quoted
from radnode.domain.routing.reader import Reader
from radnode.domain.study import Series

INPUT_KEYS = ("unless", "min_instances", "optional")
WAIT_KEYS = ("for", "then")
CHOSEN_BY = frozenset(
    {"ImageType", "NumberOfFrames", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime"}
)
"""What has to be read from the headers to choose among several series that fit."""

_UNASKED = AnyOf(("DERIVED", "LOCALIZER"))  # PS3.3 C.7.6.1.1.2: values 1 and 3
_COMPUTED = ("adc", "swi", "perfusion", "mra", "localizer", "capture")  # classes whose series often are derived
_THEN = ("run", "give_up")


@dataclass(frozen=True)
class Input:
    """A series an app receives under a name of its own.

    Attributes:
        conditions: all must hold; unless one of them asks for kinds of image, derived and localizer series are
            excluded.
        optional: the app also runs without it.
    """

    name: str
    line: int
    conditions: tuple[Condition, ...]
    min_instances: Least = field(default_factory=Least)
    optional: bool = False

    def verdicts(self, facts: Facts) -> list[Verdict]:
        return [*(judge(each, facts) for each in self.conditions), *self.min_instances.verdicts(facts.series)]


@dataclass(frozen=True)
class Wait:
    """For how many seconds a missing input is waited for once the study is complete, and what happens then."""

    seconds: float
    then: Literal["run", "give_up"] = "give_up"


def fill(inputs: Sequence[Input], fitting: Mapping[str, Sequence[Series]]) -> dict[str, Series]:
    """Which series serves which input, in the order of `inputs`; those for which none is left have no entry.

    A series serves one input only. The input with the fewest series to choose from chooses first (then needed before
    optional ones, then as in the file), and takes the one with the most images, of those the newest.

    Args:
        fitting: input name -> the series that fit it.
    """
    left = {each.name: list(fitting.get(each.name, ())) for each in inputs}
    optional = {each.name: each.optional for each in inputs}
    filled: dict[str, Series] = {}
    while open_inputs := [name for name, series in left.items() if series]:
        name = min(open_inputs, key=lambda each: (len(left[each]), optional[each]))
        filled[name] = max(left.pop(name), key=_rank)
        left = {each: [one for one in series if one is not filled[name]] for each, series in left.items()}
    return {each.name: filled[each.name] for each in inputs if each.name in filled}


def _rank(series: Series) -> tuple[int, str, str]:
    """More images are better, then later ones; the UID only makes the choice the same every time."""
    frames = (each.get("NumberOfFrames", 1) for each in series)
    images = sum(each if isinstance(each, int) and each > 0 else 1 for each in frames)
    newest = max(
        each.text("AcquisitionDate") + each.text("AcquisitionTime")
        or each.text("SeriesDate") + each.text("SeriesTime")
        for each in series
    )
    return images, newest, series.SeriesInstanceUID


def read_inputs(reader: Reader, node: yaml.Node | None) -> tuple[Input, ...]:
    found = (_input(reader, entry) for entry in reader.entries(node))
    return tuple(each for each in found if each)


def read_wait(reader: Reader, node: yaml.Node | None) -> Wait | None:
    """`30m`, or `{for: 30m, then: run}`."""
    if node is None:
        return None
    if not isinstance(node, yaml.MappingNode):
        return Wait(reader.read(node, values.duration, 0.0))
    fields = reader.fields(node, "wait", WAIT_KEYS)
    reader.require(fields, ("for",), line_of(node), "wait")
    then = reader.read(fields.get("then"), lambda each: choice_of(each, _THEN), "give_up")
    return Wait(reader.read(fields.get("for"), values.duration, 0.0), cast(Literal["run", "give_up"], then))


def _asks(condition: Condition) -> bool:
    """Whether the condition itself says which kinds of image serve."""
    if condition.keyword in ("ImageType", "SeriesDerived"):
        return True
    wanted = condition.test.patterns if isinstance(condition.test, AnyOf) else ()
    return condition.keyword == "SeriesClass" and any(each.casefold() in _COMPUTED for each in wanted)


def _input(reader: Reader, entry: Entry) -> Input | None:
    name, line, node = entry
    entries = reader.entries(node)
    keys = {key: value for key, _, value in entries if key in INPUT_KEYS}
    read = (read_condition(reader, *each, unless=False) for each in entries if each[0] not in INPUT_KEYS)
    conditions = tuple(each for each in read if each) + read_conditions(reader, keys.get("unless"), unless=True)
    if not entries or (keys.keys() == {key for key, _, _ in entries} and "unless" not in keys):
        reader.problem(line, f"input {quoted(name)} has no conditions: every series would fit")
    if not any(_asks(each) for each in conditions):
        conditions += (Condition("ImageType", _UNASKED, True, line),)
    return Input(
        name=name,
        line=line,
        conditions=conditions,
        min_instances=read_least(reader, keys.get("min_instances")),
        optional=reader.read(keys.get("optional"), values.switch, False),
    )
