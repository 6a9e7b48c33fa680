"""The lines of `when` and `unless` in `routing.yaml`: what a condition may name, and how it is written."""

from __future__ import annotations

import yaml

from radnode.domain.routing import values
from radnode.domain.routing.conditions import AnyOf, Between, Condition, Test
from radnode.domain.routing.keywords import NUMERIC_VRS, known_keywords, unusable, vr_of
from radnode.domain.routing.nodes import items_of, line_of, quoted, text_of
from radnode.domain.routing.reader import NO_NODES, Reader

KEYS = ("min", "max", "not")


def read_conditions(reader: Reader, node: yaml.Node | None, *, unless: bool) -> tuple[Condition, ...]:
    found = [_condition(reader, keyword, line, each, unless) for keyword, line, each in reader.entries(node)]
    return tuple(each for each in found if each)


def _condition(reader: Reader, keyword: str, line: int, node: yaml.Node, unless: bool) -> Condition | None:
    vr = vr_of(keyword)
    if vr is None:
        reader.problem(line, f"{quoted(keyword)} is no DICOM keyword{reader.hint(keyword, known_keywords)}")
        return None
    if fault := unusable(keyword):
        reader.problem(line, fault)
        return None
    negated = isinstance(node, yaml.MappingNode) and any(key == "not" for key, _, _ in reader.entries(node))
    if negated:
        fields = reader.fields(node, "a condition", KEYS)
        if len(fields) > 1:
            reader.problem(line, f"{keyword}: put min and max inside `not`")
        node = fields["not"]
    test = _range(reader, keyword, vr, node) if isinstance(node, yaml.MappingNode) else _patterns(reader, keyword, node)
    return Condition(keyword, test, negated != unless, line)


def _patterns(reader: Reader, keyword: str, node: yaml.Node) -> Test:
    nodes = reader.read(node, items_of, NO_NODES)
    if isinstance(node, yaml.SequenceNode) and not nodes:
        reader.problem(line_of(node), f"{keyword}: a list of no values can never hold")
    return AnyOf(tuple(reader.read(each, text_of, "") for each in nodes))


def _range(reader: Reader, keyword: str, vr: str, node: yaml.Node) -> Test:
    fields = reader.fields(node, "a condition", KEYS)
    lowest = reader.read(fields.get("min"), values.number, None)
    highest = reader.read(fields.get("max"), values.number, None)
    if "not" in fields:
        reader.problem(line_of(node), f"{keyword}: `not` inside `not`")
    elif not node.value:
        reader.problem(line_of(node), f"{keyword}: a value is missing")
    elif fields and vr not in NUMERIC_VRS:
        reader.problem(line_of(node), f"{keyword} is no number (VR {vr}): min and max do not apply")
    elif lowest is not None and highest is not None and lowest > highest:
        reader.problem(line_of(node), f"{keyword}: min is more than max: no value can be that")
    return Between(lowest, highest)
