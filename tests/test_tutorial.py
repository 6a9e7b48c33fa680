"""docs/tutorial.md, every block of it, in its order, as its reader would do it; and what `radnode app new` makes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from radnode.domain.errors import OptionsError
from radnode.run.new_app import new_app
from tests.peers import REPO, free_port

PAGE = (REPO / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"([^\n]*)\n+```(\w+)\n(.*?)```", PAGE, re.DOTALL)
FIRST = "scripts/setup --dev\n. .venv/bin/activate\n"
PLACES = {
    "python": (
        "apps/lesion_load/__init__.py", "apps/lesion_load/test_lesion_load.py", "apps/slice_score.py", "model.py",
    ),
    "yaml": ("routing.yaml",),
}  # fmt: skip


@pytest.mark.timeout(1200)
def test_every_block_of_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    places = {kind: iter(each) for kind, each in PLACES.items()}
    assert BLOCKS[0][2] == FIRST  # what the suite itself began with
    port, model_port = free_port(), free_port()
    variables = environment(tmp_path)
    sessions: list[subprocess.Popen[bytes]] = []
    try:
        for _, kind, block in BLOCKS[1:]:
            text = block.replace("11113", str(port)).replace("8085", str(model_port))
            if kind == "sh":
                started = subprocess.Popen(
                    ["bash", "-ec", text], cwd=tmp_path, env=variables, start_new_session=True,
                    stdout=(tmp_path / "out.txt").open("ab"), stderr=subprocess.STDOUT,
                )  # fmt: skip
                sessions.append(started)
                assert started.wait(600) == 0, f"{text}\n{(tmp_path / 'out.txt').read_text()[-4000:]}"
            else:
                place = tmp_path / next(places[kind])
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text)
        assert all(next(each, None) is None for each in places.values())
        assert len(list((tmp_path / "received").iterdir())) == 3
        assert len(list((tmp_path / "results").glob("sc-*.png"))) == 12
        assert b"asked model dense" in (tmp_path / "scores" / "sr-0001.dcm").read_bytes()
        assert "lesion-load" in (tmp_path / "out.txt").read_text()
    finally:
        for each in sessions:
            end(each)


def environment(folder: Path) -> dict[str, str]:
    foreign = ("RADNODE_", "REDIS_", "DATABASE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = {"RADNODE_PORT": str(free_port()), "RADNODE_HTTP_PORT": "0", "RADNODE_WORKERS": "1", "RADNODE_RECEIVERS": "1"}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, **own, "RADNODE_HOST": "127.0.0.1", "PATH": path, "HOME": str(folder)}


def end(session: subprocess.Popen[bytes]) -> None:
    """What a block left running in the background."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(session.pid, number)
        except ProcessLookupError:
            return
        subprocess.run(["timeout", "8", "tail", f"--pid={session.pid}", "-f", "/dev/null"], check=False)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Upper", "no name"), ("../x", "no name"), ("a" * 41, "no name"), ("json", "module of Python"),
        ("taken", "already"), ("known", "already"), ("numpy", "installed"), ("lambda", "Python's own"),
        ("none", "Python's own"), ("declined", "radnode calls its Declined"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_used_is_refused_and_nothing_made(tmp_path: Path, name: str, fault: str) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OptionsError, match=fault):
        new_app(tmp_path, name, {"known"})
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
