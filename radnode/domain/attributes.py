"""Names of attributes: a keyword, a path into sequences, or a private element by its creator.

    Modality
    RequestAttributesSequence.RequestedProcedureDescription
    (0019,xx10) GEMS_ACQU_01

A path names the sequences on the way, each by its keyword; the items of a sequence are not told apart. A private
element is named by its group, the last two digits of its element and its Private Creator (PS3.5 7.8.1): which block the
creator has reserved differs from file to file, so `xx` stands for it. It may end a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from pydicom.datadict import DicomDictionary, keyword_dict, keyword_for_tag, private_dictionary_VR

NUMERIC_VRS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV", "AS", "US or SS"})
DATE_VRS = frozenset({"DA", "TM", "DT"})
OPAQUE_VRS = frozenset(
    {"SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN", "NONE", "OB or OW", "US or OW", "US or SS or OW"}
)
"""What these hold is no value to compare: such attributes are there or not."""

_PRIVATE = re.compile(r"\(([0-9A-Fa-f]{4}),\s?[xX]{2}([0-9A-Fa-f]{2})\)\s+(\S.{0,63})")
_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?\s?([0-9A-Fa-f]{4})\)?")
_DEEPEST = 8


@dataclass(frozen=True)
class Attribute:
    """Where an attribute is found.

    Attributes:
        sequences: keywords of the sequences it lies in, from the outside in.
        tag: of a private one group and the last two digits of the element, `0x00190010`.
        vr: as PS3.6 has it, or pydicom's list of private elements; empty where nobody knows.
        creator: its Private Creator; empty for an attribute of the standard.
    """

    sequences: tuple[str, ...]
    tag: int
    vr: str
    creator: str = ""

    @property
    def opaque(self) -> bool:
        return self.vr in OPAQUE_VRS


class UnknownAttributeError(ValueError):
    """No attribute has that name. `keyword` is the part that is not known, empty where it is not that."""

    def __init__(self, message: str, keyword: str = "") -> None:
        super().__init__(message)
        self.keyword = keyword


@lru_cache(maxsize=4096)
def attribute_of(name: str) -> Attribute:
    """What a name stands for. Raises UnknownAttributeError."""
    *sequences, last = _split(name)
    for each in sequences:
        if _entry(each)[1] != "SQ":
            raise UnknownAttributeError(f"{each} is no sequence: nothing lies in it")
    if len(sequences) > _DEEPEST:
        raise UnknownAttributeError(f"a path of more than {_DEEPEST} sequences")
    if private := _PRIVATE.fullmatch(last):
        return _private(tuple(sequences), private)
    tag, vr = _entry(last)
    if sequences and tag >> 16 == 2:
        raise UnknownAttributeError(f"{last} is part of the File Meta, not of a sequence")
    return Attribute(tuple(sequences), tag, vr)


def is_attribute(name: str) -> bool:
    try:
        attribute_of(name)
    except UnknownAttributeError:
        return False
    return True


def root_of(name: str) -> str:
    """The keyword a path begins with: the name itself where it is none."""
    return _split(name)[0]


def _split(name: str) -> list[str]:
    """A private creator may hold dots, so what comes after the first bracket is not split."""
    plain, bracket, rest = name.partition("(")
    parts = plain.split(".")
    return [*parts[:-1], parts[-1] + bracket + rest]


def _entry(keyword: str) -> tuple[int, str]:
    tag = keyword_dict.get(keyword)
    if tag is None:
        raise UnknownAttributeError(f"{keyword!r} is no DICOM keyword{_by_keyword(keyword)}", keyword)
    if tag >> 16 == 0:
        raise UnknownAttributeError(f"{keyword} is part of a message, not of a file")
    return tag, DicomDictionary[tag][0]


def _by_keyword(text: str) -> str:
    found = _TAG.fullmatch(text)
    keyword = keyword_for_tag(int(found[1] + found[2], 16)) if found else ""
    if keyword:
        return f": write {keyword}"
    return ": a private element is written (0019,xx10) GEMS_ACQU_01" if found or text.startswith("(") else ""


def _private(sequences: tuple[str, ...], found: re.Match[str]) -> Attribute:
    group, element, creator = int(found[1], 16), int(found[2], 16), found[3].strip()
    if group % 2 == 0 or group < 9:
        raise UnknownAttributeError(f"group {group:04X} is not private: private groups are odd, from 0009 on")
    tag = group << 16 | element
    try:
        vr = private_dictionary_VR(tag | 0x1000, creator)
    except KeyError:
        vr = "UN"
    if vr in OPAQUE_VRS and vr != "UN":
        raise UnknownAttributeError(f"{found[0]} holds no value to compare (VR {vr})")
    vr = "" if vr == "UN" else vr
    return Attribute(sequences, tag, vr, creator)
