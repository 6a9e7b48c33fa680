"""Attributes of an image, and of each frame of an enhanced multi-frame one (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement

from radnode.dicom.values import Charset, charset_of, decode
from radnode.domain.errors import NotDicomError
from radnode.domain.study import Instance, Value

SPECIFIC_CHARACTER_SET = 0x00080005
_ITS_OWN = ("NumberOfFrames",)
"""Attributes of the whole instance that none of its frames has."""

Found = dict[str, tuple[Value, ...]]


def attributes(header: pydicom.Dataset) -> Found:
    """Keyword -> values of all standard attributes that are neither empty, sequences nor binary."""
    charset = charset_of(_bytes(header, SPECIFIC_CHARACTER_SET))
    return _decoded(header, charset, header.original_encoding[1] is False)


def frames_of(instance: Instance, header: pydicom.Dataset) -> Iterator[Instance]:
    """One Instance per frame, with the attributes of its functional groups; the instance itself where it has none.

    Raises NotDicomError where the groups are not as many as the frames.
    """
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if not per_frame:
        yield instance
        return
    count = int(instance.get("NumberOfFrames", 1))
    if len(per_frame) != count:
        raise NotDicomError(
            f"image {instance.SOPInstanceUID} has {count} frames and functional groups for {len(per_frame)}",
            remedy="the file is damaged: have it sent again",
        )
    charset = charset_of(_bytes(header, SPECIFIC_CHARACTER_SET))
    big = header.original_encoding[1] is False
    common = {key: values for key, values in instance.attributes.items() if key not in _ITS_OWN}
    for shared in header.get("SharedFunctionalGroupsSequence") or ():
        common |= _grouped(shared, charset, big)
    for number, groups in enumerate(per_frame, 1):
        yield replace(instance, attributes={**common, **_grouped(groups, charset, big)}, frame=number)


def _grouped(groups: pydicom.Dataset, charset: Charset, big: bool) -> Found:
    """What the macros of one item of the functional groups say: the first item of each sequence."""
    found: Found = {}
    for tag in groups.keys():  # noqa: SIM118 - iterating a Dataset itself would convert every element
        if not tag.is_private and groups[tag].VR == "SQ" and groups[tag].value:
            found |= _decoded(groups[tag].value[0], charset, big)
    return found


def _decoded(header: pydicom.Dataset, charset: Charset, big: bool) -> Found:
    found: Found = {}
    for tag in header.keys():  # noqa: SIM118
        raw = header.get_item(tag)
        if tag.is_private or not isinstance(raw, RawDataElement) or not raw.value:
            continue
        keyword = keyword_for_tag(tag)
        values = decode(raw.VR or dictionary_VR(tag), raw.value, charset, big) if keyword else ()
        if values:
            found[keyword] = values
    return found


def _bytes(header: pydicom.Dataset, tag: int) -> bytes:
    raw = header.get_item(tag) if tag in header else None
    return raw.value or b"" if isinstance(raw, RawDataElement) else b""
