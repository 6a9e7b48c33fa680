"""The lines of `when` and `unless` in `routing.yaml`: what a condition may name, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

from radnode.domain.attributes import DATE_VRS, NUMERIC_VRS, OPAQUE_VRS, UnknownAttributeError, attribute_of
from radnode.domain.errors import did_you_mean
from radnode.domain.routing import values
from radnode.domain.routing.conditions import Condition
from radnode.domain.routing.keywords import CONTEXT_KEYWORDS, known_keywords
from radnode.domain.routing.matching import AnyOf, Between, Period, Present, Test
from radnode.domain.routing.nodes import items_of, line_of, quoted, text_of
from radnode.domain.routing.reader import NO_NODES, Fields, Reader
from radnode.domain.series_class import CLASSES, DERIVED_KEYWORDS, PLANES

KEYS = ("min", "max", "not")

_VALUES = {
    "SeriesClass": CLASSES,
    "SeriesPlane": PLANES,
    "SeriesDerived": ("yes", "no"),
    "SeriesContrast": ("yes", "no"),
}
_WRITTEN_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")


def read_conditions(reader: Reader, node: yaml.Node | None, *, unless: bool) -> tuple[Condition, ...]:
    found = [read_condition(reader, name, line, each, unless=unless) for name, line, each in reader.entries(node)]
    return tuple(each for each in found if each)


def read_condition(reader: Reader, name: str, line: int, node: yaml.Node, *, unless: bool) -> Condition | None:
    vr = _vr(reader, name, line)
    if vr is None:
        return None
    negated = isinstance(node, yaml.MappingNode) and any(key == "not" for key, _, _ in reader.entries(node))
    if negated:
        fields = reader.fields(node, "a condition", KEYS)
        if len(fields) > 1:
            reader.problem(line, f"{name}: put min and max inside `not`")
        node = fields["not"]
    word = _word(node)
    if word:
        return Condition(name, Present(), (word == "absent") != (negated != unless), line)
    if vr in OPAQUE_VRS:
        what = f"a sequence: name what lies in it, {name}.Keyword" if vr == "SQ" else f"binary data ({vr})"
        reader.problem(line, f"{name} is {what}; of itself a condition can only ask whether it is present or absent")
        return None
    test = _range(reader, name, vr, node) if isinstance(node, yaml.MappingNode) else _patterns(reader, name, vr, node)
    return Condition(name, test, negated != unless, line)


def _vr(reader: Reader, name: str, line: int) -> str | None:
    """The VR of what a condition names, empty where nobody knows it; None where there is no such attribute."""
    if name in CONTEXT_KEYWORDS:
        return "AE"
    if name in DERIVED_KEYWORDS:
        return "CS"
    try:
        return attribute_of(name).vr
    except UnknownAttributeError as fault:
        hint = reader.hint(fault.keyword, known_keywords) if fault.keyword else ""
        reader.problem(line, f"{fault}{hint}")
        return None


def _word(node: yaml.Node) -> str:
    """`present` or `absent`, as words: in quotes they are values like any other."""
    bare = isinstance(node, yaml.ScalarNode) and node.style is None
    return str(node.value) if bare and node.value in ("present", "absent") else ""


def _patterns(reader: Reader, name: str, vr: str, node: yaml.Node) -> Test:
    nodes = reader.read(node, items_of, NO_NODES)
    if isinstance(node, yaml.SequenceNode) and not nodes:
        reader.problem(line_of(node), f"{name}: a list of no values can never hold")
    for each in filter(_word, nodes):
        fault = f"{name}: {_word(each)} cannot stand in a list; the text itself is written \"{_word(each)}\""
        reader.problem(line_of(each), fault)
    if name in _VALUES:
        _refuse_unknown(reader, name, nodes)
    patterns = (reader.read(each, text_of, "") for each in nodes)
    return AnyOf(tuple(_WRITTEN_DATE.sub(r"\1\2\3", each) if vr == "DA" else each for each in patterns))


def _refuse_unknown(reader: Reader, name: str, nodes: Sequence[yaml.Node]) -> None:
    """Of what radnode itself finds out all values are known, so a misspelt one is told at once."""
    for node in nodes:
        given = reader.read(node, text_of, "")
        if not {"*", "?"} & set(given) and given.casefold() not in _VALUES[name]:
            known = list(_VALUES[name])
            reader.problem(line_of(node), f"{name} is never {quoted(given)}{did_you_mean(given, known)}")


def _range(reader: Reader, name: str, vr: str, node: yaml.Node) -> Test:
    fields = reader.fields(node, "a condition", KEYS)
    if "not" in fields:
        reader.problem(line_of(node), f"{name}: `not` inside `not`")
    elif not node.value:
        reader.problem(line_of(node), f"{name}: a value is missing")
    elif fields and vr and vr not in NUMERIC_VRS | DATE_VRS:
        reader.problem(line_of(node), f"{name} is neither number, age nor date (VR {vr}): min and max do not apply")
    test = _period(reader, vr, fields) if vr in DATE_VRS else _between(reader, vr, fields)
    if test.minimum is not None and test.maximum is not None and _is_more(test):
        reader.problem(line_of(node), f"{name}: min is more than max: no value can be that")
    return test


def _between(reader: Reader, vr: str, fields: Fields) -> Between:
    read = values.age if vr == "AS" else values.number
    return Between(reader.read(fields.get("min"), read, None), reader.read(fields.get("max"), read, None))


def _period(reader: Reader, vr: str, fields: Fields) -> Period:
    def read(node: yaml.Node) -> str:
        return values.moment(node, vr)

    return Period(reader.read(fields.get("min"), read, None), reader.read(fields.get("max"), read, None))


def _is_more(test: Between | Period) -> bool:
    if isinstance(test, Between):
        return test.minimum is not None and test.maximum is not None and test.minimum > test.maximum
    least, most = test.minimum or "", test.maximum or ""
    return least[: len(most)] > most[: len(least)]
