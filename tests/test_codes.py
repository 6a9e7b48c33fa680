"""Every coded concept that stands in the code or the docs means what it says it means."""

from __future__ import annotations

import re

import pytest
from pydicom.sr._concepts_dict import concepts

from tests.peers import REPO

CODED = re.compile(r'\("([^"]+)",\s*"(SCT|DCM|NCIt|UCUM|LN)",\s*"([^"]+)"')

ELSEWHERE = {
    ("274100004", "SCT", "Cerebral hemorrhage"),
    ("21454007", "SCT", "Subarachnoid intracranial hemorrhage"),
    ("35486000", "SCT", "Subdural intracranial hemorrhage"),
    ("82999001", "SCT", "Epidural intracranial hemorrhage"),
    ("113091000", "SCT", "Magnetic resonance imaging"),
    ("82918005", "SCT", "Positron emission tomography"),
    ("363680008", "SCT", "Radiographic imaging procedure"),
    ("{0:1}", "UCUM", "range: 0:1"),
}
"""What DICOM's own value sets, which pydicom ships, do not have: looked up in published value sets of SNOMED CT."""


def written() -> list[tuple[str, str, str]]:
    files = [path for folder in ("radnode", "apps", "docs") for path in (REPO / folder).rglob("*.[pm][yd]")]
    found = {each for path in files for each in CODED.findall(path.read_text(encoding="utf-8"))}
    assert len(found) > 25
    return sorted(found)


def meanings(value: str, scheme: str) -> set[str]:
    """What DICOM calls the code, in every value set that has it; small letters."""
    known = (each.get(value) for each in concepts[scheme].values())
    return {re.sub(r" \([a-z ]+\)$", "", meaning[0].lower()) for meaning in known if meaning}


@pytest.mark.parametrize("code", written(), ids=str)
def test_a_code_means_what_it_says(code: tuple[str, str, str]) -> None:
    value, scheme, meaning = code
    known = meanings(value, scheme)
    assert meaning.lower() in known or (not known and code in ELSEWHERE), known


def test_what_was_looked_up_elsewhere_is_used() -> None:
    assert set(written()) >= ELSEWHERE
