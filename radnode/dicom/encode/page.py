"""Text as one page: a picture for captures, and the same as a PDF. Equal text gives equal bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from io import BytesIO
from time import gmtime

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset

from radnode.dicom.encode.sc import Picture

_WIDTH, _MARGIN, _TEXT, _TITLE, _SPACING = 1024, 48, 22, 32, 1.4
_LETTERS = 84
"""In a line of the page."""
_MOST_LINES = 60
_LONGEST_NAME = 64
_REPEATED = "Algorithm "
_EPOCH = gmtime(0)  # else the PDF would hold the time it was written at


def page(title: str, lines: Sequence[str]) -> Picture:
    """Black on white; lines keep their indentation, and are cut off below the sixtieth."""
    wrapped = [part for line in lines for part in _wrapped(line)]
    if len(wrapped) > _MOST_LINES:
        wrapped = [*wrapped[:_MOST_LINES], f"… and {len(wrapped) - _MOST_LINES} more lines"]
    step = int(_TEXT * _SPACING)
    image = Image.new("RGB", (_WIDTH, 2 * _MARGIN + 2 * _TITLE + step * len(wrapped)), "white")
    drawing = ImageDraw.Draw(image)
    drawing.text((_MARGIN, _MARGIN), title[:_LETTERS], "black", ImageFont.load_default(_TITLE))
    font = ImageFont.load_default(_TEXT)
    for number, line in enumerate(wrapped):
        indent = len(line) - len(line.lstrip())
        place = _MARGIN + indent * _TEXT // 2, _MARGIN + 2 * _TITLE + step * number
        drawing.text(place, line.lstrip(), "black", font)
    return np.asarray(image)


def as_pdf(shown: Picture) -> bytes:
    """One page that is this picture."""
    buffer = BytesIO()
    Image.fromarray(shown).save(buffer, "PDF", resolution=110, creationDate=_EPOCH, modDate=_EPOCH)
    return buffer.getvalue()


def of_report(ds: Dataset) -> tuple[str, list[str]]:
    """What a structured report says, for a page: its title, and a line for each content item (PS3.3 C.17.3).

    What every group repeats of its algorithm is said once.
    """
    lines: list[str] = []
    for each in _lines(ds, 0):
        if not (each in lines and each.strip().startswith(_REPEATED)):
            lines.append(each)
    return _meaning(ds, "ConceptNameCodeSequence") or "Report", lines


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    for each in item.get("ContentSequence") or ():
        said = _value(each)
        name = _meaning(each, "ConceptNameCodeSequence")
        if said or (each.get("ContentSequence") and name):
            yield "  " * depth + (f"{name}: {said}" if name and said else name or said)
            yield from _lines(each, depth + 1)


def _value(item: Dataset) -> str:
    match item.get("ValueType"):
        case "NUM":
            measured = (item.get("MeasuredValueSequence") or [Dataset()])[0]
            unit = (measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
            shown = "" if unit.get("CodeValue") == "1" else f" {unit.get('CodeValue', '')}"
            return f"{measured.get('NumericValue', '')}{shown}".strip()
        case "CODE":
            return _meaning(item, "ConceptCodeSequence")
        case "TEXT":
            return str(item.get("TextValue", ""))
        case "SCOORD":
            return f"{item.get('GraphicType', '')} on an image".lower()
    return ""  # identifiers and references tell a reader nothing


def _meaning(item: Dataset, keyword: str) -> str:
    return str((item.get(keyword) or [Dataset()])[0].get("CodeMeaning", ""))[:_LONGEST_NAME]


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, _LETTERS, subsequent_indent=f"{indent}  ") or [""]
