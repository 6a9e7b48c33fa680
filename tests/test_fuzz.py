"""The receiver against chance: `scripts/fuzz_receiver.py` with fewer cases, and what it or its like has found."""

from __future__ import annotations

import struct

import pytest

from scripts.fuzz_receiver import bench, case, fuzz
from tests.receiving import CT, item, request

SLICES = 4


@pytest.mark.parametrize("part", range(SLICES))
def test_associations_that_are_wrong_by_chance_are_survived_and_leave_nothing(part: int) -> None:
    cases = 750
    report = fuzz(range(part * cases, (part + 1) * cases), seed=2026)
    assert report.cases == cases
    assert {"accepted", "rejected", "response", "released", "aborted", "nothing"} <= set(report.answers)


def test_a_case_is_the_same_whenever_it_is_said() -> None:
    assert [case(7, number) for number in range(50)] == [case(7, number) for number in range(50)]


def test_roles_padded_to_the_end_of_their_item_cost_no_slot() -> None:
    """Their answer, with what else belongs into it, would be longer than an item can be."""

    def role(padding: int) -> bytes:
        return item(0x54, struct.pack(">H", len(CT) + padding) + CT.encode() + b"\0" * padding + b"\1\0")

    first = role(40_000)
    padded = first + role(65_510 - len(first) - len(role(0)))
    with bench() as node:
        answer = node.say(request(user=padded))
        assert node.judge(answer) == ["accepted", "aborted"]
        assert answer.count(CT.encode()) == 1
