"""A study's road through a running node: pushed, taken as complete, routed, run, delivered."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from radnode.testing.sink import SinkPacs
from tests.peers import Node, until
from tests.road import (
    QUICK,
    apply,
    apps_folder,
    delivery_in,
    destinations,
    events,
    job_in,
    push,
    series_uid,
    settled,
    small_ct,
    study,
    two_series,
    uids,
    verdicts,
)

SLOW = """\
import time
import radnode

class Slow(radnode.App):
    name, version = "slow", "1"
    resources = radnode.Resources(timeout=1)

    def process(self, series, options):
        print("I begin")
        time.sleep(600)
        yield
"""
GREEDY = """\
import radnode

class Greedy(radnode.App):
    name, version = "greedy", "1"
    resources = radnode.Resources(memory=256)

    def process(self, series, options):
        print("I take what I want")
        bytearray(2 << 30)
        yield
"""
FRAGILE = """\
from pathlib import Path
from PIL import Image
import radnode

class Fragile(radnode.App):
    name, version = "fragile", "1"

    def process(self, series, options):
        print("model.bin is looked for")
        if not Path(__file__).with_name("model.bin").exists():
            raise RuntimeError("model.bin is not there")
        yield radnode.SecondaryCapture(Image.new("RGB", (8, 8)), description=f"{len(series)} images")
"""
INVALID = """\
import pydicom
import radnode

class Invalid(radnode.App):
    name, version = "invalid", "1"

    def process(self, series, options):
        yield radnode.MeasurementReport([radnode.Measurement("Number", 1)])
        ds = pydicom.Dataset()
        ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.7", "OT"  # a capture without a picture
        yield ds
"""
FORWARD = "rules: [{name: everything, send_to: [a]}]\n"
pytestmark = pytest.mark.timeout(400)  # several starts of a node; on a busy machine each takes its time

_seeds = count(1000)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("road")
    apps = apps_folder(folder / "apps", slow=SLOW, greedy=GREEDY, fragile=FRAGILE, invalid=INVALID)
    with Node(folder / "node", "rules: []\n", apps=apps) as running:
        yield running
        print(running.output()[-20_000:])


@pytest.fixture
def seed() -> int:
    return next(_seeds)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[SinkPacs]:
    with SinkPacs(tmp_path / "other", aet="OTHER") as running:
        yield running


def originals(sink: SinkPacs) -> list[str]:
    return sorted(sink.uids)


# ---- forwarding ------------------------------------------------------------------------------------------------------


def test_two_series_over_two_associations_are_forwarded_each_instance_once(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    axial, scouts = two_series(tmp_path / "study", seed)
    apply(node, destinations(a=sink) + QUICK + FORWARD)
    uid = push(node, axial)
    push(node, scouts)
    found = settled(node, uid)
    assert originals(sink) == uids(axial + scouts)
    assert sorted(each["instances"] for each in found["series"]) == [2, 4]


def test_what_is_forwarded_is_byte_for_byte_what_came(node: Node, sink: SinkPacs, tmp_path: Path, seed: int) -> None:
    files = small_ct(tmp_path / "study", seed)
    apply(node, destinations(a=sink) + QUICK + FORWARD)
    settled(node, push(node, files))
    sent = {dcmread(each).SOPInstanceUID: _data_set(each) for each in files}
    arrived = {each.sop_instance_uid: _data_set(each.path) for each in sink.received if each.path}
    assert arrived == sent


def test_a_rule_forwards_the_series_it_matches_and_the_other_is_listed_with_the_reason(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    axial, scouts = two_series(tmp_path / "study", seed)
    rules = 'rules: [{name: axial-only, when: {SeriesDescription: "HEAD*"}, send_to: [a]}]\n'
    apply(node, destinations(a=sink) + QUICK + rules)
    uid = push(node, axial + scouts)
    found = settled(node, uid)
    assert originals(sink) == uids(axial)
    said = verdicts(found)
    assert said[series_uid(axial), "axial-only"][0] is True
    matched, reason = said[series_uid(scouts), "axial-only"]
    assert not matched
    assert "SeriesDescription" in reason
    assert "LOCALIZER" in reason
    assert reason in node.cli("studies", uid).replace("\n", " ")
    assert sum(each["instances"] for each in found["series"]) == 6


def test_two_rules_on_one_series_serve_two_destinations_in_full(
    node: Node, sink: SinkPacs, other: SinkPacs, tmp_path: Path, seed: int
) -> None:
    files = small_ct(tmp_path / "study", seed)
    rules = "rules: [{name: one, send_to: [a]}, {name: two, when: {Modality: CT}, send_to: [b]}]\n"
    apply(node, destinations(a=sink, b=other) + QUICK + rules)
    settled(node, push(node, files))
    assert originals(sink) == originals(other) == uids(files)


def test_a_study_pushed_twice_one_after_the_other_is_forwarded_once(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    files = small_ct(tmp_path / "study", seed)
    apply(node, destinations(a=sink) + QUICK + FORWARD)
    uid = push(node, files)
    settled(node, uid)
    push(node, files)
    found = until(lambda: len(events(study(node, uid), "study complete")) == 2 and settled(node, uid), "judged again")
    assert len(found["jobs"]) == 1
    assert originals(sink) == uids(files)


def test_of_a_series_that_grew_only_the_new_images_are_forwarded(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    files = small_ct(tmp_path / "study", seed)
    apply(node, destinations(a=sink) + QUICK + FORWARD)
    uid = push(node, files[:3])
    settled(node, uid)
    assert originals(sink) == uids(files[:3])
    push(node, files[3:])
    found = until(lambda: len(events(study(node, uid), "study complete")) == 2 and settled(node, uid), "judged again")
    assert originals(sink) == uids(files)
    assert found["series"][0]["generation"] == 2


# ---- apps ------------------------------------------------------------------------------------------------------------


def test_an_apps_results_arrive_once_in_the_study_they_were_made_from(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    files = small_ct(tmp_path / "study", seed)
    apply(node, destinations(a=sink) + QUICK + "rules: [{name: wiring, app: test, send_to: [a]}]\n")
    uid = push(node, files)
    found = settled(node, uid)
    job = node.json("job", found["jobs"][0]["id"])
    assert originals(sink) == sorted(each["SOPInstanceUID"] for each in job["results"])
    for each in sink.received:
        ds = dcmread(each.path, stop_before_pixels=True)
        assert (ds.StudyInstanceUID, ds.PatientID, ds.AccessionNumber) == (uid, f"PHANTOM{seed}", f"ACC{seed}")


def test_the_same_study_over_two_associations_at_once_gives_one_set_of_results(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    files = small_ct(tmp_path / "study", seed)
    apply(node, destinations(a=sink) + QUICK + "rules: [{name: wiring, app: test, level: study, send_to: [a]}]\n")
    uid = pushed_at_once(node, files, tmp_path)
    found = settled(node, uid)
    assert len(found["jobs"]) == 1
    assert found["series"][0]["instances"] == len(files)
    assert max(Counter(sink.uids).values()) == 1
    assert len(sink.uids) == 2


def test_results_that_come_back_start_nothing(node: Node, sink: SinkPacs, tmp_path: Path, seed: int) -> None:
    files = small_ct(tmp_path / "study", seed)
    apply(node, destinations(a=sink) + QUICK + "rules: [{name: wiring, app: test, level: study, send_to: [a]}]\n")
    uid = push(node, files)
    before = settled(node, uid)
    push(node, [each.path for each in sink.received if each.path])
    until(lambda: len(study(node, uid)["series"]) == 3, "the results are filed")
    marker = push(node, small_ct(tmp_path / "marker", next(_seeds)))
    settled(node, marker)  # by now the results would have been judged too
    after = study(node, uid)
    assert after["state"] == "done"
    assert [each["id"] for each in after["jobs"]] == [each["id"] for each in before["jobs"]]
    assert len(events(after, "study complete")) == 1
    assert after["series"][0]["generation"] == 1


def test_a_study_rule_waits_for_the_series_that_comes_after_the_first_was_quiet(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    axial, scouts = two_series(tmp_path / "study", seed)
    rules = "complete: {series: 1s, study: 8s}\nrules: [{name: wiring, app: test, level: study, send_to: [a]}]\n"
    apply(node, destinations(a=sink) + rules)
    uid = push(node, axial)
    until(lambda: study(node, uid)["series"][0]["state"] == "complete", "the first series is complete")
    push(node, scouts)
    found = settled(node, uid)
    assert len(found["jobs"]) == 1
    assert node.json("job", found["jobs"][0]["id"])["inputs"] == 6
    assert len(sink.uids) == 2


def test_two_rules_that_ask_for_the_same_work_share_a_job_and_both_destinations_get_its_results(
    node: Node, sink: SinkPacs, other: SinkPacs, tmp_path: Path, seed: int
) -> None:
    rules = "rules: [{name: one, app: test, send_to: [a]}, {name: two, app: test, send_to: [b], priority: urgent}]\n"
    apply(node, destinations(a=sink, b=other) + QUICK + rules)
    found = settled(node, push(node, small_ct(tmp_path / "study", seed)))
    (job,) = found["jobs"]
    assert job["priority"] == "urgent"
    assert originals(sink) == originals(other)
    assert len(sink.uids) == 2


@pytest.mark.parametrize(
    ("app", "error"),
    [
        ("app: test, options: {fail: error}", "RuntimeError: asked to fail"),
        ("app: test, options: {fail: crash}", "SIGABRT"),
        ("app: slow", "over its time limit of 1 s"),
        ("app: greedy", "out of memory"),
    ],
)
def test_an_app_that_fails_sends_nothing_and_is_shown_with_its_reason(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int, app: str, error: str
) -> None:
    apply(node, destinations(a=sink) + QUICK + f"rules: [{{name: bad, {app}, send_to: [a]}}]\n")
    uid = push(node, small_ct(tmp_path / "study", seed))
    found = settled(node, uid, "attention")
    job = job_in(node, uid, "failed")
    assert error in job["error"]
    assert found["deliveries"] == []
    assert sink.uids == []
    assert uid in [each["StudyInstanceUID"] for each in node.json("studies", "--attention")]
    shown = node.cli("job", job["id"])
    assert f"radnode retry {job['id'][:12]}" in shown
    assert node.get("/readyz")[0] == 200


def test_a_result_that_is_invalid_is_quarantined_and_nothing_of_its_job_is_sent(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    apply(node, destinations(a=sink) + QUICK + "rules: [{name: invalid, app: invalid, send_to: [a]}]\n")
    uid = push(node, small_ct(tmp_path / "study", seed))
    job = job_in(node, uid, "failed")
    assert "1 of 2 results must not be sent, so none is: raw-0001.dcm:" in job["error"]
    (event,) = events(study(node, uid), "failed")
    assert "ConversionType" in str(event)
    assert sink.uids == []
    (kept,) = (node.home / "spool" / "quarantine").glob("result-*.dcm")
    assert dcmread(kept).StudyInstanceUID == uid
    assert "ConversionType" in kept.with_suffix(".txt").read_text()


def test_a_failed_job_keeps_its_log_and_a_retry_runs_it_from_the_originals(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    apply(node, destinations(a=sink) + QUICK + "rules: [{name: fragile, app: fragile, send_to: [a]}]\n")
    files = small_ct(tmp_path / "study", seed)
    uid = push(node, files)
    job = job_in(node, uid, "failed")
    assert "model.bin is not there" in job["error"]
    assert "model.bin is looked for" in node.json("job", job["id"])["log"]
    shutil.rmtree(tmp_path / "study")
    (Path(node.env["RADNODE_APPS"]) / "model.bin").touch()
    node.cli("retry", job["id"])
    settled(node, uid)
    (result,) = sink.received
    assert "4 images" in dcmread(result.path, stop_before_pixels=True).SeriesDescription
    (retried,) = events(study(node, uid), "retried")
    assert retried["who"]


def test_an_app_that_declines_is_no_failure(node: Node, sink: SinkPacs, tmp_path: Path, seed: int) -> None:
    rules = "rules: [{name: declining, app: test, options: {fail: declined}, send_to: [a]}]\n"
    apply(node, destinations(a=sink) + QUICK + rules)
    uid = push(node, small_ct(tmp_path / "study", seed))
    found = settled(node, uid)
    assert found["jobs"][0]["state"] == "declined"
    assert events(found, "declined")[0]["reason"] == "asked to decline"
    assert sink.uids == []


# ---- destinations ----------------------------------------------------------------------------------------------------


def test_a_destination_that_is_down_delays_nobody_and_gets_everything_when_it_is_back(
    node: Node, sink: SinkPacs, other: SinkPacs, tmp_path: Path, seed: int
) -> None:
    files = small_ct(tmp_path / "study", seed)
    apply(node, destinations(a=sink, away=other) + QUICK + "rules: [{name: both, send_to: [a, away]}]\n")
    other.stop()
    uid = push(node, files)
    delivery_in(node, uid, "delivered", "a")
    waiting = until(lambda: _postponed(node, uid, "away"), "the other was tried")
    assert "cannot be reached" in waiting["error"]
    assert waiting["stored"] == 0
    assert originals(sink) == uids(files)
    other.start()
    settled(node, uid)
    assert originals(other) == uids(files)
    assert originals(sink) == uids(files)


def test_an_instance_refused_for_now_is_sent_again_and_the_others_are_not(
    node: Node, tmp_path: Path, seed: int
) -> None:
    files = small_ct(tmp_path / "study", seed)
    full = {uids(files)[1]}
    with SinkPacs(tmp_path / "sink", refuse=lambda uid: 0xA700 if uid in full else None) as sink:
        apply(node, destinations(tight=sink) + QUICK + "rules: [{name: all, send_to: [tight]}]\n")
        uid = push(node, files)
        waiting = until(lambda: _postponed(node, uid, "tight"), "the refused one waits")
        assert waiting["stored"] == len(files) - 1
        assert [each["status"] for each in waiting["refused"]] == [0xA700]
        full.clear()
        settled(node, uid)
        assert originals(sink) == uids(files)


def test_a_refusal_for_good_parks_the_delivery_until_a_person_retries(node: Node, tmp_path: Path, seed: int) -> None:
    files = small_ct(tmp_path / "study", seed)
    unwanted = {uids(files)[1]}
    with SinkPacs(tmp_path / "sink", refuse=lambda uid: 0xC000 if uid in unwanted else None) as sink:
        apply(node, destinations(picky=sink) + QUICK + "rules: [{name: all, send_to: [picky]}]\n")
        uid = push(node, files)
        settled(node, uid, "attention")
        parked = delivery_in(node, uid, "parked", "picky")
        assert "0xC000" in parked["error"]
        assert parked["stored"] == len(files) - 1
        unwanted.clear()
        node.cli("retry", "--destination", "picky")
        settled(node, uid)
        assert originals(sink) == uids(files)


def test_a_destination_taken_out_of_the_file_parks_what_waits_for_it(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    files = small_ct(tmp_path / "study", seed)
    sink.stop()
    apply(node, destinations(leaving=sink) + QUICK + "rules: [{name: all, send_to: [leaving]}]\n")
    uid = push(node, files)
    until(lambda: _postponed(node, uid, "leaving"), "it was tried")
    apply(node, "rules: []\n" + QUICK)
    parked = delivery_in(node, uid, "parked", "leaving")
    assert "not in routing.yaml" in parked["error"]
    sink.start()
    apply(node, destinations(leaving=sink) + QUICK + "rules: []\n")
    node.cli("retry", parked["job"])
    settled(node, uid)
    assert originals(sink) == uids(files)


def test_a_study_pushed_again_after_a_destination_was_added_reaches_it_without_a_second_computation(
    node: Node, sink: SinkPacs, other: SinkPacs, tmp_path: Path, seed: int
) -> None:
    files = small_ct(tmp_path / "study", seed)
    apply(node, destinations(a=sink, b=other) + QUICK + "rules: [{name: wiring, app: test, send_to: [a]}]\n")
    uid = push(node, files)
    settled(node, uid)
    apply(node, destinations(a=sink, b=other) + QUICK + "rules: [{name: wiring, app: test, send_to: [a, b]}]\n")
    push(node, files)
    other.wait_for(2, timeout=90)
    found = settled(node, uid)
    assert len(found["jobs"]) == len(events(found, "done")) == 1
    assert {each.sha256 for each in other.received} == {each.sha256 for each in sink.received}
    assert len(sink.uids) == 2


def pushed_at_once(node: Node, files: list[Path], folder: Path) -> str:
    """The same files over two associations side by side."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(push, node, files), pool.submit(push, node, files)
        assert one.result() == two.result()
    return one.result()


def _postponed(node: Node, uid: str, destination: str) -> Any:
    there = [each for each in study(node, uid)["deliveries"] if each["destination"] == destination]
    return there and there[0]["state"] == "waiting" and there[0]["error"] and there[0]


def _data_set(path: Path) -> bytes:
    """The bytes after the File Meta."""
    data = path.read_bytes()
    return data[144 + int.from_bytes(data[140:144], "little") :]
