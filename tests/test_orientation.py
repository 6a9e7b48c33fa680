"""The letters at the edges of a picture."""

from __future__ import annotations

import pytest

from radnode.domain.orientation import opposite, orientation_of


@pytest.mark.parametrize(
    ("cosines", "letters"),
    [
        ((1, 0, 0, 0, 1, 0), ("L", "P")),
        ((-1, 0, 0, 0, 1, 0), ("R", "P")),
        ((1, 0, 0, 0, 0, -1), ("L", "F")),
        ((0, 1, 0, 0, 0, -1), ("P", "F")),
        ((1.0, 0, 0, 0, 0.948, -0.317), ("L", "PF")),
        ((1.0, 0.05, 0, -0.05, 0.999, 0), ("L", "P")),
        ((0.6, 0.8, 0, 0, 0, 1), ("PL", "H")),
    ],
)
def test_the_letters_follow_from_the_orientation(cosines: tuple[float, ...], letters: tuple[str, str]) -> None:
    assert orientation_of(cosines, ("A", "F")) == letters


def test_what_a_radiograph_states_counts_and_nothing_is_made_up() -> None:
    assert orientation_of((), ("P", "F")) == ("P", "F")
    assert orientation_of(("x",) * 6, ()) == ("", "")
    assert orientation_of((1.0, 0.0), ("L",)) == ("", "")


def test_what_stands_opposite() -> None:
    assert [opposite(each) for each in ("L", "PF", "AHR", "", "?")] == ["R", "AH", "PFL", "", ""]
