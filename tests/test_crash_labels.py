"""`kill -9` at every boundary between two durable steps, one test each: nothing is lost, nothing comes twice.

The labels are read from the source (`tests/crashes.py`): one that no scenario leads to fails the suite. A process dies
at every moment of a label, one after the other, while one node (or what is left of it, on the bench) goes on; then all
has to be as if it had not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from radnode.testing.sink import SinkPacs
from tests.crash_bench import Bench, Town
from tests.crash_bench_scenarios import ON_BENCH
from tests.crash_requests import ON_REQUEST
from tests.crash_scenarios import ON_ROAD
from tests.crash_stage import Stage
from tests.crashes import labels, rehearse, unlabelled

ON_NODE = {**ON_ROAD, **ON_REQUEST}
pytestmark = pytest.mark.timeout(600)


def test_every_transaction_and_every_rename_has_a_crash_label_of_its_own() -> None:
    assert unlabelled() == []
    assert len(labels()) == len(set(labels())) > 60


def test_every_crash_label_has_a_scenario_that_leads_to_it_and_none_is_left_over() -> None:
    assert sorted([*ON_NODE, *ON_BENCH]) == sorted({each.rpartition(".")[0] for each in labels()})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("crash")
    with SinkPacs(folder / "sink") as sink:
        stage = Stage(folder, sink)
        with stage.node:
            yield stage
            print(stage.node.output()[-20_000:])


@pytest.mark.parametrize("label", sorted(ON_NODE))
def test_a_process_that_dies_there_costs_nothing(stage: Stage, label: str) -> None:
    stage.rested()
    rehearse(stage, label, ON_NODE[label])


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with Town(tmp_path_factory.mktemp("town")) as around:
        yield around


@pytest.mark.parametrize("label", sorted(ON_BENCH))
def test_a_part_that_dies_there_in_company_of_others_costs_nothing(town: Town, tmp_path: Path, label: str) -> None:
    """Parts of a node as warm forks, among a real PACS and a real mail server."""
    with Bench(tmp_path, town) as bench:
        rehearse(bench, label, ON_BENCH[label])
        print(bench.output())
