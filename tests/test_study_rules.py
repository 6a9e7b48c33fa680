"""Study rules and shadow rules on a running node: from the sender to the sink."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from radnode.testing.sink import SinkPacs
from tests.peers import Node, until
from tests.road import apply, apps_folder, destinations, events, job_in, push, settled, study, two_series, uids

pytestmark = pytest.mark.timeout(400)

NAMED = '''
"""Says which inputs it was given."""
from radnode import App, Declined, Study

class Named(App):
    name, version = "named", "1.0.0"

    def process(self, study: Study, options):
        raise Declined(", ".join(f"{name} {len(study[name])}" for name in sorted(study.inputs)))
'''
RULE = (
    "complete: {series: 1s, study: %s}\n"
    "rules: [{name: both, app: named, level: study, send_to: [], wait: %s,\n"
    "         inputs: {axial: {ImageType: AXIAL}, scout: {ImageType: LOCALIZER}}}]\n"
)
_seeds = count(7000)


@pytest.fixture
def seed() -> int:
    return next(_seeds)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("rules")
    with Node(folder / "node", "rules: []\n", apps=apps_folder(folder / "apps", named=NAMED)) as running:
        yield running
        print(running.output()[-20_000:])


def test_a_job_starts_when_its_last_input_is_complete_and_the_app_gets_them_by_name(
    node: Node, tmp_path: Path, seed: int
) -> None:
    axial, scouts = two_series(tmp_path / "study", seed)
    apply(node, RULE % ("10m", "10m"))
    uid = push(node, axial)
    until(lambda: events(study(node, uid), "complete"), "the first series is complete")
    assert study(node, uid)["jobs"] == []
    push(node, scouts)
    assert job_in(node, uid, "declined")["error"] == "axial 4, scout 2"
    assert study(node, uid)["state"] == "receiving"  # the study is not quiet yet


def test_nothing_runs_until_the_wait_for_an_input_ends_and_then_without_it_or_held(
    node: Node, tmp_path: Path, seed: int
) -> None:
    axial, scouts = two_series(tmp_path / "study", seed)
    apply(node, RULE % ("2s", "{for: 2s, then: run}"))
    uid = push(node, axial)
    assert job_in(node, uid, "declined")["error"] == "axial 4"
    assert [each["missing"] for each in events(study(node, uid), "wait over")] == ["scout"]

    apply(node, RULE % ("2s", "2s"))
    axial, scouts = two_series(tmp_path / "another", next(_seeds))
    uid = push(node, axial)
    held = job_in(node, uid, "held")
    assert held["error"] == "input scout never came"
    assert study(node, uid)["state"] == "attention"
    push(node, scouts)  # at last
    until(lambda: len(study(node, uid)["jobs"]) == 2 and settled(node, uid), "a job with everything")
    assert {each["state"]: each["error"] for each in study(node, uid)["jobs"]}["declined"] == "axial 4, scout 2"


def test_a_shadow_rules_results_are_kept_and_delivered_when_asked_for(
    node: Node, tmp_path: Path, seed: int
) -> None:
    axial, _ = two_series(tmp_path / "study", seed)
    with SinkPacs(tmp_path / "sink") as sink:
        rule = "rules: [{name: candidate, app: test, mode: shadow, send_to: [a]}]\n"
        apply(node, destinations(a=sink) + "complete: {series: 1s, study: 2s}\n" + rule)
        uid = push(node, axial)
        (job,) = settled(node, uid)["jobs"]
        made = node.json("job", job["id"])
        assert (made["state"], made["shadow"], made["deliveries"]) == ("done", True, [])
        assert made["results"]
        assert all((node.home / "spool" / each["path"]).exists() for each in made["results"])
        again = node.json("replay", "--run", job["id"])["job"]
        until(lambda: node.json("job", again)["state"] == "done", "the job ran again")
        assert node.json("job", again)["shadow"]
        assert sink.received == []
        assert node.json("promote", "candidate", "--since", "1d") == [f"job {job['id']}"]
        until(lambda: settled(node, uid)["deliveries"][0]["state"] == "delivered", "it is delivered")
        sent = sorted(each.sop_instance_uid for each in sink.received)
        assert sent == sorted(each["SOPInstanceUID"] for each in made["results"])
        assert not set(sent) & set(uids(axial))
