"""A running node finds out that a series is all here, or what is missing: beside a real Orthanc, and without one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.peers import Node, Orthanc, free_port, until
from tests.road import apply, events, push, small_ct, study, study_uid, two_series

pytestmark = pytest.mark.timeout(300)

NEVER = "30m"
RULES = "rules: [{name: wiring, app: test, send_to: []}]\n"
_seeds = count(8200)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("completeness") / "pacs") as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("completeness") / "node", "rules: []\n") as running:
        yield running
        print(running.output()[-20_000:])


@pytest.fixture
def slices(tmp_path: Path) -> list[Path]:
    return small_ct(tmp_path / "study", next(_seeds), slices=28)


def beside(pacs: Orthanc, node: Node, complete: str, fetch: str = "no", rules: str = RULES) -> None:
    """The node's routing: a PACS that may be asked, and these times."""
    pacs.knows("radnode", node.aet, node.port)
    place = f"{{aet: {pacs.aet}, host: 127.0.0.1, port: {pacs.port}, query: true, fetch: {fetch}}}"
    apply(node, f"destinations: {{pacs: {place}}}\ncomplete: {complete}\n{rules}")


def completed(node: Node, uid: str) -> dict[str, Any]:
    """The study, once its only series was taken as complete and its job is done."""

    def found() -> Any:
        now = study(node, uid)
        return events(now, "complete") and all(each["state"] == "done" for each in now["jobs"]) and now

    return until(found, "the series is complete", timeout=60)


def job_of(node: Node, found: dict[str, Any]) -> dict[str, Any]:
    """Its only one."""
    (job,) = found["jobs"]
    return node.json("job", job["id"])


def verdict(found: dict[str, Any]) -> tuple[str, str]:
    (said,) = events(found, "complete")
    return said["verdict"], said["evidence"]


@pytest.mark.parametrize("how", ["move", "get"])
def test_what_a_pacs_has_and_the_node_lacks_is_fetched_and_is_one_job(
    node: Node, pacs: Orthanc, slices: list[Path], how: str
) -> None:
    pacs.upload(*slices)
    # the PACS is asked again two seconds after it was last asked: the quiet time leaves its answer three times as long
    beside(pacs, node, f"{{series: 8s, study: 9s, give_up: {NEVER}}}", how)
    found = completed(node, push(node, slices[:13] + slices[14:]))
    (lacked,) = events(found, "incomplete")
    assert (lacked["missing"], lacked["evidence"]) == (1, "pacs has 28, 1 not here")
    (fetched,) = events(found, "fetched")
    assert (fetched["destination"], fetched["by"], fetched["asked"], fetched["sent"]) == ("pacs", how, 1, 1)
    assert verdict(found) == ("proven", "pacs has the same 28")
    assert found["series"][0]["generation"] == 1
    assert job_of(node, found)["inputs"] == 28


def test_a_pacs_that_has_the_same_saves_the_quiet_time(node: Node, pacs: Orthanc, slices: list[Path]) -> None:
    pacs.upload(*slices)
    beside(pacs, node, f"{{series: {NEVER}, study: {NEVER}}}")
    found = completed(node, push(node, slices))
    assert verdict(found) == ("proven", "pacs has the same 28")
    assert job_of(node, found)["inputs"] == 28


def test_what_stays_away_is_waited_for_then_given_up_and_shown(node: Node, pacs: Orthanc, slices: list[Path]) -> None:
    pacs.upload(*slices)
    beside(pacs, node, "{series: 2s, study: 3s, give_up: 6s}")
    uid = push(node, slices[1:])
    until(lambda: study(node, uid)["series"][0]["state"] == "incomplete", "it is shown as incomplete")
    assert study(node, uid)["jobs"] == []
    found = completed(node, uid)
    assert verdict(found) == ("incomplete", "pacs has 28, 1 not here")
    assert (found["state"], found["series"][0]["state"], found["series"][0]["missing"]) == (
        "incomplete",
        "incomplete",
        1,
    )
    job = job_of(node, found)
    assert job["inputs"] == 27
    results = {each["kind"]: dcmread(node.home / "spool" / each["path"]) for each in job["results"]}
    assert (results["sr"].CompletionFlag, results["sr"].CompletionFlagDescription) == (
        "PARTIAL",
        "Source images missing: at least 1",
    )
    assert all(each.SeriesDescription.endswith(" (incomplete)") for each in results.values())
    assert uid in [each["StudyInstanceUID"] for each in node.json("studies", "--attention")]
    assert 'radnode_series_verdicts_total{verdict="incomplete"} 1.0' in node.get("/metrics")[1]
    push(node, slices[:1])  # it comes in the end, and nothing lacks any more
    after = until(lambda: len(events(study(node, uid), "complete")) == 2 and study(node, uid), "it is judged again")
    assert (after["series"][0]["state"], after["series"][0]["missing"]) == ("complete", 0)


STUDY_RULES = "rules: [{name: whole, app: test, level: study, send_to: []}]\n"


def study_completed(node: Node, uid: str) -> dict[str, Any]:
    """The study, once it was taken as complete and its job is done."""

    def found() -> Any:
        now = study(node, uid)
        return events(now, "study complete") and all(each["state"] == "done" for each in now["jobs"]) and now

    return until(found, "the study is complete", timeout=60)


def test_a_series_that_a_pacs_has_and_nobody_sent_is_fetched_and_the_study_is_one_job(
    node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    """And one of which nothing is missing is proven at once, with a quiet time that never ends."""
    first, second = two_series(tmp_path / "held", next(_seeds))
    pacs.upload(*first, *second)
    beside(pacs, node, f"{{series: 2s, study: 3s, give_up: {NEVER}}}", "get", STUDY_RULES)
    found = study_completed(node, push(node, first))
    (lacked,) = events(found, "study incomplete")
    assert (lacked["missing"], lacked["evidence"]) == (
        len(second),
        f"pacs has 2 series, {len(second)} images not here",
    )
    assert [(each["asked"], each["sent"]) for each in events(found, "fetched")] == [(len(second), len(second))]
    (said,) = events(found, "study complete")
    assert (said["verdict"], said["evidence"], said["missing"]) == ("proven", "pacs has the same 2 series", 0)
    assert (found["state"], len(found["series"])) == ("done", 2)
    assert job_of(node, found)["inputs"] == len(first) + len(second)

    first, second = two_series(tmp_path / "whole", next(_seeds))
    pacs.upload(*first, *second)
    beside(pacs, node, f"{{series: {NEVER}, study: {NEVER}}}", "no", STUDY_RULES)
    found = study_completed(node, push(node, [*first, *second]))
    assert events(found, "study complete")[0]["verdict"] == "proven"
    assert job_of(node, found)["inputs"] == len(first) + len(second)
    assert 'radnode_study_verdicts_total{verdict="proven"}' in node.get("/metrics")[1]


def test_a_study_that_stays_without_a_series_is_given_up_and_shown(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    first, second = two_series(tmp_path, next(_seeds))
    pacs.upload(*first, *second)
    beside(pacs, node, "{series: 1s, study: 2s, give_up: 5s}", "no", STUDY_RULES)
    uid = push(node, first)
    until(lambda: study(node, uid)["missing"] and study(node, uid), "it is shown as incomplete")
    found = study_completed(node, uid)
    (said,) = events(found, "study complete")
    assert (said["verdict"], said["missing"], found["state"]) == ("incomplete", len(second), "incomplete")
    assert job_of(node, found)["inputs"] == len(first)
    assert uid in [each["StudyInstanceUID"] for each in node.json("studies", "--attention")]


def test_a_pacs_that_is_down_changes_nothing(node: Node, slices: list[Path]) -> None:
    place = f"{{aet: NOBODY, host: 127.0.0.1, port: {free_port()}, query: true, fetch: get}}"
    apply(node, f"destinations: {{pacs: {place}}}\ncomplete: {{series: 2s, study: 3s}}\n{RULES}")
    found = completed(node, push(node, slices))
    assert verdict(found)[0] == "presumed"
    assert 'radnode_queries_total{destination="pacs",outcome="failed"}' in node.get("/metrics")[1]


def test_counts_in_the_images_complete_a_series_and_a_study_though_quiet_time_goes_on(
    node: Node, slices: list[Path]
) -> None:
    for each in slices:
        ds = dcmread(each)
        ds.NumberOfSeriesRelatedInstances = len(slices)
        ds.NumberOfStudyRelatedSeries = 1
        ds.save_as(each)
    apply(node, f"complete: {{series: {NEVER}, study: {NEVER}}}\n{RULES}")
    found = completed(node, push(node, slices))
    assert verdict(found) == ("proven", "NumberOfSeriesRelatedInstances is 28")
    (said,) = events(study_completed(node, found["StudyInstanceUID"]), "study complete")
    assert (said["verdict"], said["evidence"]) == ("proven", "NumberOfStudyRelatedSeries is 1")


def test_what_a_declared_sender_has_released_is_complete_and_what_others_release_is_not(
    node: Node, slices: list[Path], tmp_path: Path
) -> None:
    senders = "senders: [{aet: CT1, complete: {released: 500ms}}, {host: 127.0.0.1}]\n"
    apply(node, f"{senders}complete: {{series: {NEVER}, study: {NEVER}}}\n{RULES}")
    other = push(node, small_ct(tmp_path / "other", next(_seeds)))
    found = completed(node, push(node, slices, calling_aet="CT1"))
    kind, evidence = verdict(found)
    assert (kind, evidence.split()[0]) == ("proven", "released")
    assert study(node, other)["state"] == "receiving"


def test_a_sender_that_opens_an_association_for_each_image_is_not_cut_off(node: Node, slices: list[Path]) -> None:
    apply(node, f"complete: {{series: 4s, study: 5s, released: 200ms}}\n{RULES}")
    for each in slices[:6]:
        push(node, [each])
        time.sleep(0.8)
    found = completed(node, study_uid(slices))
    assert verdict(found)[0] == "presumed"
    assert job_of(node, found)["inputs"] == 6
    assert found["series"][0]["generation"] == 1
