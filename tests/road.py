"""Studies for tests, and how to follow one on its road through a running node."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydicom import dcmread

from radnode import settings as settings_module
from radnode.run import look
from radnode.state import intake
from radnode.testing.phantom import head_ct
from radnode.testing.sink import SinkPacs
from tests.peers import REPO, Node, until

QUICK = "complete: {series: 1s, study: 2s}\n"


def small_ct(folder: Path, seed: int, **options: Any) -> list[Path]:
    """A phantom of few small images: another seed is another study."""
    return head_ct(folder, **({"slices": 4, "size": 32, "seed": seed} | options))


def two_series(folder: Path, seed: int) -> tuple[list[Path], list[Path]]:
    """One study: four axial images, and two of a localizer."""
    files = small_ct(folder, seed, localizer=True)
    return [each for each in files if "ct-" in each.name], [each for each in files if "localizer" in each.name]


def uids(files: Iterable[Path]) -> list[str]:
    """SOP Instance UIDs, sorted."""
    return sorted(str(dcmread(each, stop_before_pixels=True).SOPInstanceUID) for each in files)


def study_uid(files: Iterable[Path]) -> str:
    return str(dcmread(next(iter(files)), stop_before_pixels=True).StudyInstanceUID)


def apps_folder(folder: Path, **modules: str) -> Path:
    """A RADNODE_APPS with the project's own apps, and a module for each text given."""
    folder.mkdir(parents=True)
    for name in ("test", "hyperdense"):
        (folder / name).symlink_to(REPO / "apps" / name)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def destinations(**sinks: SinkPacs) -> str:
    """The section of routing.yaml that names these sinks."""
    lines = [f"  {name}: {{aet: {each.aet}, host: 127.0.0.1, port: {each.port}}}\n" for name, each in sinks.items()]
    return "destinations:\n" + "".join(lines)


def apply(node: Node, text: str) -> None:
    """Edits routing.yaml, and returns when the edit is in force."""
    node.route(text)
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    until(lambda: _version(node) == version, "the routing is in force")


def _version(node: Node) -> str:
    with look.ledger_of(settings_of(node)) as ledger, ledger.read() as tx:
        found = intake.routing_in_force(tx)
        return "" if found is None else str(found.version)


def push(node: Node, files: Iterable[Path], **options: Any) -> str:
    """Sends files over one association, all of which the node has to take; returns the Study Instance UID."""
    files = list(files)
    assert {each.status for each in node.send(files, **options)} == {0}
    return study_uid(files)


def study(node: Node, uid: str) -> dict[str, Any]:
    """What the node knows of a study now; what it has just acknowledged is in the ledger a moment later."""
    (found,) = until(lambda: look.studies(settings_of(node), uid), "the study is in the ledger")
    return found


def settled(node: Node, uid: str, state: str = "done", timeout: float = 90) -> dict[str, Any]:
    """The study, once it has nothing more to do and is in this state."""
    return until(lambda: study(node, uid)["state"] == state and study(node, uid), f"the study is {state}", timeout)


def job_in(node: Node, uid: str, state: str, timeout: float = 90) -> dict[str, Any]:
    """The study's only job, once it is in this state."""

    def found() -> Any:
        jobs = study(node, uid)["jobs"]
        return len(jobs) == 1 and jobs[0]["state"] == state and jobs[0]

    return until(found, f"one job, {state}", timeout)


def delivery_in(node: Node, uid: str, state: str, destination: str = "a", timeout: float = 90) -> dict[str, Any]:
    """The study's only delivery to a destination, once it is in this state."""

    def found() -> Any:
        there = [each for each in study(node, uid)["deliveries"] if each["destination"] == destination]
        return len(there) == 1 and there[0]["state"] == state and there[0]

    return until(found, f"one delivery to {destination}, {state}", timeout)


def events(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """A study's events of one kind."""
    return [each for each in found["timeline"] if each["event"] == kind]


def verdicts(found: dict[str, Any], kind: str = "complete") -> dict[tuple[str, str], tuple[bool, str]]:
    """(SeriesInstanceUID, rule) -> (matched, reason), by the study's events of that kind."""
    return {
        (each["SeriesInstanceUID"], rule["rule"]): (rule["matched"], rule["reason"])
        for each in events(found, kind)
        for rule in each["rules"]
    }


def series_uid(files: Iterable[Path]) -> str:
    return str(dcmread(next(iter(files)), stop_before_pixels=True).SeriesInstanceUID)


def settings_of(node: Node) -> settings_module.Settings:
    return settings_module.load(node.env, node.folder / "no.env")
