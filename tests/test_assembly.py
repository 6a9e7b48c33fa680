"""When a series is all here: the decision alone, from what its instances say and what is known around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radnode.domain.assembly import (
    Assembly,
    Assessment,
    Carrier,
    Inventory,
    Situation,
    Times,
    Verdict,
    assemble,
    judge,
    released,
)
from radnode.domain.study import Instance

TIMES = Times(quiet=60, released=None, give_up=600)
ONE = (Carrier("released", 28, 0, 10),)
TWENTY_EIGHT = Assembly(frozenset(str(number) for number in range(28)))


def instance(number: int, **attributes: Any) -> Instance:
    given = {name: value if isinstance(value, tuple) else (value,) for name, value in attributes.items()}
    return Instance(Path(f"{number}.dcm"), {"SOPInstanceUID": (f"1.2.{number}",), **given})


def slices(*places: float, **attributes: Any) -> list[Instance]:
    """Axial slices at these places, in mm."""
    return [
        instance(
            number,
            ImageOrientationPatient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            ImagePositionPatient=(-100.0, -100.0, place),
            **attributes,
        )
        for number, place in enumerate(places)
    ]


def after(quiet: float, **known: Any) -> Situation:
    return Situation(quiet, **known)


def has(*numbers: int, fresh: bool = True) -> tuple[Inventory, ...]:
    """What a PACS says it has."""
    return (Inventory("pacs", len(numbers), frozenset(map(str, numbers)), fresh),)


def verdict(here: Assembly, now: Situation, times: Times = TIMES) -> tuple[Verdict, bool]:
    found = judge(here, now, times)
    return found.verdict, found.done


def test_without_evidence_exactly_the_quiet_time_decides() -> None:
    assert verdict(TWENTY_EIGHT, after(59.999)) == (Verdict.RECEIVING, False)
    assert verdict(TWENTY_EIGHT, after(60)) == (Verdict.PRESUMED, True)


def test_a_count_that_all_instances_state_and_is_reached_proves_it_at_once() -> None:
    three = assemble(instance(number, NumberOfSeriesRelatedInstances=3) for number in range(3))
    assert verdict(three, after(0)) == (Verdict.PROVEN, True)
    two = assemble(instance(number, NumberOfSeriesRelatedInstances=3) for number in range(2))
    assert verdict(two, after(59)) == (Verdict.RECEIVING, False)
    found = judge(two, after(60), TIMES)
    assert found == Assessment(Verdict.INCOMPLETE, False, "NumberOfSeriesRelatedInstances is 3, 1 not here", 1)
    assert judge(two, after(600), TIMES).done


@pytest.mark.parametrize("stated", [(1, 2, 3), (2, 2, 2), (0, 0, 0), ("x", "y", "z")])
def test_counts_that_differ_or_cannot_be_prove_nothing_and_miss_nothing(stated: tuple[Any, ...]) -> None:
    here = assemble(instance(number, NumberOfSeriesRelatedInstances=count) for number, count in enumerate(stated))
    assert verdict(here, after(1, idle=5, carriers=ONE)) == (Verdict.RECEIVING, False)
    assert verdict(here, after(60, idle=5, carriers=ONE)) == (Verdict.PRESUMED, True)


def test_a_pacs_that_has_the_same_proves_it_once_the_sender_has_gone() -> None:
    same = has(*range(28))
    assert verdict(TWENTY_EIGHT, after(1, inventories=same, idle=0.5, carriers=ONE)) == (Verdict.PROVEN, True)
    assert verdict(TWENTY_EIGHT, after(1, inventories=same, idle=None, carriers=ONE)) == (Verdict.RECEIVING, False)
    stale = has(*range(28), fresh=False)
    assert verdict(TWENTY_EIGHT, after(1, inventories=stale, idle=0.5, carriers=ONE)) == (Verdict.RECEIVING, False)


def test_what_a_pacs_has_more_is_missing_and_what_it_has_less_says_nothing() -> None:
    more, less = has(*range(30)), has(*range(20))
    assert verdict(TWENTY_EIGHT, after(1, inventories=more, idle=5, carriers=ONE)) == (Verdict.RECEIVING, False)
    found = judge(TWENTY_EIGHT, after(60, inventories=more), TIMES)
    assert (found.verdict, found.done, found.missing) == (Verdict.INCOMPLETE, False, 2)
    assert verdict(TWENTY_EIGHT, after(60, inventories=less)) == (Verdict.PRESUMED, True)
    assert verdict(TWENTY_EIGHT, after(60, inventories=has())) == (Verdict.PRESUMED, True)


def test_once_what_was_missing_has_come_the_same_number_is_proof_enough() -> None:
    now = after(0.5, inventories=has(*range(28)), carriers=(*ONE, Carrier("released", 1, 20, 21)), lacked=True)
    assert verdict(TWENTY_EIGHT, now) == (Verdict.PROVEN, True)


def test_a_released_association_counts_where_that_is_said_and_after_the_grace() -> None:
    times = Times(quiet=60, released=2)
    assert verdict(TWENTY_EIGHT, after(3, idle=2.5, carriers=ONE)) == (Verdict.RECEIVING, False)
    assert verdict(TWENTY_EIGHT, after(3, idle=2.5, carriers=ONE), times) == (Verdict.PROVEN, True)
    assert verdict(TWENTY_EIGHT, after(3, idle=1.5, carriers=ONE), times) == (Verdict.RECEIVING, False)
    assert verdict(TWENTY_EIGHT, after(3, idle=None, carriers=ONE), times) == (Verdict.RECEIVING, False)
    known = after(3, idle=2.5, carriers=ONE, inventories=has(*range(29)))
    assert verdict(TWENTY_EIGHT, known, times) == (Verdict.RECEIVING, False)


@pytest.mark.parametrize(
    ("carriers", "whole"),
    [
        ([], False),
        ([Carrier("released", 28, 0, 10)], True),
        ([Carrier("", 0)], False),
        ([Carrier("aborted", 28, 0, 10)], False),
        ([Carrier("lost", 28, 0, 10)], False),
        ([Carrier("released", 1, 0, 10)], False),
        ([Carrier("released", 14, 0, 10), Carrier("released", 14, 11, 20)], False),
        ([Carrier("released", 14, 0, 10), Carrier("released", 14, 5, 20)], True),
        ([Carrier("released", 14, 0, 10), Carrier("", 0)], False),
    ],
    ids=["none", "one", "open", "aborted", "lost", "for one image", "in portions", "in parallel", "one still open"],
)
def test_how_a_sender_sends_says_whether_its_end_is_one(carriers: list[Carrier], whole: bool) -> None:
    assert released(carriers) is whole


def test_a_sender_that_opens_an_association_for_each_image_is_never_cut_off_early() -> None:
    each = tuple(Carrier("released", 1, float(number), number + 0.5) for number in range(28))
    now = after(59, idle=59, carriers=each, inventories=has(*range(28)))
    assert verdict(TWENTY_EIGHT, now, Times(quiet=60, released=1)) == (Verdict.RECEIVING, False)


def test_images_in_acquisition_count_only_where_every_acquisition_is_met_and_the_sender_has_gone() -> None:
    whole = assemble(slices(0, 5, 10, AcquisitionNumber=1, ImagesInAcquisition=3))
    gone = after(1, idle=0.5, carriers=ONE)
    assert verdict(whole, gone) == (Verdict.PROVEN, True)
    assert verdict(whole, after(1, idle=None, carriers=ONE)) == (Verdict.RECEIVING, False)
    shared = assemble(slices(0, 5, AcquisitionNumber=1, ImagesInAcquisition=3))
    assert verdict(shared, gone) == (Verdict.RECEIVING, False)
    assert verdict(shared, after(60)) == (Verdict.PRESUMED, True)


def test_a_gap_between_slices_takes_the_proof_out_of_a_release_and_is_said() -> None:
    assert assemble(slices(*range(0, 50, 5))).gaps == 0
    holed = assemble(slices(0, 5, 10, 20, 25))
    assert holed.gaps == 1
    assert verdict(holed, after(3, idle=3, carriers=ONE), Times(60, released=2)) == (Verdict.RECEIVING, False)
    found = judge(holed, after(60), TIMES)
    assert (found.verdict, found.evidence) == (Verdict.PRESUMED, "quiet for 60 s, slices uneven in 1 places")


@pytest.mark.parametrize("position", [(), (1.0,), ("a", "b", "c"), (float("nan"),) * 3, (1e308, 1e308, 1e308)])
def test_positions_that_are_none_do_no_harm(position: tuple[Any, ...]) -> None:
    odd = [
        instance(number, ImagePositionPatient=position, ImageOrientationPatient=(1e308, 1.0, 0.0, 0.0, 1e308, 0.0))
        for number in range(3)
    ]
    assert assemble([*odd, *slices(0, 5)]).gaps == 0


values = st.fixed_dictionaries(
    {},
    optional={
        "NumberOfSeriesRelatedInstances": st.integers(0, 6),
        "ImagesInAcquisition": st.integers(0, 6),
        "AcquisitionNumber": st.integers(0, 2),
        "ImagePositionPatient": st.tuples(*[st.sampled_from([0.0, 5.0, 10.0, 20.0])] * 3),
        "ImageOrientationPatient": st.just((1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    },
)


@given(st.lists(values, max_size=6), st.data())
def test_assembly_does_not_depend_on_the_order_or_the_repetition_of_instances(
    stated: list[dict[str, Any]], data: st.DataObject
) -> None:
    instances = [instance(number, **each) for number, each in enumerate(stated)]
    again = data.draw(
        st.permutations(instances + data.draw(st.lists(st.sampled_from(instances)) if instances else st.just([])))
    )
    assert assemble(again) == assemble(instances)


@given(
    st.floats(0, 700),
    st.none() | st.floats(0, 10),
    st.sampled_from([(), ONE, (Carrier(""),)]),
    st.sampled_from([(), has(*range(28)), has(*range(29)), has(1)]),
    st.booleans(),
    st.none() | st.floats(0.1, 5),
)
def test_what_is_done_stays_done_while_time_only_passes(
    quiet: float, idle: float | None, carriers: Any, inventories: Any, lacked: bool, grace: float | None
) -> None:
    times = Times(60, grace, 600)
    before = judge(TWENTY_EIGHT, Situation(quiet, idle, carriers, inventories, lacked), times)
    later = None if idle is None else idle + 1
    then = judge(TWENTY_EIGHT, Situation(quiet + 1, later, carriers, inventories, lacked), times)
    assert then.done >= before.done
    assert judge(TWENTY_EIGHT, Situation(600, idle, carriers, inventories, lacked), times).done
