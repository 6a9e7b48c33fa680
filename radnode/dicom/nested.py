"""Values inside sequences: what lies at the end of a path, in all items together.

Only the first MiB of a sequence is read, and of an attribute at most 256 values: a header is asked for a word or two,
not read through. Whatever the bytes are, this ends and raises nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from radnode.dicom.elements import SHORT, Encoding, Source
from radnode.dicom.values import Charset, charset_of, decode
from radnode.domain.attributes import Attribute
from radnode.domain.study import Value

LONGEST: Final = 1 << 20
MOST: Final = 256
BINARY: Final = "binary data"
"""What stands for a value that cannot be shown, but is there."""
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 64
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARSET = 0x00080005


class Place(NamedTuple):
    """Where the value of an element lies: `[at, end)`. `vr` is empty where it is implicit."""

    vr: bytes
    at: int
    end: int


class _Cut(Exception):  # noqa: N818 - it never leaves this module
    """The bytes end here, or make no sense from here on: what was found before counts."""


def stretch(source: Source, position: int, length: int) -> bytes:
    """The first bytes of a value, 1 MiB at the most; of a deflated source only beyond what was read of it before."""
    wanted, data = min(length, LONGEST), bytearray()
    while len(data) < wanted and (part := source.window(position + len(data))):
        data += part
    return bytes(data[:wanted])


def values_inside(
    data: bytes,
    encoding: Encoding,
    vr: bytes,
    path: Sequence[int],
    attribute: Attribute,
    charset: Charset,
    most: int = MOST,
) -> tuple[Value, ...]:
    """The attribute's values in all items of a sequence, one after the other.

    Args:
        data: the sequence's value: its items.
        vr: the sequence's VR as it stands in the file.
        path: tags of the sequences inside that still have to be entered.
    """
    items = _Items(data, encoding)
    found: list[Value] = []
    for each in items.values(Place(vr, 0, len(data)), path, attribute, charset):
        found += each
        if len(found) >= most:
            break
    return tuple(found[:most])


def count_items(data: bytes, encoding: Encoding, vr: bytes) -> int:
    items = _Items(data, encoding)
    return sum(1 for _ in items.items(Place(vr, 0, len(data))))


def private_tag(attribute: Attribute, creators: Mapping[int, bytes]) -> int | None:
    """The tag a private element has in one data set or item (PS3.5 7.8.1); `creators`: tag -> value, as it stands."""
    group = attribute.tag & 0xFFFF0000
    for block in range(0x10, 0x100):
        raw = creators.get(group | block)
        if raw is not None and raw.strip(b"\0 ").decode("latin-1") == attribute.creator:
            return group | block << 8 | attribute.tag & 0xFF
    return None


class _Items:
    """Items and elements in memory. Depth is bounded, so that recursion is."""

    def __init__(self, data: bytes, encoding: Encoding) -> None:
        self._data, self._encoding, self._size = data + bytes(12), encoding, len(data)

    def values(
        self, sequence: Place, path: Sequence[int], attribute: Attribute, charset: Charset
    ) -> Iterator[tuple[Value, ...]]:
        for item in self.items(sequence):
            elements = self._elements(item)
            own = elements.get(_CHARSET)
            using = charset if own is None else charset_of(self._data[own.at : own.end])
            if not path:
                yield self._value(elements, attribute, using)
            elif path[0] in elements:
                yield from self.values(elements[path[0]], path[1:], attribute, using)

    def items(self, sequence: Place) -> Iterator[Place]:
        """A sequence's items: where their elements lie; `vr` UN means that these are implicit (PS3.5 6.2.2)."""
        at = sequence.at
        try:
            while at < sequence.end:
                tag, _, start, length = self._header(at, explicit=False)
                if tag != _ITEM:
                    return
                end = self._item_end(start, self._explicit(sequence.vr), 0) if length == _UNDEFINED else start + length
                yield Place(sequence.vr, start, end)
                at = end + (8 if length == _UNDEFINED else 0)
        except _Cut:
            return

    def _elements(self, item: Place) -> dict[int, Place]:
        found: dict[int, Place] = {}
        at, explicit = item.at, self._explicit(item.vr)
        try:
            while at < item.end:
                tag, vr, start, length = self._header(at, explicit)
                end, at = self._extent(start, length, explicit and vr != b"UN", 0)
                found[tag] = Place(vr if explicit else b"UN", start, min(end, self._size))
        except _Cut:
            pass
        return found

    def _value(self, elements: dict[int, Place], attribute: Attribute, charset: Charset) -> tuple[Value, ...]:
        tag: int | None = attribute.tag
        if attribute.creator:
            tag = private_tag(attribute, {tag: self._data[each.at : each.end] for tag, each in elements.items()})
        place = elements.get(tag) if tag is not None else None
        if place is None:
            return ()
        if attribute.vr == "SQ":
            count = sum(1 for _ in self.items(place))
            return (items_text(count),) if count else ()
        if attribute.opaque:
            return (BINARY,) if place.end > place.at else ()
        vr = place.vr.decode("latin-1")
        stated = vr if vr != "UN" else attribute.vr or "LO"
        return decode(stated, self._data[place.at : place.end], charset, self._encoding.big)

    def _explicit(self, vr: bytes) -> bool:
        return self._encoding.explicit and vr != b"UN"

    def _extent(self, start: int, length: int, explicit: bool, depth: int) -> tuple[int, int]:
        """Where a value ends, and where the next element begins."""
        if length != _UNDEFINED:
            return start + length, start + length
        end = self._sequence_end(start, explicit, depth + 1)
        return end, end + 8

    def _sequence_end(self, at: int, explicit: bool, depth: int) -> int:
        if depth > _DEEPEST:
            raise _Cut
        while True:
            tag, _, start, length = self._header(at, explicit=False)
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise _Cut
            at = self._item_end(start, explicit, depth) + 8 if length == _UNDEFINED else start + length

    def _item_end(self, at: int, explicit: bool, depth: int) -> int:
        while True:
            tag, vr, start, length = self._header(at, explicit)
            if tag == _ITEM_END:
                return at
            _, at = self._extent(start, length, explicit and vr != b"UN", depth)

    def _header(self, at: int, explicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR, where the value begins, and its length."""
        if at + 8 > self._size:
            raise _Cut
        key, length = self._encoding.key32.unpack_from(self._data, at)
        tag = self._encoding.tag(key)
        if not explicit or tag >> 16 == 0xFFFE:
            return tag, b"", at + 8, length
        _, vr, short = self._encoding.key16.unpack_from(self._data, at)
        if vr in SHORT:
            return tag, vr, at + 8, short
        return tag, vr, at + 12, self._encoding.length.unpack_from(self._data, at + 8)[0]


def items_text(count: int) -> str:
    """What a sequence says where its value is asked for."""
    return f"{count} item{'' if count == 1 else 's'}"
