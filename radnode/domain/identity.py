"""Whose study it is: results against what a destination says of the same study by now."""

from __future__ import annotations

from collections.abc import Mapping

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
    return bool(_name(theirs)) and _name(ours) != _name(theirs)


def _name(text: str) -> str:
    """The alphabetic representation of a person's name; case and trailing carets carry no meaning (PS3.5 6.2.1)."""
    parts = [part.strip() for part in text.partition("=")[0].split("^")]
    return "^".join(parts).rstrip("^").casefold()
