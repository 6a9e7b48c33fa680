"""Fixtures: peers and nodes that are started for a test and ended with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from radnode.testing.sink import SinkPacs
from tests.databases import database, ledger, postgres  # noqa: F401 - fixtures
from tests.desk import desk  # noqa: F401 - a fixture
from tests.keys import keys  # noqa: F401 - a fixture
from tests.peers import Node, Orthanc


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[SinkPacs]:
    """A storage SCP that takes everything and keeps it in a folder."""
    with SinkPacs(tmp_path / "sink") as running:
        yield running


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with Orthanc(tmp_path / "orthanc") as running:
        yield running


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """`start_node(routing, **as for Node)`: as many nodes as a test needs, each in its own folder."""
    with ExitStack() as stack:
        started: list[Node] = []

        def start(routing: str, **options: object) -> Node:
            node = Node(tmp_path / f"node{len(started)}", routing, start=False, **options)  # type: ignore[arg-type]
            started.append(stack.enter_context(node))
            node.start()
            return node

        yield start
        for node in started:  # pytest shows this where the test failed
            print(f"--- {node.folder.name}\n{node.output()[-20_000:]}")
