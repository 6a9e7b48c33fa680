"""Where other systems lose images or do things twice: an image at the wrong moment, a broker that is gone, a clock set.

Kills of every part are in test_life.py, test_crash_labels.py and test_chaos.py, a full disk in test_full_disk.py,
destinations that vanish or refuse in test_road.py, the database server that goes away in test_postgres.py.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
import redis

from radnode import settings
from radnode.run import broker
from radnode.testing.sink import SinkPacs
from tests.clock import Clock
from tests.peers import Node, Process, until
from tests.road import (
    QUICK,
    destinations,
    push,
    settled,
    small_ct,
    study,
    study_uid,
    uids,
)
from tests.test_life import assert_once

pytestmark = pytest.mark.timeout(400)  # several starts of a node; on a busy machine each takes its time
RULES = "rules: [{name: wiring, app: test, send_to: [a]}, {name: copy, send_to: [a]}]\n"

_seeds = count(7000)

StartNode = Callable[..., Node]


def a_study(folder: Path, slices: int = 4) -> list[Path]:
    seed = next(_seeds)
    return small_ct(folder / f"study{seed}", seed, slices=slices, size=16)


# ---- an image that comes at the wrong moment -------------------------------------------------------------------------


def test_an_image_that_comes_just_as_its_series_is_completed_is_kept_and_taken_up(
    start_node: StartNode, sink: SinkPacs, tmp_path: Path
) -> None:
    """Images one by one, each about a quiet time after the one before: at every moment of a completion, in the end."""
    node = start_node(destinations(a=sink) + "complete: {series: 0.3s, study: 0.4s}\n" + RULES)
    chance = random.Random(4)
    files = a_study(tmp_path, slices=40)
    for each in files:
        push(node, [each])
        time.sleep(0.3 + chance.uniform(-0.02, 0.12))
    found = settled(node, study_uid(files))
    assert found["series"][0]["instances"] == len(files)
    assert found["series"][0]["generation"] > 3
    (whole,) = [each for each in found["jobs"] if each["rule"] == "wiring" and not each["superseded_by"]]
    assert node.json("job", whole["id"])["inputs"] == len(files)
    copies = [each for each in sink.uids if each in set(uids(files))]
    assert sorted(copies) == uids(files)  # each of them, and each once


# ---- Redis/Valkey is killed, emptied, away ---------------------------------------------------------------------------


class Valkey:
    """A server of its own, that nobody starts again but the test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        own = settings.load({"RADNODE_HOME": str(folder)}, folder / "no.env")
        own.run.mkdir()
        self.url, self._command = broker.embedded_url(own), broker.embedded_command(own)
        self.start()

    def start(self) -> None:
        self.process = Process(self._command, self._folder / "log", cwd=self._folder)
        broker.wait_until_up(self.url)

    def kill(self) -> None:
        self.process.popen.kill()
        self.process.popen.wait()

    def forget(self) -> None:
        """Starts it again without what it kept."""
        shutil.rmtree(self._folder / "valkey")
        (self._folder / "valkey").mkdir()
        self.start()

    def empty(self) -> None:
        redis.Redis.from_url(self.url).flushall()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    yield server
    server.kill()


def test_a_broker_that_is_away_emptied_or_loses_everything_loses_no_job_and_doubles_none(
    start_node: StartNode, sink: SinkPacs, valkey: Valkey, tmp_path: Path
) -> None:
    node = start_node(destinations(a=sink) + QUICK + RULES, env={"REDIS_URL": valkey.url})
    away = a_study(tmp_path)
    valkey.kill()
    push(node, away)  # received and judged without it
    until(lambda: job_states(node, away) == ["done", "waiting"], "the jobs are made")
    until(lambda: _missing(node, "cpu") > 0, "the metric shows that its ticket is missing")
    time.sleep(3)
    assert sink.received == []
    valkey.forget()
    settled(node, study_uid(away))
    until(lambda: _missing(node, "cpu") == 0, "the metric shows that all is well")
    for at in ("running", "sending"):
        files = a_study(tmp_path)
        sink.pause()
        push(node, files)
        if at == "sending":
            until(lambda f=files: "sending" in delivery_states(node, f), "it is being sent")
        valkey.empty()
        valkey.kill()
        valkey.start()
        valkey.empty()
        sink.resume()
        settled(node, study_uid(files))
    assert_once(sink, 0, 3 * (4 + 2))


def test_a_broker_that_is_full_is_said_and_all_goes_on_when_it_has_room(
    start_node: StartNode, sink: SinkPacs, valkey: Valkey, tmp_path: Path
) -> None:
    node = start_node(destinations(a=sink) + QUICK + RULES, env={"REDIS_URL": valkey.url})
    server = redis.Redis.from_url(valkey.url)
    server.config_set("maxmemory", 1)
    files = a_study(tmp_path)
    push(node, files)
    until(lambda: "maxmemory" in node.get("/readyz")[1], "the node says what hinders it")
    assert node.get("/readyz")[0] == 503
    server.config_set("maxmemory", 0)
    settled(node, study_uid(files))
    until(node.ready, "all is well")
    assert_once(sink, 0, 4 + 2)


def job_states(node: Node, files: list[Path]) -> list[str]:
    return sorted(each["state"] for each in study(node, study_uid(files))["jobs"])


def delivery_states(node: Node, files: list[Path]) -> list[str]:
    return [each["state"] for each in study(node, study_uid(files))["deliveries"]]


def _missing(node: Node, queue: str) -> float:
    lines = node.get("/metrics")[1].splitlines()
    (value,) = [each.split()[-1] for each in lines if each.startswith(f'radnode_tickets_missing{{queue="{queue}"}}')]
    return float(value)


# ---- the clock is set ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_by_an_hour_completes_nothing_early_and_holds_nothing_up(
    start_node: StartNode, sink: SinkPacs, tmp_path: Path, hours: int
) -> None:
    """Set as a series comes in, as its delivery waits to be tried again, and set right again after everything died."""
    clock = Clock(tmp_path / "clock")
    quiet = "complete: {series: 12s, study: 13s}\n"  # longer than a node takes to be ready after its first receiver
    rules = destinations(a=sink) + quiet + RULES.replace("copy,", "copy, expire: 3h,")
    node = start_node(rules, env=clock.env)
    files = a_study(tmp_path)
    sink.stop()
    push(node, files[:2])
    clock.step(3600.0 * hours)
    time.sleep(2)
    assert study(node, study_uid(files))["series"][0]["state"] == "receiving"
    push(node, files[2:])
    until(lambda: any(each["attempt"] > 1 for each in _deliveries(node, files)), "delivering was tried in vain")
    clock.step(3600.0 * hours)
    sink.start()
    found = settled(node, study_uid(files))
    assert len(found["jobs"]) == 2
    assert_once(sink, 0, len(files) + 2)
    second = a_study(tmp_path)
    push(node, second[:2])
    node.kill()
    clock.step(-7200.0 * hours)
    node.start()
    push(node, second[2:])
    found = settled(node, study_uid(second))
    assert found["series"][0]["instances"] == len(second)
    assert job_in_rule(node, second, "wiring") == len(second)
    assert_once(sink, len(files) + 2, len(second) + 2)


def test_a_job_starts_when_its_hours_begin_by_the_clock_on_the_wall_however_often_it_is_set(
    start_node: StartNode, sink: SinkPacs, tmp_path: Path
) -> None:
    """Set past the hours as well, into the next day's, with everything killed in between."""
    clock, now = Clock(tmp_path / "clock"), datetime.now(UTC)
    hours = f"{now + timedelta(hours=2):%H}:00-{now + timedelta(hours=4):%H}:00"
    rule = f"rules: [{{name: night, app: test, when: {{Modality: CT}}, send_to: [a], run_between: '{hours}'}}]\n"
    node = start_node(destinations(a=sink) + QUICK + rule, env={**clock.env, "RADNODE_TZ": "UTC"})
    files = a_study(tmp_path)
    push(node, files)
    until(lambda: study(node, study_uid(files))["jobs"], "a job was made")
    clock.step(6 * 3600.0)
    time.sleep(3)
    (job,) = study(node, study_uid(files))["jobs"]
    assert (job["state"], job["attempt"], job["waits_for_hours"]) == ("waiting", 0, True)
    assert f"waits for its hours, {hours} UTC" in node.cli("job", job["id"])
    node.kill()
    clock.step(21 * 3600.0)
    node.start()
    assert settled(node, study_uid(files))["jobs"][0]["state"] == "done"


def _deliveries(node: Node, files: list[Path]) -> list[dict[str, object]]:
    found = study(node, study_uid(files))["deliveries"]
    return found if len(found) == 2 else [{"attempt": 0}]


def job_in_rule(node: Node, files: list[Path], rule: str) -> int:
    """How many instances the only job of a rule took."""
    (job,) = [each for each in study(node, study_uid(files))["jobs"] if each["rule"] == rule]
    return int(node.json("job", job["id"])["inputs"])
