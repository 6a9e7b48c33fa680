"""A whole node whose ledger is PostgreSQL: the same road, also when a worker or the database server is killed on it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from radnode.testing.sink import SinkPacs
from tests.databases import Postgres
from tests.peers import Node, kill_at_once, until
from tests.road import QUICK, destinations, events, job_in, push, settled, small_ct, study, uids

pytestmark = pytest.mark.timeout(300)  # every test starts a whole node, some twice

StartNode = Callable[..., Node]


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server of this test's own, which it may kill."""
    own = Postgres()
    yield own
    own.remove()


def routing(sink: SinkPacs, sleep: float = 0) -> str:
    rule = f"{{name: wiring, app: test, options: {{sleep: {sleep}}}, send_to: [a]}}"
    return destinations(a=sink) + QUICK + f"rules: [{rule}]\n"


def kill(node: Node, *words: str) -> None:
    """SIGKILL to the node's processes whose command line has all these words: a worker, and what it has forked."""

    def meant(pid: int) -> bool:
        return set(words) <= set(Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0"))

    kill_at_once([pid for pid in node.pids() if meant(pid)])


def test_a_study_takes_its_road_and_its_results_arrive_once(
    start_node: StartNode, postgres: Postgres, sink: SinkPacs, tmp_path: Path
) -> None:
    node = start_node(routing(sink), env={"DATABASE_URL": postgres.create()})
    files = small_ct(tmp_path / "study", 5001, localizer=True)
    uid = push(node, files)
    found = settled(node, uid)
    assert sorted(sink.uids) == sorted(set(sink.uids))
    assert len(sink.uids) == sum(each["stored"] for each in found["deliveries"]) == 2 * len(found["series"])
    assert len(events(found, "received")) == 2
    assert not list(node.home.glob("*.sqlite*"))
    push(node, files)
    until(lambda: study(node, uid)["state"] == "receiving", "the study has been opened again")
    again = settled(node, uid)
    assert [each["id"] for each in again["jobs"]] == [each["id"] for each in found["jobs"]]
    assert len(sink.uids) == 4


def test_a_worker_killed_at_work_is_replaced_and_the_results_arrive_once(
    start_node: StartNode, postgres: Postgres, sink: SinkPacs, tmp_path: Path
) -> None:
    node = start_node(routing(sink, sleep=3), env={"DATABASE_URL": postgres.create()})
    uid = push(node, small_ct(tmp_path / "study", 5002))
    job_in(node, uid, "running")
    kill(node, "work", "cpu,gpu")
    found = settled(node, uid)
    (job,) = found["jobs"]
    assert (job["state"], job["attempt"], job["crashes"]) == ("done", 2, 0)
    assert len(events(found, "worker lost")) == 1
    assert len(sink.uids) == len(set(sink.uids)) == 2


def test_a_node_killed_whole_goes_on_where_it_was(
    start_node: StartNode, postgres: Postgres, sink: SinkPacs, tmp_path: Path
) -> None:
    node = start_node(routing(sink, sleep=2), env={"DATABASE_URL": postgres.create()})
    first = push(node, small_ct(tmp_path / "first", 5003))
    job_in(node, first, "running")
    second = push(node, small_ct(tmp_path / "second", 5004))
    node.kill()
    node.start()
    for uid in (first, second):
        settled(node, uid)
    assert len(sink.uids) == len(set(sink.uids)) == 4


def test_while_the_database_server_is_away_the_node_receives_and_afterwards_goes_on(
    start_node: StartNode, server: Postgres, sink: SinkPacs, tmp_path: Path
) -> None:
    node = start_node(routing(sink, sleep=3), env={"DATABASE_URL": server.create()})
    first = push(node, small_ct(tmp_path / "first", 5005))
    job_in(node, first, "running")
    server.stop(signal.SIGQUIT)
    files = small_ct(tmp_path / "second", 5006)
    second = push(node, files)
    until(lambda: node.get("/readyz")[0] == 503, "the node says that it is not ready")
    until(lambda: "ledger unavailable" in node.output(), "the log says why")
    server.start()
    for uid in (first, second):
        settled(node, uid)
    until(node.ready, "the node is ready again")
    assert len(sink.uids) == len(set(sink.uids)) == 4
    stored = study(node, second)["series"][0]["instances"]
    assert stored == len(uids(files))
