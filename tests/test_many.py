"""Many and large, on a running node: memory stays flat. `scripts/bench memory` shows the real sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bench_memory import (
    MIB,
    associations_at_once,
    completed,
    large_object,
    peak,
    running,
    small_instances,
)
from tests.peers import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp("many")) as node:
        yield node


def test_a_hundred_associations_at_once_cost_a_receiver_a_buffer_each(node: Node) -> None:
    before = peak(node, "receivers")
    associations_at_once(node, 100)
    assert peak(node, "receivers") - before < 60


def test_an_object_of_400_mib_goes_through_in_flat_memory(node: Node) -> None:
    before = peak(node, "receivers"), peak(node, "core")
    large_object(node, 400 * MIB)
    stored = max(each.stat().st_size for each in Path(node.home / "spool").rglob("*.dcm"))
    assert stored > 400 * MIB
    assert peak(node, "receivers") - before[0] < 8
    assert peak(node, "core") - before[1] < 8


def test_a_series_of_4000_instances_is_completed_whole(node: Node) -> None:
    before = peak(node, "receivers"), peak(node, "core")
    uid, _ = small_instances(node, 4000)
    completed(node, uid, 4000)
    assert peak(node, "receivers") - before[0] < 30
    assert peak(node, "core") - before[1] < 120
