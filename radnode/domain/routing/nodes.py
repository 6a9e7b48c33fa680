"""YAML as a tree of text with line numbers: YAML's own guesses at types never come into play.

Nothing is constructed: `on`, `NO`, `22:00`, `0123`, `1e3` and `~` stay what they are on the page, and the field they
stand in decides what they mean. Size, depth and what aliases may grow to are bounded.
"""

from __future__ import annotations

from typing import Any

import yaml

from radnode.domain.errors import did_you_mean

MAX_LENGTH = 512 * 1024
"""Characters of a routing file."""
MAX_DEPTH = 20
MAX_NODES = 200_000
"""Nodes once every alias is followed."""
_SHOWN = 60

Entry = tuple[str, int, yaml.Node]
"""One line of a map: the key, its line, the value."""


class Refused(Exception):  # noqa: N818 - it never leaves this package
    """A value cannot be used; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class _Loader(yaml.SafeLoader):
    """Stops at a bounded depth; the other bounds need the whole tree."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Refused(self.get_mark().line + 1, _TOO_DEEP)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def compose(text: str | bytes) -> yaml.MappingNode:
    """The map a YAML document is. Raises Refused: no YAML, no UTF-8, no map, too large, or nothing in it."""
    text = _decoded(text).removeprefix("\ufeff")
    if len(text) > MAX_LENGTH:
        raise Refused(0, f"longer than {MAX_LENGTH} characters")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(filter(None, (error.context, error.problem)))
        raise Refused(mark.line + 1 if mark else 0, f"not valid YAML: {said}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Refused(line, f"not valid YAML: the character U+{ord(text[error.position]):04X}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape beyond Unicode is a ValueError to PyYAML
        raise Refused(0, f"not valid YAML: {error}") from None
    if node is None:
        raise Refused(0, "the file is empty")
    _measure(node, 0, {})
    return _map(node)


def line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def quoted(text: str) -> str:
    """For messages: on one line and not too long."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def text_of(node: yaml.Node) -> str:
    """A scalar as it is written, without surrounding blanks. Raises Refused for lists, maps and nothing at all."""
    if not isinstance(node, yaml.ScalarNode):
        raise Refused(line_of(node), f"one value is wanted here, not a {_kind(node)}")
    text = str(node.value).strip()
    if not text:
        raise Refused(line_of(node), "a value is missing")
    return text


def items_of(node: yaml.Node) -> list[yaml.Node]:
    """The items of a list; one value stands for a list of one."""
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        raise Refused(line_of(node), "a list is wanted here, not a map")
    text_of(node)
    return [node]


def entries_of(node: yaml.Node) -> tuple[list[Entry], list[Refused]]:
    """The entries of a map as (key, its line, value), and why others were left out. Raises Refused where it is none."""
    entries: dict[str, Entry] = {}
    refused: list[Refused] = []
    for key_node, value in _map(node).value:
        try:
            key = _key(key_node, entries)
        except Refused as fault:
            refused.append(fault)
        else:
            entries[key] = (key, line_of(key_node), value)
    return list(entries.values()), refused


def plain_of(node: yaml.Node) -> Any:
    """Lists and maps of text, for values whose types an app's options decide."""
    if isinstance(node, yaml.SequenceNode):
        return [plain_of(each) for each in node.value]
    if not isinstance(node, yaml.MappingNode):
        return str(node.value)
    entries, refused = entries_of(node)
    if refused:
        raise refused[0]
    return {key: plain_of(value) for key, _, value in entries}


def choice_of(node: yaml.Node, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    text = text_of(node)
    if text not in choices:
        listed = ", ".join(choices)
        raise Refused(line_of(node), f"{quoted(text)} is none of {listed}{did_you_mean(text, choices)}")
    return text


def _map(node: yaml.Node) -> yaml.MappingNode:
    if isinstance(node, yaml.MappingNode):
        return node
    raise Refused(line_of(node), f"a map (key: value) is wanted here, not a {_kind(node)}")


def _key(node: yaml.Node, others: dict[str, Entry]) -> str:
    key = text_of(node)
    if key == "<<":
        raise Refused(line_of(node), "merge keys (<<) are not supported: write the keys out")
    if key in others:
        raise Refused(line_of(node), f"{quoted(key)} comes twice: it is in line {others[key][1]} already")
    return key


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(text.count(b"\n", 0, error.start) + 1, "not UTF-8 text") from None


def _measure(node: yaml.Node, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Height and number of nodes below `node` once aliases are followed. Raises Refused where either is too much."""
    if depth > MAX_DEPTH:
        raise Refused(line_of(node), _TOO_DEEP)
    if id(node) in known:
        return known[id(node)]
    height, size = 0, 1
    for child in _children(node):
        child_height, child_size = _measure(child, depth + 1, known)
        height, size = max(height, child_height + 1), size + child_size
        if height > MAX_DEPTH:
            raise Refused(line_of(node), _TOO_DEEP)
        if size > MAX_NODES:
            raise Refused(line_of(node), f"more than {MAX_NODES} values once aliases are followed")
    known[id(node)] = height, size
    return height, size


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "map"
    return "list" if isinstance(node, yaml.SequenceNode) else "value"
