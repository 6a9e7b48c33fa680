"""What an object says of itself in words that every viewer shows: for research, made of less than all, taking another's
place."""

from __future__ import annotations

from pydicom import Dataset

RESEARCH, INCOMPLETE, REVISED = " - research use only", " (incomplete)", " (revised)"
_TAILS = (RESEARCH, INCOMPLETE, REVISED)
"""What a series description may end with, in this order."""
_LONGEST = 64
_PICTURES = ("OT", "SEG")


def say_superseding(ds: Dataset) -> None:
    """Lets whoever sees the object know that there is an older one, which it replaces."""
    ds.SeriesDescription = ending(ds.SeriesDescription, REVISED)
    _comment(ds, "Supersedes an earlier result")


def say_incomplete(ds: Dataset, missing: int) -> None:
    """Lets whoever sees the object know that it was made though images were known to be missing."""
    ds.SeriesDescription = ending(ds.SeriesDescription, INCOMPLETE)
    _comment(ds, made_without(missing))


def made_without(missing: int) -> str:
    return f"Source images missing: at least {missing}"


def ending(description: str, mark: str) -> str:
    """A series description that ends with this mark and those it had; what comes before them is shortened to fit."""
    tail = ""
    for each in reversed(_TAILS):
        if each == mark or description.endswith(each):
            description, tail = description.removesuffix(each), each + tail
    return description[: _LONGEST - len(tail)].strip() + tail


def _comment(ds: Dataset, text: str) -> None:
    said = [each for each in str(ds.get("ImageComments", "")).split("; ") if each]
    if ds.Modality in _PICTURES and text not in said:
        ds.ImageComments = "; ".join([*said, text])
