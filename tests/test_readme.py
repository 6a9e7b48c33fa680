"""What README.md shows is true: its app runs, its routing is good, its files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from radnode.domain.routing import parse_routing
from radnode.run.apps import find
from radnode.run.local import run_local
from radnode.testing import head_ct

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_app_of_the_readme_gives_a_report_and_a_capture_per_slice(tmp_path: Path) -> None:
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "bright.py").write_text(blocks("python")[0])
    head_ct(tmp_path / "ct", slices=12, size=64, bleed_ml=30)
    catalog = find(tmp_path / "apps")
    assert catalog.faults == {}
    app = catalog.get("bright")
    (ran,) = run_local(app, tmp_path / "ct", {"threshold_hu": "55"}, tmp_path / "out", lambda text: None)
    kinds = sorted(path.name.split("-")[0] for path in ran.files if path.suffix == ".dcm")
    assert kinds == ["sc"] * 12 + ["sr"]


def test_the_routing_of_the_readme_is_good() -> None:
    (text,) = blocks("yaml")
    routing = parse_routing(text, source="README.md", catalog=find(ROOT / "apps"))
    assert [rule.name for rule in routing.rules] == ["head-ct-hyperdense"]
    assert routing.senders.allows("MAINPACS", "10.1.2.3") and not routing.senders.allows("MAINPACS", "10.2.2.3")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:docs|scripts|deploy)/[\w./-]*)`?", README))))
def test_what_the_readme_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_commands_of_the_readme_are_commands() -> None:
    from radnode.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups}
    named = set(re.findall(r"(?:\.venv/bin/radnode|`radnode) ([a-z]+)", README))
    assert named and named <= known
