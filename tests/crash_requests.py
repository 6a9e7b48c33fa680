"""What leads to the crash labels of requests to a node, each with what has to be true afterwards.

They are what a person types, an edit of routing.yaml, and a modality that asks for Storage Commitment.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from radnode.state import schema
from radnode.state.ledger import Ledger
from tests.crash_scenarios import whole
from tests.crash_stage import Stage
from tests.peers import until
from tests.road import apply, delivery_in, job_in, settled, study, study_uid
from tests.test_commitment import Modality, references
from tests.test_life import assert_once
from tests.test_power_loss import data_set_digest


def commanded(stage: Stage, label: str) -> None:
    """What a person types dies half-way, and is typed again."""
    uid = study_uid(stage.push("FAILED"))
    job = job_in(stage.node, uid, "failed")
    commands = {"pause": ("pause", "test"), "resume": ("resume", "test"), "act": ("retry", job["id"])}
    if label == "resume":
        stage.node.cli("pause", "test")
    for _ in stage.armed():
        stage.node.cli(*commands[label], code=-signal.SIGKILL)
    if label == "pause":
        stage.node.cli("resume", "test")
    until(lambda: job_in(stage.node, uid, "failed")["attempt"] == job["attempt"] + (label == "act"), "it is as told")


def run_again(stage: Stage, label: str) -> None:
    """A person has a job run again in shadow, and that dies; typed again it is one job, and nothing of it goes out."""
    arrived = len(stage.sink.received)
    uid = study_uid(stage.push("TALKER"))
    job = job_in(stage.node, uid, "done")
    delivery_in(stage.node, uid, "delivered")
    while stage.armed():
        stage.node.cli("replay", "--run", job["id"], code=-signal.SIGKILL)
    stage.node.cli("replay", "--run", job["id"])
    until(lambda: [each["state"] for each in study(stage.node, uid)["jobs"]] == ["done"] * 2, "both have ended")
    settled(stage.node, uid)
    assert_once(stage.sink, arrived, 1)


def backed_up(stage: Stage, label: str) -> None:
    """The copy of the ledger is there, and whole, though what made it has died before it could say so."""
    uid = study_uid(stage.push("NOBODY"))
    settled(stage.node, uid)
    home = stage.folder / "copy"
    home.mkdir()
    target = home / "ledger.sqlite"
    stage.node.cli("backup", str(target), code=-signal.SIGKILL)
    copy = Ledger(home)
    copy.ready()
    with copy.read() as tx:
        assert uid in tx.execute(select(schema.study.c.study_instance_uid)).scalars().all()
    copy.close()
    stage.node.cli("backup", "--force", str(target))
    assert [each.name for each in home.iterdir() if ".part" in each.name] == []


def purged(stage: Stage, label: str) -> None:
    """A person purges a study, and that dies; what is left of it is finished. Then the study is pushed again."""
    files = stage.push("WHOLE" if label == "purge result" else "NOBODY")
    uid = study_uid(files)
    settled(stage.node, uid)
    while stage.armed() and label != "bring back":
        _typed(stage, "purge", uid)
    _typed(stage, "purge", uid)
    assert not {data_set_digest(each) for each in files} & stage.digests()
    stage.assert_tidy()
    if label == "bring back":
        stage.push("NOBODY", files)
        stage.hit(label)
        settled(stage.node, uid)
        stage.assert_kept(files)


def _typed(stage: Stage, *words: str) -> None:
    """A command that may die, or find that another has done its work."""
    command = [sys.executable, "-m", "radnode.cli", *words]
    subprocess.run(command, cwd=stage.node.folder, env=stage.node.env, capture_output=True, check=False)


def rerouted(stage: Stage, label: str) -> None:
    """routing.yaml is edited."""
    text = stage.node.routing.read_text()
    apply(stage.node, f"{text}# {label}\n")
    stage.hit(label)
    whole(stage, label)


def committed(stage: Stage, label: str) -> None:
    """Storage Commitment is asked for, and told to a modality that has gone."""
    files = stage.push("MODALITY")
    modality = stage.modality
    modality.reports.clear()
    with modality.listening():
        until(lambda: _asks(stage, modality, files), "the request is taken")
        until(lambda: modality.reports, "the report has come")
        stage.hit(label)
        until(lambda: _commitments(stage) <= {"reported", "parked"}, "the ledger knows")
    assert {kind for kind, _, _ in modality.reports} == {1}


def unreachable(stage: Stage, label: str) -> None:
    """The modality that wants to be told does not answer at first."""
    files = stage.push("MODALITY")
    modality = stage.modality
    modality.reports.clear()
    until(lambda: _asks(stage, modality, files), "the request is taken")
    stage.hit(label)
    with modality.listening():
        until(lambda: modality.reports, "the report has come")
        until(lambda: _commitments(stage) <= {"reported", "parked"}, "the ledger knows")


def stranger(stage: Stage, label: str) -> None:
    """Nobody knows where the modality that wants to be told is."""
    files = stage.push("MODALITY")
    until(lambda: _asks(stage, Modality("STRANGER"), files), "the request is taken")
    stage.hit(label)
    until(lambda: _commitments(stage) <= {"reported", "parked"}, "it is parked")


def _asks(stage: Stage, modality: Modality, files: list[Path]) -> bool:
    try:
        modality.asks(stage.node, references(files))
    except (AssertionError, AttributeError, RuntimeError, ValueError):  # the receiver died under it
        return False
    return True


def _commitments(stage: Stage) -> set[str]:
    ledger = Ledger(stage.node.home)
    with ledger.read() as tx:
        found = set(tx.execute(select(schema.commitment.c.state)).scalars())
    ledger.close()
    return found


ON_REQUEST: dict[str, Callable[[Stage, str], None]] = {
    **dict.fromkeys(("pause", "resume", "act"), commanded),
    **dict.fromkeys(("remember fingerprints", "mark purged", "purge file", "purge result", "purged"), purged),
    "bring back": purged,
    **dict.fromkeys(("remember routing", "wake commitments"), rerouted),
    **dict.fromkeys(("record commitment", "commitments flushed", "claim commitment"), committed),
    **dict.fromkeys(("commitment told", "settle commitment"), committed),
    "postpone commitment": unreachable,
    "park commitment": stranger,
    "replay job": run_again,
    "copied": backed_up,
}
