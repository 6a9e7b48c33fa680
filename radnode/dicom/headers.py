"""Whose is a data set, is it whole, and what do a few of its attributes say: read without decoding the rest."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from struct import Struct

from pydicom.datadict import keyword_for_tag

from radnode.dicom.elements import (
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    SHORT,
    WINDOW,
    Encoding,
    File,
    Found,
    Source,
    Walk,
    encoding_of,
    source_of,
)
from radnode.dicom.nested import BINARY, count_items, items_text, private_tag, stretch, values_inside
from radnode.dicom.places import Places
from radnode.dicom.values import Charset, charset_of, decode
from radnode.domain.attributes import Attribute, attribute_of, is_attribute
from radnode.domain.errors import NotDicomError
from radnode.domain.study import Value

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
IMPLEMENTATION_CLASS_UID = "2.25.21017648103183486158814709315952588928"
IMPLEMENTATION_VERSION_NAME = "RADNODE_0_1"
_TRANSFER_SYNTAX, _CHARSET, _PIXEL_REPRESENTATION = 0x00020010, 0x00080005, 0x00280103


@dataclass(frozen=True, slots=True)
class Head:
    """What the receiver wants to know of a data set; empty where absent or no UID.

    `flaw` says why the instance cannot be filed; it is empty for a sound one.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    flaw: str


_HEAD = (SOP_CLASS, SOP_INSTANCE, STUDY, SERIES)
_HEAD_KEYS = {each: {each.key(tag): tag for tag in _HEAD} for each in (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE)}


def examine(fd: int, start: int, size: int, transfer_syntax: str) -> Head:
    """Walks the data set of `size` bytes at `start` to its end, pixels unread. Raises NotDicomError where it is broken.

    Of a private syntax the encoding is tried out; where that fails the data set is taken as it is, with a flaw.
    """
    if not size:
        raise NotDicomError("data set is empty")
    encoding = encoding_of(transfer_syntax)
    if encoding:
        return _head(Walk(source_of(fd, start, size, transfer_syntax), encoding, _HEAD_KEYS[encoding]).run())
    for encoding in (EXPLICIT_LE, IMPLICIT_LE):
        try:
            return _head(Walk(File(fd, start, size), encoding, _HEAD_KEYS[encoding]).run())
        except NotDicomError:
            continue
    return Head("", "", "", "", f"transfer syntax {transfer_syntax} is not known")


def _head(found: Found) -> Head:
    uids, flaws = [], []
    for tag in _HEAD:
        uid = found[tag][1].rstrip(b"\0 ") if tag in found else b""
        sound = is_uid(uid)
        uids.append(uid.decode() if sound else "")
        if not sound:
            flaws.append(f"{'bad' if uid else 'no'} {keyword_for_tag(tag)}")
    return Head(uids[0], uids[1], uids[2], uids[3], ", ".join(flaws))


_UID = re.compile(rb"[0-9][0-9.]{0,63}")


def is_uid(text: bytes) -> bool:
    """At most 64 digits and dots (PS3.5 9.1). Leading zeros in a component are wrong too, but common, and harmless."""
    return _UID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Summary:
    """A Part 10 file as the spool's scan adopts it: its head, and what its File Meta says of the way it came."""

    head: Head
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_aet: str
    called_aet: str


def summarize(path: Path) -> Summary:
    """Walks a whole Part 10 file. Raises NotDicomError where it is none, cut short or broken."""
    with _part10(path) as (fd, meta, start):
        syntax = _meta_text(meta, _TRANSFER_SYNTAX)
        head = examine(fd, start, os.fstat(fd).st_size - start, syntax)
        sop_class, sop_instance = _meta_text(meta, 0x00020002), _meta_text(meta, 0x00020003)
        calling, called = _meta_text(meta, 0x00020017), _meta_text(meta, 0x00020018)
        return Summary(head, sop_class, sop_instance, syntax, calling, called)


def read_attributes(path: Path, names: Collection[str]) -> dict[str, tuple[Value, ...]]:
    """The attributes named (`domain.attributes` says how), of a Part 10 file; those absent or empty have no entry.

    Keywords of group 0002 are read from the File Meta. Of values longer than 16 KiB nothing is read, of a sequence the
    first MiB; a sequence, or binary data, only says that it is there. The data set is read only as far as the last
    attribute asked for: whether it is whole is `examine`'s question. Raises NotDicomError where the file is no Part 10
    file, or nothing in it could be read before it breaks.
    """
    wanted = _wanted(frozenset(names))
    with _part10(path) as (fd, meta, start):
        syntax = _meta_text(meta, _TRANSFER_SYNTAX)
        encoding = encoding_of(syntax) or EXPLICIT_LE
        size = os.fstat(fd).st_size - start
        walk = Walk(source_of(fd, start, size, syntax), encoding, wanted.keys[encoding], wanted.last)
        try:
            walk.run()
        except NotDicomError:
            if not walk.found:
                raise
        found = {**meta, **walk.found}
        charset = charset_of(found[_CHARSET][1]) if _CHARSET in found else ()
        attributes = _decoded(found, wanted, charset, encoding.big)
        if wanted.placed:
            places = Places(source_of(fd, start, size, syntax), encoding, wanted.placed, max(wanted.placed))
            with suppress(NotDicomError):
                places.run()
            attributes |= _placed(places, wanted, charset, source_of(fd, start, size, syntax))
        return attributes


@dataclass(frozen=True)
class _Wanted:
    names: dict[str, Attribute]
    keys: dict[Encoding, dict[int, int]]
    last: int
    placed: frozenset[int]


@lru_cache(maxsize=64)
def _wanted(names: frozenset[str]) -> _Wanted:
    attributes = {name: attribute_of(name) for name in names if is_attribute(name)}
    placed = {_top(each) for each in attributes.values() if each.sequences or (each.opaque and not each.creator)}
    tags = {_CHARSET}
    for each in attributes.values():
        if not each.sequences and _top(each) not in placed:
            tags |= _blocks(each) if each.creator else {each.tag}
    if any(each.vr == "US or SS" for each in attributes.values()):
        tags.add(_PIXEL_REPRESENTATION)
    keys = {each: {each.key(tag): tag for tag in tags} for each in (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE)}
    return _Wanted(attributes, keys, max(tags), frozenset(placed))


def _top(attribute: Attribute) -> int:
    """The tag at the top level of the data set below which an attribute lies, or its own."""
    return attribute_of(attribute.sequences[0]).tag if attribute.sequences else attribute.tag


def _blocks(private: Attribute) -> set[int]:
    """Every tag that a private element, or the creator of its block, may have."""
    group, element = private.tag & 0xFFFF0000, private.tag & 0xFF
    return {group | tag for block in range(0x10, 0x100) for tag in (block, block << 8 | element)}


def _decoded(found: Found, wanted: _Wanted, charset: Charset, big: bool) -> dict[str, tuple[Value, ...]]:
    signed = found.get(_PIXEL_REPRESENTATION, ("", b""))[1].strip(b"\0") == b"\1"
    attributes = {}
    for name, attribute in wanted.names.items():
        tag = attribute.tag
        if attribute.creator:
            tag = private_tag(attribute, {tag: raw for tag, (_, raw) in found.items()}) or 0
        if attribute.sequences or tag not in found:
            continue
        stated, raw = found[tag]
        vr = attribute.vr or "LO"
        if not stated or stated == "UN":
            stated = vr if vr != "US or SS" else ("SS" if signed else "US")
        values = decode(stated, raw, charset, big and tag >> 16 != 2)
        if values:
            attributes[name] = values
    return attributes


def _placed(places: Places, wanted: _Wanted, charset: Charset, source: Source) -> dict[str, tuple[Value, ...]]:
    """Attributes inside sequences, and those of which it only matters that they are there."""
    attributes: dict[str, tuple[Value, ...]] = {}
    for tag in sorted(places.places):  # in the order of the file: a deflated one is read forward only
        (position, end), vr = places.places[tag], places.vrs[tag]
        if position == end:
            continue
        data = stretch(source, position, end - position)
        for name, each in wanted.names.items():
            if _top(each) != tag:
                continue
            if each.sequences:
                path = [attribute_of(keyword).tag for keyword in each.sequences[1:]]
                values = values_inside(data, places.encoding, vr, path, each, charset)
            elif each.vr == "SQ":
                values = (items_text(count_items(data, places.encoding, vr)),)
            else:
                values = (BINARY,)
            if values and values != (items_text(0),):
                attributes[name] = values
    return attributes


class FileMeta:
    """What precedes the data set in a Part 10 file (PS3.10 7.1), for one sender and presentation context.

    All but the SOP Instance UID is encoded once. (0002,0016), (0002,0017) and (0002,0018) tell the way it came.
    """

    def __init__(self, sop_class: str, transfer_syntax: str, calling: str, called: str) -> None:
        self._before = _EXPLICIT_OB.pack(2, 1, b"OB", 2) + b"\0\1" + _meta_element(0x02, b"UI", sop_class)
        self._after = b"".join([
            _meta_element(0x10, b"UI", transfer_syntax),
            _meta_element(0x12, b"UI", IMPLEMENTATION_CLASS_UID),
            _meta_element(0x13, b"SH", IMPLEMENTATION_VERSION_NAME),
            _meta_element(0x16, b"AE", calling),
            _meta_element(0x17, b"AE", calling),
            _meta_element(0x18, b"AE", called),
        ])  # fmt: skip

    def encode(self, sop_instance: str) -> bytes:
        group = self._before + _meta_element(0x03, b"UI", sop_instance) + self._after
        return _PREAMBLE + _EXPLICIT_UL.pack(2, 0, b"UL", 4, len(group)) + group


_PREAMBLE = bytes(128) + b"DICM"
_EXPLICIT_OB, _EXPLICIT_UL, _EXPLICIT_TEXT = Struct("<HH2sxxL"), Struct("<HH2sHL"), Struct("<HH2sH")


def _meta_element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("latin-1")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return _EXPLICIT_TEXT.pack(2, element, vr, len(value)) + value


@contextmanager
def open_part10(path: Path) -> Iterator[tuple[int, str, int]]:
    """Descriptor, transfer syntax and the data set's offset of a Part 10 file. Raises NotDicomError."""
    with _part10(path) as (fd, meta, start):
        yield fd, _meta_text(meta, _TRANSFER_SYNTAX), start


def read_file_meta(path: Path) -> tuple[str, str, str, int]:
    """SOP Class UID, SOP Instance UID, transfer syntax and the data set's offset. Raises NotDicomError."""
    with _part10(path) as (_, meta, start):
        sop_class, sop_instance, syntax = (_meta_text(meta, tag) for tag in (0x00020002, 0x00020003, _TRANSFER_SYNTAX))
        return sop_class, sop_instance, syntax, start


@contextmanager
def _part10(path: Path) -> Iterator[tuple[int, Found, int]]:
    """Descriptor, File Meta and the data set's offset of a Part 10 file (PS3.10 7.1)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as fault:
        raise NotDicomError(f"{path} cannot be read: {fault.strerror}") from None
    try:
        head = os.pread(fd, WINDOW, 0)
        if head[128:132] != b"DICM":
            raise NotDicomError(f"{path} is no DICOM file", remedy="it has no `DICM` at byte 128 (PS3.10)")
        meta, start = _file_meta(head)
        if _TRANSFER_SYNTAX not in meta:
            raise NotDicomError(f"{path} has no transfer syntax in its File Meta", remedy="the file is damaged")
        yield fd, meta, start
    except OSError as fault:
        raise NotDicomError(f"{path} cannot be read: {fault.strerror}") from None
    finally:
        os.close(fd)


def _file_meta(head: bytes) -> tuple[Found, int]:
    """Elements of group 0002 and where they end; the group length is not trusted."""
    found: Found = {}
    at = 132
    while at + 12 <= len(head) and head[at : at + 2] == b"\2\0":
        key, vr, length = EXPLICIT_LE.key16.unpack_from(head, at)
        header = 8
        if vr not in SHORT:
            header, length = 12, EXPLICIT_LE.length.unpack_from(head, at + 8)[0]
        found[EXPLICIT_LE.tag(key)] = vr.decode("latin-1"), head[at + header : at + header + length]
        at += header + length
    return found, at


def _meta_text(meta: Found, tag: int) -> str:
    return meta[tag][1].rstrip(b"\0 ").decode("latin-1") if tag in meta else ""
