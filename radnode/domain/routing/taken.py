"""Which series of a study an app takes as input: a note or a picture somebody made of it later is no late image."""

from __future__ import annotations

from radnode.domain.routing.rules import Rule
from radnode.domain.study import Series

_ABOUT_IMAGES = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.11",  # Presentation States
    "1.2.840.10008.5.1.4.1.1.88",  # Structured Reports, among them dose reports and Key Object Selections
    "1.2.840.10008.5.1.4.1.1.104",  # Encapsulated documents
)
"""Roots of storage classes (PS3.4 B.5) whose objects say something about images, and are made after them."""
_MODALITIES = frozenset({"SR", "KO", "PR", "DOC", "OT", "SC"})


def takes(rule: Rule, series: Series) -> bool:
    """Whether a study rule that has chosen this series wants it as input.

    Captures, presentation states, reports and documents are left out, unless the rule asks for such things: by a
    condition on SOPClassUID, or by one on Modality that names theirs.
    """
    class_uid = series.first.SOPClassUID
    if not any(class_uid == root or class_uid.startswith(f"{root}.") for root in _ABOUT_IMAGES):
        return True
    asked_for = {each.keyword for each in rule.when if not each.forbids}
    return "SOPClassUID" in asked_for or ("Modality" in asked_for and series.first.text("Modality") in _MODALITIES)
