"""Whose study it is: results against what a destination says of the same study by now."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import starmap, zip_longest

COMPARED = ("PatientID", "PatientName", "AccessionNumber")
_WITH_THEM = ("IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
KNOWN = (*COMPARED, *_WITH_THEM)
"""What a destination is asked of a study."""


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[str, ...]:
    """Keywords in which the two differ. What the other side leaves empty, or could not write, says nothing."""
    return tuple(each for each in COMPARED if _differ(each, ours.get(each, ""), theirs.get(each, "")))


def corrections(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """What results have to say so that they are those of the study as the other side knows it."""
    wrong = differing(ours, theirs)
    better = {each: theirs[each] for each in wrong} | {each: theirs[each] for each in _WITH_THEM if theirs.get(each)}
    if "PatientID" in wrong:
        better.setdefault("IssuerOfPatientID", "")  # ours was of the other ID
    return better


def _differ(keyword: str, ours: str, theirs: str) -> bool:
    if keyword != "PatientName":
        return bool(theirs.strip()) and ours.strip() != theirs.strip()
    if "?" in theirs or "\N{REPLACEMENT CHARACTER}" in theirs:  # its character set lacks some of the name
        return False
    parts = zip_longest(_parts(ours), _parts(theirs), fillvalue="")
    return any(_parts(theirs)) and not all(starmap(_is_same_or_lacks_letters, parts))


def _parts(name: str) -> list[str]:
    """Of the alphabetic representation of a person's name; case, spaces and trailing carets carry no meaning (PS3.5
    6.2.1)."""
    return ["".join(part.split()) for part in name.partition("=")[0].casefold().split("^")]


def _is_same_or_lacks_letters(ours: str, theirs: str) -> bool:
    """Whether theirs is ours, or what is left of it: some peers leave out the letters that their character set lacks.

    (Orthanc does so, which knows western European ones unless it is told otherwise.)
    """
    found = 0
    for letter in ours:
        if theirs[found : found + 1] == letter:
            found += 1
        elif letter.isascii():
            return False
    return found == len(theirs)
