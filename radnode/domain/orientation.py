"""Which way a picture lies: the letters that stand at its edges (PS3.3 C.7.6.1.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

Orientation = tuple[str, str]
"""Where columns count up to, and where rows do: `("L", "P")` for an axial picture as it is usually shown."""

_ENDS = (("L", "R"), ("P", "A"), ("H", "F"))
"""Of the axes of the patient's frame, LPS: where each grows to, and where it comes from."""
_SLIGHT = 0.2
"""Share of a direction that is not worth a letter: 12 degrees."""
_OPPOSITE = {one: other for pair in _ENDS for one, other in (pair, pair[::-1])}


def orientation_of(cosines: Sequence[str | float], stated: Sequence[str | float]) -> Orientation:
    """By ImageOrientationPatient, or else as PatientOrientation states it; two empty texts where neither is known."""
    if len(cosines) == 6 and all(isinstance(each, int | float) for each in cosines):
        numbers = [float(each) for each in cosines]
        return _letters(numbers[:3]), _letters(numbers[3:])
    if len(stated) == 2:
        return str(stated[0]), str(stated[1])
    return "", ""


def opposite(letters: str) -> str:
    """What stands at the other edge."""
    return "".join(_OPPOSITE.get(each, "") for each in letters)


def _letters(direction: Sequence[float]) -> str:
    """The axis that is nearest first."""
    ends = [
        (abs(share), ends[share < 0]) for share, ends in zip(direction, _ENDS, strict=True) if abs(share) > _SLIGHT
    ]
    return "".join(letter for _, letter in sorted(ends, key=lambda each: -each[0]))
