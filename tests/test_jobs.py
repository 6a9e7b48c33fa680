"""What identifies a job, and what happens after a failure: properties that hold whatever the values."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from radnode.domain import jobs
from radnode.domain.jobs import JobInput, Outcome, backoff, job_id, judge

UIDS = st.integers(1, 99).map("1.2.{}".format)
VALUES = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
OPTIONS = st.dictionaries(st.text(max_size=4), VALUES | st.lists(VALUES, max_size=2), max_size=3)
INPUTS = st.lists(
    st.builds(
        lambda name, uids: JobInput(name, name, tuple(sorted(uids)), tuple(f"{uid}.dcm" for uid in sorted(uids))),
        UIDS,
        st.sets(UIDS, min_size=1, max_size=3),
    ),
    max_size=3,
    unique_by=lambda each: each.name,
)
STATUSES = st.integers(0, 0xFFFF)


def shuffled(values: list[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(values, len(values))


@given(OPTIONS, INPUTS, st.integers())
def test_equal_work_has_one_identity_in_whatever_order_it_is_described(
    options: dict[str, Any], inputs: list[JobInput], seed: int
) -> None:
    turned = [
        JobInput(
            each.name, "another", tuple(shuffled(list(each.sop_instance_uids), seed)), ("elsewhere",) * len(each.paths)
        )
        for each in shuffled(inputs, seed)
    ]
    other = dict(shuffled(list(options.items()), seed))
    assert job_id("app", "1.0", options, inputs) == job_id("app", "1.0", other, turned)


@given(INPUTS, OPTIONS)
def test_whatever_changes_the_work_changes_the_identity(inputs: list[JobInput], options: dict[str, Any]) -> None:
    more = [*inputs, JobInput("another name", "", ("1.2.3",), ("x",))]
    variants = [
        job_id("app", "1.0", options, inputs),
        job_id("app2", "1.0", options, inputs),
        job_id("app", "1.1", options, inputs),
        job_id("app", "1.0", {**options, "an option more": 1}, inputs),
        job_id("app", "1.0", options, more),
        job_id("app", "1.0", options, inputs, revision=1),
        job_id("app", "1.0", options, inputs, predecessor="a"),
    ]
    assert len(set(variants)) == len(variants)


@given(INPUTS.filter(bool))
def test_instances_that_change_places_between_inputs_are_other_work(inputs: list[JobInput]) -> None:
    names = [each.name for each in inputs]
    turned = [
        JobInput(name, "", each.sop_instance_uids, each.paths)
        for name, each in zip([*names[1:], names[0]], inputs, strict=True)
    ]
    same = {each.name: set(each.sop_instance_uids) for each in inputs} == {
        each.name: set(each.sop_instance_uids) for each in turned
    }
    assert (job_id("app", "1", {}, inputs) == job_id("app", "1", {}, turned)) is same


@given(OPTIONS, INPUTS)
def test_an_identity_can_name_a_folder_and_a_row(options: dict[str, Any], inputs: list[JobInput]) -> None:
    identity = job_id("app", "1.0", options, inputs)
    assert len(identity) == 32
    assert set(identity) <= set("0123456789abcdef")


def test_an_identity_stays_the_same_from_release_to_release() -> None:
    given_ = JobInput("flair", "1.2", ("1.2.1", "1.2.2"), ("a", "b"))
    assert jobs.RESULT_FORMAT == 2
    assert job_id("glioma", "1.0.0", {"threshold": 0.5, "modes": ["a"]}, [given_]) == "c4f07c54570d193257e650d265267db0"


@given(STATUSES)
def test_every_status_has_one_outcome_and_only_those_of_the_standard_count_as_stored(status: int) -> None:
    stored = {0x0000, 0xB000, 0xB006, 0xB007}
    assert (judge(status) is Outcome.STORED) is (status in stored)


@given(STATUSES)
def test_only_a_lack_of_resources_or_a_processing_failure_is_tried_again(status: int) -> None:
    again = 0xA700 <= status <= 0xA7FF or status in (0x0110, 0x0213)
    assert (judge(status) is Outcome.TRANSIENT) is again


def test_a_missing_answer_is_tried_again() -> None:
    assert judge(None) is Outcome.TRANSIENT


@given(st.integers(0, 100_000))
def test_waiting_grows_with_every_failure_and_stays_below_its_cap(failures: int) -> None:
    assert 1.0 <= backoff(failures) <= backoff(failures + 1) <= 60.0


@given(st.integers(1, 30), st.floats(0.01, 10), st.floats(20, 1000))
def test_waiting_doubles_until_the_cap(failures: int, first: float, cap: float) -> None:
    assert backoff(failures + 1, first=first, cap=cap) == min(cap, 2 * backoff(failures, first=first, cap=cap))
