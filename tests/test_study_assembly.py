"""When a study is all here: what its headers and peers say, against what has come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radnode.domain.assembly import Times, Verdict
from radnode.domain.study import Instance, Series
from radnode.domain.study_assembly import (
    COUNT,
    SERIES,
    StudyAssembly,
    StudyInventory,
    StudySituation,
    assemble_study,
    judge_study,
)

TIMES = Times(quiet=300, give_up=600)
TWO = StudyAssembly(2, frozenset({"1.1", "1.2", "2.1"}))
SAME = StudyInventory("pacs", 2, 3, same=True)
MORE = StudyInventory("pacs", 3, 5, {"3": {"3.1": "", "3.2": ""}})


def series(uid: str, images: int, **attributes: Any) -> Series:
    return Series(
        tuple(
            Instance(Path(), {"SOPInstanceUID": (f"{uid}.{n}",), **{key: (each,) for key, each in attributes.items()}})
            for n in range(images)
        )
    )


def verdict(here: StudyAssembly, quiet: float, *said: StudyInventory, **known: Any) -> tuple[Verdict, bool, int]:
    found = judge_study(here, StudySituation(quiet, inventories=said, **known), TIMES)
    return found.verdict, found.done, found.missing


def test_without_evidence_exactly_the_quiet_time_decides() -> None:
    assert verdict(TWO, 299.9) == (Verdict.RECEIVING, False, 0)
    assert verdict(TWO, 300) == (Verdict.PRESUMED, True, 0)


@pytest.mark.parametrize("stated", [{SERIES: 2}, {COUNT: 5}, {SERIES: 2, COUNT: 5}])
def test_a_size_that_the_images_state_proves_it_at_once_and_a_larger_one_says_what_is_missing(
    stated: dict[str, int],
) -> None:
    whole = [series("1", 3, **stated), series("2", 2, **stated)]
    assert verdict(assemble_study(whole), 0) == (Verdict.PROVEN, True, 0)
    assert verdict(assemble_study(whole, given_up=1), 0) == (Verdict.RECEIVING, False, 0)
    part = assemble_study(whole[:1])
    missing = 2 if COUNT in stated else 1
    assert verdict(part, 0) == (Verdict.RECEIVING, False, 0)
    assert verdict(part, 300) == (Verdict.INCOMPLETE, False, missing)
    assert verdict(part, 600) == (Verdict.INCOMPLETE, True, missing)


def test_a_pacs_that_has_the_same_proves_it_once_the_senders_have_gone() -> None:
    assert verdict(TWO, 1, SAME) == (Verdict.RECEIVING, False, 0)
    assert verdict(TWO, 1, SAME, idle=0.1) == (Verdict.RECEIVING, False, 0)
    assert verdict(TWO, 1, SAME, idle=0.3) == (Verdict.PROVEN, True, 0)
    assert verdict(TWO, 1, SAME, lacked=True) == (Verdict.PROVEN, True, 0)
    assert verdict(TWO, 1, replace(SAME, fresh=False), idle=9) == (Verdict.RECEIVING, False, 0)
    assert verdict(replace(TWO, given_up=1), 1, SAME, idle=9) == (Verdict.RECEIVING, False, 0)


def test_a_series_that_only_a_pacs_has_is_missing_until_it_has_come() -> None:
    assert verdict(TWO, 300, MORE, idle=9) == (Verdict.INCOMPLETE, False, 2)
    assert verdict(TWO, 600, MORE, idle=9) == (Verdict.INCOMPLETE, True, 2)
    one_more = replace(TWO, series=3, uids=TWO.uids | {"3.1"})
    assert verdict(one_more, 300, replace(MORE, fresh=False)) == (Verdict.INCOMPLETE, False, 1)
    all_of_it = replace(TWO, series=3, uids=TWO.uids | {"3.1", "3.2"})
    assert verdict(all_of_it, 300, replace(MORE, fresh=False)) == (Verdict.PRESUMED, True, 0)


@given(
    st.builds(StudyAssembly, st.integers(1, 4), st.frozensets(st.sampled_from("abcdef"), min_size=1),
              st.frozensets(st.integers(1, 5), max_size=2), st.frozensets(st.integers(1, 8), max_size=2),
              st.integers(0, 1)),
    st.lists(st.builds(StudyInventory, st.just("pacs"), st.integers(0, 3), st.integers(0, 8),
                       st.dictionaries(st.just("3"), st.dictionaries(st.sampled_from("efgh"), st.just(""))),
                       st.booleans(), st.booleans()), max_size=2),
    st.floats(0, 1000), st.floats(0, 1000),
)  # fmt: skip
def test_what_is_done_stays_done_while_time_only_passes(
    here: StudyAssembly, said: list[StudyInventory], quiet: float, more: float
) -> None:
    now = StudySituation(quiet, quiet, tuple(said))
    first = judge_study(here, now, TIMES)
    later = judge_study(here, replace(now, quiet=quiet + more, idle=quiet + more), TIMES)
    assert not first.done or later.done
    assert judge_study(here, replace(now, quiet=600.0), TIMES).done
    assert first.verdict is not Verdict.PROVEN or not first.missing
