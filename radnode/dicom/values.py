"""Bytes of an attribute -> its values. Whatever a peer wrote, this never raises: what makes no sense stays text."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from struct import Struct
from typing import Final

from pydicom.charset import convert_encodings, decode_bytes

from radnode.domain.study import Value

Charset = tuple[str, ...]
"""Python's names of the encodings that Specific Character Set (0008,0005) declares; empty: the default repertoire."""

_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_STRUCTS: Final = {
    (vr, big): Struct((">" if big else "<") + code) for vr, code in _NUMBERS.items() for big in (False, True)
}
_OF_CHARSET: Final = frozenset(["LO", "LT", "PN", "SH", "ST", "UC", "UT"])
_SINGLE: Final = frozenset(["LT", "ST", "UT", "UR"])
_TEXT: Final = _OF_CHARSET | _SINGLE | frozenset(["AE", "AS", "CS", "DA", "DT", "IS", "DS", "TM", "UI"])


def decode(vr: str, raw: bytes, charset: Charset, big: bool = False) -> tuple[Value, ...]:
    """Values of one attribute; `()` where it is empty, or of a VR that is no value to compare (OB, SQ, UN, …)."""
    if vr in _TEXT:
        return _texts(vr, raw, charset)
    if vr in _NUMBERS:
        number = _STRUCTS[vr, big]
        whole = len(raw) - len(raw) % number.size
        found = [each[0] for each in number.iter_unpack(raw[:whole])]
        return tuple([each if math.isfinite(each) else str(each) for each in found])
    if vr == "AT":
        half = _STRUCTS["US", big]
        parts = [each[0] for each in half.iter_unpack(raw[: len(raw) - len(raw) % 4])]
        return tuple(f"{group:04X}{element:04X}" for group, element in zip(parts[::2], parts[1::2], strict=True))
    return ()


def _texts(vr: str, raw: bytes, charset: Charset) -> tuple[Value, ...]:
    raw = raw.rstrip(b"\0 ")
    if not raw:
        return ()
    # PS3.5 6.1.2.3: outside LO, LT, PN, SH, ST, UC and UT only the default repertoire is allowed.
    text = _decode(raw, charset if vr in _OF_CHARSET else ())
    if "\0" in text:
        text = text.replace("\0", "")  # no database takes it
    if vr in _SINGLE:
        return (text,) if text else ()
    parts = [part.strip(" ") for part in text.split("\\")] if "\\" in text else [text.strip(" ")]
    if not any(parts):
        return ()
    convert = _CONVERTERS.get(vr)
    return tuple([convert(part) for part in parts]) if convert else tuple(parts)


def _number(kind: Callable[[str], int | float]) -> Callable[[str], Value]:
    def convert(text: str) -> Value:
        if len(text) > 64:
            return text
        try:
            value = kind(text)
        except ValueError:
            return text
        return text if "_" in text or not math.isfinite(value) else value

    return convert


def _integer(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)  # `12.0` is no IS, yet it is sent


_CONVERTERS: Final = {"IS": _number(_integer), "DS": _number(float)}


def charset_of(raw: bytes) -> Charset:
    """The encodings named by Specific Character Set; unknown names are left to the fallback."""
    names = [part.strip("\0 ") for part in raw.decode("ascii", "replace").split("\\")]
    if not any(names):
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tuple(convert_encodings(names))
        except (LookupError, ValueError):
            return ()


def _decode(raw: bytes, charset: Charset) -> str:
    if raw.isascii() and b"\x1b" not in raw:  # in every character set of DICOM, except for Shift JIS' yen and overline
        return raw.decode("ascii")
    if charset and b"\x1b" in raw:
        return _decode_escapes(raw, charset)
    for encoding in (*charset[:1], "utf-8"):
        try:
            return raw.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return raw.decode("latin-1")


def _decode_escapes(raw: bytes, charset: Charset) -> str:
    """Code extensions (ISO 2022, PS3.5 6.1.2.4): pydicom knows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return str(decode_bytes(raw, charset, {0x0A, 0x0C, 0x0D, 0x5C, 0x5E, 0x3D}))
        except (LookupError, ValueError):
            return raw.decode("latin-1")
