"""The kinds of values `routing.yaml` knows: each function reads one from its node or raises Refused."""

from __future__ import annotations

import ipaddress
import re
from datetime import time

import yaml

from radnode.domain.routing.hours import Hours
from radnode.domain.routing.matching import number_of
from radnode.domain.routing.nodes import Refused, line_of, quoted, text_of

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h|d)\s*")
_MAX_DURATION = 366 * 86400.0
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?([eE][+-]?[0-9]{1,2})?")
_HOURS = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\s*-\s*([01]?[0-9]|2[0-3]|24):([0-5][0-9])")
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?")
_DATE = r"([0-9]{4})(?:-?(0[1-9]|1[0-2])(?:-?(0[1-9]|[12][0-9]|3[01]))?)?"
_TIME = r"([01][0-9]|2[0-3])(?::?([0-5][0-9])(?::?([0-5][0-9]))?)?"
_MOMENTS = {"DA": re.compile(_DATE), "TM": re.compile(_TIME), "DT": re.compile(f"{_DATE}(?:[T ]?{_TIME})?")}
_MOMENT_NAMES = {"DA": "date", "TM": "time", "DT": "date and time"}
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_MAX_SERIES_NUMBER = 2**31 - 1  # PS3.5 6.2, VR IS


def duration(node: yaml.Node) -> float:
    """Seconds, from `60s`, `5m`, `1h 30m`, `12h`, `2d`."""
    text = text_of(node)
    parts = _DURATION_PART.findall(text)
    if not parts or _DURATION_PART.sub("", text):
        hint = f"; {text} of what? write {text}s or {text}m" if text.isdecimal() else "; write 60s, 5m or 1h 30m"
        raise Refused(line_of(node), f"{quoted(text)} is no duration{hint}")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 < seconds <= _MAX_DURATION:
        raise Refused(line_of(node), f"{quoted(text)}: a duration is more than 0 and at most 366 days")
    return seconds


def hours(node: yaml.Node) -> Hours:
    """A part of the day, from `22:00-06:00`."""
    text = text_of(node)
    found = _HOURS.fullmatch(text)
    if not found or (found[3] == "24" and found[4] != "00"):
        raise Refused(line_of(node), f"{quoted(text)} is no part of the day; write 22:00-06:00")
    start, end = time(int(found[1]), int(found[2])), time(int(found[3]) % 24, int(found[4]))
    if start == end:
        raise Refused(line_of(node), f"{quoted(text)} starts when it ends; leave run_between out for the whole day")
    return Hours(start, end)


def number(node: yaml.Node) -> float:
    text = text_of(node)
    if not _NUMBER.fullmatch(text):
        raise Refused(line_of(node), f"{quoted(text)} is no number")
    return float(text)


def age(node: yaml.Node) -> float:
    """Years, from `18`, or as DICOM writes ages: `18Y`, `6M`, `006M`."""
    years = number_of(text_of(node))
    if years is None or years < 0:
        raise Refused(line_of(node), f"{quoted(text_of(node))} is no age; write years, or 18Y, 6M, 3W or 10D")
    return years


def moment(node: yaml.Node, vr: str) -> str:
    """The digits of a date, a time, or both (VR DA, TM, DT), as far as they are given: `2026-01`, `22:30`."""
    text = text_of(node)
    found = _MOMENTS[vr].fullmatch(text)
    if not found:
        hint = {"DA": "2026-01-31", "TM": "22:30", "DT": "2026-01-31 22:30"}[vr]
        raise Refused(line_of(node), f"{quoted(text)} is no {_MOMENT_NAMES[vr]}; write {hint}")
    return "".join(filter(None, found.groups()))


def whole(node: yaml.Node, lowest: int, highest: int) -> int:
    text = text_of(node)
    if not re.fullmatch("[0-9]{1,10}", text) or not lowest <= int(text) <= highest:
        raise Refused(line_of(node), f"{quoted(text)} is no whole number from {lowest} to {highest}")
    return int(text)


def port(node: yaml.Node) -> int:
    return whole(node, 1, 65535)


def count(node: yaml.Node) -> int:
    return whole(node, 1, 1_000_000)


def series_number(node: yaml.Node) -> int:
    return whole(node, 1, _MAX_SERIES_NUMBER)


def switch(node: yaml.Node) -> bool:
    text = text_of(node).lower()
    if text not in _TRUE + _FALSE:
        raise Refused(line_of(node), f"{quoted(text)} is neither true nor false")
    return text in _TRUE


def name(node: yaml.Node) -> str:
    """A name people choose: it stands in commands, logs and metrics."""
    text = text_of(node)
    if len(text) > 64 or not text.isprintable():
        raise Refused(line_of(node), f"{quoted(text)}: a name has at most 64 printable characters")
    return text


def aet(node: yaml.Node) -> str:
    """An AE title (PS3.5 6.2, VR AE)."""
    text = text_of(node)
    if len(text) > 16 or not text.isascii() or not text.isprintable() or "\\" in text:
        raise Refused(line_of(node), f"{quoted(text)} is no AE title: at most 16 printable ASCII characters")
    return text


def host(node: yaml.Node) -> str:
    """An IP address or a host name."""
    text = text_of(node)
    if _is_address(text) or (_HOST.fullmatch(text) and not _looks_like_address(text)):
        return text
    raise Refused(line_of(node), f"{quoted(text)} is neither an IP address nor a host name")


def host_or_network(node: yaml.Node) -> str:
    """An IP address, a network such as `10.1.0.0/16`, or a host name."""
    text = text_of(node)
    if "/" not in text:
        return host(node)
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        hint = f"; did you mean {ipaddress.ip_network(text, strict=False)}?"
    except ValueError:
        hint = "; write it as 10.1.0.0/16"
    raise Refused(line_of(node), f"{quoted(text)} is no network{hint}")


def url(node: yaml.Node) -> str:
    """The base of a DICOMweb service, without a slash at its end."""
    text = text_of(node).rstrip("/")
    if len(text) > 2000 or not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", text):
        raise Refused(line_of(node), f"{quoted(text)} is no URL; write https://pacs.hospital.org/dicom-web")
    return text


def path(node: yaml.Node) -> str:
    """A file or folder, by its absolute path: the parts of a node need not have been started in one place."""
    text = text_of(node)
    if not text.startswith("/") or not text.isprintable():
        raise Refused(line_of(node), f"{quoted(text)} is no absolute path")
    return text


def mail_address(node: yaml.Node) -> str:
    text = text_of(node)
    if not re.fullmatch(r"[!-~]+@[A-Za-z0-9.-]+", text) or set(text) & set("<>,;:\\\"()[]") or text.count("@") != 1:
        raise Refused(line_of(node), f"{quoted(text)} is no mail address; write radiology@hospital.org")
    return text


def description(node: yaml.Node) -> str:
    """A SeriesDescription (PS3.5 6.2, VR LO), in ASCII so that it fits every character set."""
    text = text_of(node)
    if len(text) > 64 or not text.isascii() or not text.isprintable() or "\\" in text:
        fault = "a description has at most 64 printable ASCII characters, no backslash"
        raise Refused(line_of(node), f"{quoted(text)}: {fault}")
    return text


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _looks_like_address(text: str) -> bool:
    """Digits and dots only: a mistyped address, which no resolver should be asked for."""
    return not re.search("[A-Za-z]", text)
