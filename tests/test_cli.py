"""Every command does what it says, its JSON has the promised shape, and docs/cli.md has all of it."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydicom import dcmread
from typer.testing import CliRunner

from radnode import settings as settings_module
from radnode.cli import app
from radnode.domain.errors import LedgerError
from radnode.run import look
from radnode.run.person import who
from radnode.state import pauses
from radnode.state.ledger import Ledger
from radnode.testing.sink import SinkPacs
from tests.peers import REPO, Node, free_port, until
from tests.road import (
    QUICK,
    apply,
    delivery_in,
    destinations,
    events,
    job_in,
    push,
    settled,
    small_ct,
    study,
    study_uid,
    two_series,
    uids,
)

pytestmark = pytest.mark.timeout(400)

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
DOCUMENT = (REPO / "docs" / "cli.md").read_text(encoding="utf-8")
STUDY_KEYS = {
    "id", "StudyInstanceUID", "AccessionNumber", "PatientID", "StudyDescription", "state", "received",
    "last_received", "held", "purged", "missing", "series", "jobs", "waits", "deliveries",
    "near_misses", "timeline",
}  # fmt: skip
WIRING = "rules: [{name: wiring, app: test, send_to: [a]}]\n"
_seeds = count(9000)


@pytest.fixture
def seed() -> int:
    return next(_seeds)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("cli") / "node", "rules: []\n") as running:
        yield running
        print(running.output()[-20_000:])


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Node]:
    """A node that is not started."""
    with Node(tmp_path / "node", "rules: []\n", start=False) as node:
        yield node


# ---- the document ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_there_and_explains_every_option(name: str) -> None:
    command = [sys.executable, "-m", "radnode.cli", *name.split(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "200"})
    assert "Usage:" in done.stdout
    for parameter in COMMANDS[name].params if name else ():
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


@pytest.mark.parametrize("command", ["jobs", "retry"])
def test_a_state_that_there_is_not_is_an_error_that_names_those_there_are(command: str) -> None:
    said = CliRunner().invoke(app, [command, "--state", "parkd"])
    assert said.exit_code == 2
    assert "parkd" in said.output
    assert "parked" in said.output


@pytest.mark.parametrize("command", ["retry", "resend", "rerun", "release", "cancel", "purge"])
def test_an_empty_name_is_refused_and_does_not_mean_every_job_or_study(command: str) -> None:
    refused = CliRunner().invoke(app, [command, "1.2.3", ""])
    assert refused.exit_code == 2
    assert "an empty name" in refused.output


def test_the_document_has_every_command_and_no_other() -> None:
    assert sorted(re.findall(r"^### `radnode (\S+)`$", DOCUMENT, re.MULTILINE)) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_document_has_every_option_of_a_command_and_no_other(name: str) -> None:
    (section,) = re.findall(rf"^### `radnode {name}`$(.*?)(?=^##|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    documented = re.findall(r"^\| `(\S+)` \|", section, re.MULTILINE)
    assert sorted(documented) == sorted(_name(each) for each in COMMANDS[name].params if each.name != "help")


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).upper()
    return str(max(parameter.opts, key=len))


def test_the_document_has_every_key_of_the_json(node: Node, sink: SinkPacs, tmp_path: Path, seed: int) -> None:
    apply(node, destinations(a=sink) + QUICK + WIRING)
    found = settled(node, push(node, small_ct(tmp_path / "study", seed)))
    (listed,) = node.json("studies", found["StudyInstanceUID"])
    assert set(listed) == STUDY_KEYS
    one = node.json("job", listed["jobs"][0]["id"])
    (many,) = [each for each in node.json("jobs") if each["id"] == one["id"]]
    assert set(one) >= set(many)
    shapes = [listed, one, listed["series"][0], listed["deliveries"][0], one["results"][0], listed["timeline"][0]]
    for key in {key for shape in shapes for key in shape} - set(listed["timeline"][0]):
        assert f"`{key}`" in DOCUMENT, key
    for key in ("at", "event", "SeriesInstanceUID", "job", "delivery"):
        assert key in listed["timeline"][0]
        assert f"`{key}`" in DOCUMENT


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_a_shadow_job_is_compared_with_the_live_one_of_the_same_images(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    live = "{name: live, app: hyperdense, send_to: [a], options: {threshold_hu: 60}}"
    shadow = "{name: new, app: hyperdense, send_to: [a], options: {threshold_hu: 35}, mode: shadow}"
    apply(node, destinations(a=sink) + QUICK + f"rules: [{live}, {shadow}]\n")
    found = settled(node, push(node, small_ct(tmp_path / "study", seed, slices=12)))
    ids = {each["rule"]: each["id"] for each in found["jobs"]}
    compared = node.json("job", ids["new"], "--compare", ids["live"])
    assert [each["rule"] for each in compared["jobs"]] == ["new", "live"]
    assert compared["same_images"]
    assert compared["objects"]["sr"] == [1, 1]
    assert compared["alike"] > 0
    volumes = [each["values"] for each in compared["differences"] if "olume" in each["what"]]
    assert volumes
    assert all(None not in each and each[0] != each[1] for each in volumes)
    assert all((node.folder / "home" / "spool" / each).is_file() for paths in compared["pictures"] for each in paths)
    assert "are alike" in node.cli("job", ids["new"], "--compare", ids["live"])
    assert node.json("job", ids["live"], "--compare", ids["live"])["differences"] == []


def test_a_study_is_found_by_accession_number_patient_and_uid(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    apply(node, destinations(a=sink) + QUICK + WIRING)
    files = small_ct(tmp_path / "study", seed)
    uid = push(node, files)
    settled(node, uid)
    series = str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)
    for wanted in (f"ACC{seed}", f"PHANTOM{seed}", uid, series):
        assert [each["StudyInstanceUID"] for each in node.json("studies", wanted)] == [uid], wanted
        shown = node.cli("studies", wanted)
        for word in (uid, "wiring", "delivered", "timeline", "4 images"):
            assert word in shown, word
    assert f"ACC{seed}" in node.cli("studies")
    assert len(node.json("studies", "--limit", "1")) == 1
    assert node.json("studies", "--attention") == []


def test_a_study_that_is_not_there_is_an_exit_code_and_a_hint(node: Node) -> None:
    assert "no such study" in node.cli("studies", "NOBODY", code=1)
    assert json.loads(node.cli("studies", "NOBODY", "--json", code=1)) == []


def test_a_job_shows_its_road_and_what_it_printed(node: Node, sink: SinkPacs, tmp_path: Path, seed: int) -> None:
    apply(node, destinations(a=sink) + QUICK + WIRING)
    found = settled(node, push(node, small_ct(tmp_path / "study", seed)))
    job = node.json("job", found["jobs"][0]["id"][:12])
    assert job["inputs"] == 4
    assert sorted(each["kind"] for each in job["results"]) == ["sc", "sr"]
    kinds = [each["event"] for each in job["timeline"]]
    order = ["received", "complete", "job", "running", "done", "delivered"]
    for earlier, later in pairwise(order):
        assert kinds.index(earlier) < kinds.index(later), kinds
    assert "written" in job["log"]
    shown = node.cli("job", job["id"][:12])
    for word in (job["id"], "wiring", "delivered", job["results"][0]["SOPInstanceUID"]):
        assert word in shown, word
    assert job["id"][:12] in node.cli("jobs", "--app", "test", "--state", "done")
    assert "no jobs" in node.cli("jobs", "--state", "held")


def test_words_of_others_are_text_on_one_line_and_control_no_terminal() -> None:
    shown = look.plain("lost\n  -> ask\tagain [red]\x1b[31m").plain
    assert shown == "lost -> ask     again [red]\N{REPLACEMENT CHARACTER}[31m"


def test_a_job_that_is_not_there_or_not_one_is_an_error(node: Node) -> None:
    assert "no job begins with 'zzzz'" in failed(node, "job", "zzzz")
    assert "radnode jobs" in failed(node, "job", "zzzz")


def test_route_says_which_rule_takes_which_series_without_a_node(idle: Node, tmp_path: Path, seed: int) -> None:
    axial, scouts = two_series(tmp_path / "study", seed)
    idle.route('rules: [{name: axial, app: test, when: {SeriesDescription: "HEAD*"}, send_to: []}]\n')
    folder = str(tmp_path / "study")
    assert "axial (line 1): app test" in idle.cli("route", folder)
    explained = idle.cli("route", folder, "--explain")
    assert "LOCALIZER" in explained
    (found,) = idle.json("route", folder)["studies"]
    assert found["StudyInstanceUID"] == study_uid(axial)
    matched = {each["instances"]: each["rules"][0]["matched"] for each in found["series"]}
    assert matched == {len(axial): True, len(scouts): False}
    idle.cli("route", str(axial[0]), "--expect", "axial")
    assert "rule axial does not match" in failed(idle, "route", str(scouts[0]), "--expect", "axial")
    assert "did you mean axial?" in failed(idle, "route", folder, "--expect", "axia")


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_route_fails_where_nothing_is_dicom_and_says_of_what(idle: Node, tmp_path: Path, how: tuple[str, ...]) -> None:
    note, other = tmp_path / "study" / "a.txt", tmp_path / "study" / "b.txt"
    note.parent.mkdir()
    note.write_text("no image")
    for path in (note, note.parent):
        assert f"{note} is no DICOM file -> name a DICOM file, or a folder of them" in failed(
            idle, "route", str(path), *how
        )
    other.touch()
    assert "none of the 2 files in" in failed(idle, "route", str(note.parent), *how)


def test_check_is_content_with_the_projects_own_files(idle: Node) -> None:
    idle.route((REPO / "routing.yaml").read_text())
    found = idle.json("check")
    assert {each["state"] for each in found} == {"ok"}
    assert any("hyperdense" in each["message"] for each in found)


# ---- acting ----------------------------------------------------------------------------------------------------------


def test_cancel_stops_a_running_job_and_retry_runs_it_after_all(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    rules = "rules: [{name: long, app: test, options: {sleep: 600}, send_to: [a]}]\n"
    apply(node, destinations(a=sink) + QUICK + rules)
    uid = push(node, small_ct(tmp_path / "study", seed))
    job = job_in(node, uid, "running")["id"]
    assert node.json("cancel", job[:12], "--dry-run") == [f"job {job}"]
    job_in(node, uid, "running")
    assert "1 cancelled" in node.cli("cancel", "--rule", "long")
    job_in(node, uid, "cancelled")
    assert events(study(node, uid), "cancelled")[0]["who"]
    until(lambda: not at_work(node, job), "its process is gone")
    assert "0 cancelled" in node.cli("cancel", "--rule", "long", code=1)
    assert node.json("retry", job) == [f"job {job}"]
    job_in(node, uid, "running")
    node.cli("cancel", job)
    settled(node, uid)


def test_cancel_drops_what_a_finished_job_has_not_sent_and_retry_sends_it_after_all(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    with SinkPacs(tmp_path / "other", aet="OTHER") as other:
        rules = "rules: [{name: unsent, app: test, send_to: [a, other]}]\n"
        apply(node, destinations(a=sink, other=other) + QUICK + rules)
        node.cli("pause", "other")
        uid = push(node, small_ct(tmp_path / "study", seed))
        delivery_in(node, uid, "delivered", "a")
        delivery = f"delivery {delivery_in(node, uid, 'waiting', 'other')['id']}"
        chosen = ("--rule", "unsent", "--destination", "other")
        assert node.json("cancel", *chosen, "--dry-run") == [delivery]
        delivery_in(node, uid, "waiting", "other")
        assert "1 cancelled" in node.cli("cancel", *chosen)
        found = settled(node, uid)
        assert events(found, "delivery cancelled")[0]["who"]
        node.cli("resume", "other")
        settled(node, push(node, small_ct(tmp_path / "later", next(_seeds))))
        assert sorted(other.uids) == sorted(sink.uids[2:])  # the later study's results, and nothing of this one's
        assert "0 set waiting again" in node.cli("retry", *chosen, code=1)
        assert node.json("retry", found["jobs"][0]["id"]) == [delivery]
        delivery_in(node, uid, "delivered", "other")
        assert sorted(other.uids) == sorted(sink.uids)


def at_work(node: Node, job: str) -> list[int]:
    """The processes whose folder is the job's."""
    links = [Path(f"/proc/{pid}/cwd") for pid in node.pids()]
    return [int(each.parent.name) for each in links if each.exists() and job in str(each.readlink())]


def test_a_ledger_that_a_user_may_only_read_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    Ledger(tmp_path).migrate()
    known = settings_module.load({"RADNODE_HOME": str(tmp_path)}, tmp_path / "no.env")
    with (
        pytest.raises(LedgerError, match=r"readonly.*\n.*as the node's user"),
        look.ledger_of(known) as ledger,
        ledger.read() as tx,
    ):
        tx.exec_driver_sql("PRAGMA query_only=ON")
        pauses.pause(tx, "app", "test", "somebody")


def test_a_user_whom_the_system_knows_no_name_of_acts_under_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for each in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert who() == f"user {os.getuid()}"


def test_retry_by_filter_takes_only_what_fits(node: Node, sink: SinkPacs, tmp_path: Path, seed: int) -> None:
    rules = "rules: [{name: failing, app: test, options: {fail: error}, send_to: [a]}]\n"
    apply(node, destinations(a=sink) + QUICK + rules)
    uid = push(node, small_ct(tmp_path / "study", seed))
    job = job_in(node, uid, "failed")["id"]
    assert node.json("retry", "--rule", "failing", "--dry-run") == [f"job {job}"]
    assert node.json("retry", "--rule", "failing", "--since", "5m", "--state", "failed", "--dry-run") == [f"job {job}"]
    for nothing in (["--rule", "other"], ["--app", "hyperdense"], ["--rule", "failing", "--state", "cancelled"]):
        assert json.loads(node.cli("retry", *nothing, "--json")) == []
    assert "nothing chosen" in failed(node, "retry")
    assert "is no duration" in failed(node, "retry", "--since", "soon")
    node.cli("retry", "--rule", "failing")
    until(lambda: job_in(node, uid, "failed")["attempt"] == 2, "it failed again")


def test_resend_sends_the_same_bytes_again_and_computes_nothing(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    apply(node, destinations(a=sink) + QUICK + WIRING)
    uid = push(node, small_ct(tmp_path / "study", seed))
    job = settled(node, uid)["jobs"][0]["id"]
    assert "0 would be set waiting again" in node.cli("resend", job, "--state", "parked", "--dry-run", code=1)
    node.cli("resend", job, "--destination", "a", "--state", "delivered")
    sink.wait_for(4, timeout=90)
    found = settled(node, uid)
    first, again = sink.received[:2], sink.received[2:]
    assert [(each.sop_instance_uid, each.sha256) for each in first] == [
        (each.sop_instance_uid, each.sha256) for each in again
    ]
    assert len(events(found, "running")) == 1
    assert node.json("rerun", job, "--destination", "a", "--dry-run") == [f"job {job}"]
    assert node.json("rerun", job, "--destination", "b", "--dry-run") == []


def test_a_paused_app_waits_and_its_study_is_received_nonetheless(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    apply(node, destinations(a=sink) + QUICK + WIRING + "# paused\n")
    assert "app test is paused" in node.cli("pause", "test")
    uid = push(node, small_ct(tmp_path / "study", seed))
    job_in(node, uid, "waiting")
    until(lambda: events(study(node, uid), "study complete"), "the study is complete")
    job = job_in(node, uid, "waiting")
    assert job["paused"]
    for command in (("studies", uid), ("jobs",), ("job", job["id"])):
        assert "app test is paused: radnode resume test" in node.cli(*command)
    assert re.search(r"app test is paused since .* by \w+: `radnode resume test`", said_aside(node, "studies"))
    assert "app test goes on" in node.cli("resume", "test")
    settled(node, uid)
    assert "paused" not in said_aside(node, "studies")
    assert "'test' is not paused" in failed(node, "resume", "test")


def test_a_paused_destination_gets_nothing_until_it_is_resumed(
    node: Node, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    with SinkPacs(tmp_path / "other", aet="OTHER") as other:
        rules = "rules: [{name: both, app: test, send_to: [a, other]}]\n"
        apply(node, destinations(a=sink, other=other) + QUICK + rules)
        assert "destination other is paused" in node.cli("pause", "other")
        uid = push(node, small_ct(tmp_path / "study", seed))
        delivery_in(node, uid, "delivered", "a")
        assert delivery_in(node, uid, "waiting", "other")["paused"]
        assert "it is paused: radnode resume other" in node.cli("studies", uid)
        assert other.uids == []
        node.cli("resume", "other")
        settled(node, uid)
        assert sorted(other.uids) == sorted(sink.uids)
    assert "no destination and no app is called 'nothing'" in failed(node, "pause", "nothing")


# ---- apps and tools --------------------------------------------------------------------------------------------------


def test_apps_lists_the_options(idle: Node) -> None:
    shown = idle.cli("apps")
    assert "hyperdense 1.1.0" in shown
    assert "threshold_hu = 60" in shown
    listed = {each["name"]: each for each in idle.json("apps")}
    assert listed["hyperdense"]["options"]["threshold_hu"]["default"] == 60
    assert listed["test"]["queue"] == "cpu"


def test_the_next_steps_that_app_new_prints_lead_to_an_app_that_a_rule_runs(tmp_path: Path, seed: int) -> None:
    place = "destinations: {a: {aet: A, host: h, port: 104}}\ndefaults: {send_to: [a]}\n"
    with Node(tmp_path / "node", "rules: []\n", apps=tmp_path / "apps", start=False) as node:
        said = node.cli("app", "new", "lesions")
        small_ct(tmp_path / "study", seed)
        (edited,) = re.findall(r"edit (\S+):", said)
        Path(edited).write_text(Path(edited).read_text().replace('"dense volume"', '"as edited"'))
        (named,) = re.findall(r"radnode run (\S+) FOLDER ", said)
        assert "sr-0001.dcm" in node.cli("run", named, str(tmp_path / "study"), "-o", str(tmp_path / "out"))
        assert "as edited" in dcmread(tmp_path / "out" / "sr-0001.dcm").SeriesDescription
        ((file, rule),) = re.findall(r"a rule of (\S+): (\{.*\})", said)
        assert file == str(node.routing)
        node.route(f"{place}rules: [{rule}]\n")
        assert "radnode check " in said
        node.cli("check")
        assert "app lesions 0.1.0" in node.cli("route", str(tmp_path / "study"))


def test_run_needs_no_node_and_writes_results(idle: Node, tmp_path: Path, seed: int) -> None:
    small_ct(tmp_path / "study", seed)
    out = tmp_path / "out"
    said = idle.cli("run", "test", str(tmp_path / "study"), "--set", "greeting=Hello", "-o", str(out))
    assert {each.name for each in out.glob("*.dcm")} == {"sc-0001.dcm", "sr-0001.dcm"}
    assert (out / "sc-0001.png").exists()
    assert "sr-0001.dcm" in said
    assert not idle.home.exists()
    assert "greeting" in failed(idle, "run", "test", str(tmp_path / "study"), "--set", "greting=Hello", "-o", str(out))
    declined = idle.cli("run", "test", str(tmp_path / "study"), "--set", "fail=declined", "-o", str(out))
    assert "declined: asked to decline" in declined


def test_phantom_send_and_echo_work_together(node: Node, sink: SinkPacs, tmp_path: Path) -> None:
    apply(node, destinations(a=sink) + QUICK + "rules: []\n")
    folder = tmp_path / "phantom"
    assert "3 images" in node.cli("phantom", str(folder), "--slices", "3", "--size", "32")
    files = sorted(folder.iterdir())
    assert f"RADNODE at 127.0.0.1:{node.port} answered" in node.cli("echo")
    assert "answered" in node.cli("echo", "a")
    assert "3 of 3 instances stored" in node.cli("send", str(folder), "--calling-aet", "WORKSTATION")
    (series,) = study(node, study_uid(files))["series"]
    assert series["CallingAETitle"] == "WORKSTATION"
    node.cli("send", str(files[0]), "--to", f"SINK@127.0.0.1:{sink.port}")
    node.cli("send", str(files[1]), str(files[2]), "--to", "a")
    assert sorted(sink.uids) == uids(files)
    assert "neither AET@HOST:PORT nor a destination" in failed(node, "send", str(folder), "--to", "b")
    assert "cannot be reached" in failed(node, "echo", f"X@127.0.0.1:{free_port()}")


def test_a_phantom_that_cannot_be_made_is_an_error_that_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failed = CliRunner().invoke(app, ["phantom", str(tmp_path / "file" / "x")])
    assert f"{tmp_path / 'file' / 'x'} cannot be made: Not a directory" in str(failed.exception)
    assert CliRunner().invoke(app, ["phantom", str(tmp_path / "x"), "--slices", "0"]).exit_code == 2


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"radnode {version('radnode')}\n"


def test_an_unknown_command_or_option_is_a_usage_error(idle: Node) -> None:
    idle.cli("stduies", code=2)
    idle.cli("studies", "--colour", code=2)


def failed(node: Node, *arguments: str) -> str:
    """What a command says on stderr that ends with exit code 1, on one line."""
    return said_aside(node, *arguments, code=1)


def said_aside(node: Node, *arguments: str, code: int = 0) -> str:
    """What a command says on stderr, on one line."""
    done = subprocess.run(  # noqa: PLW1510 - the exit code is looked at below
        [sys.executable, "-m", "radnode.cli", *arguments], cwd=node.folder, env=node.env, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())
