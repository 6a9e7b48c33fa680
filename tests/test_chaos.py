"""Two minutes of chaos, in each database: what `scripts/chaos` prints for hours, in the suite."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.peers import REPO, tool


@pytest.mark.timeout(1200)  # all that was received has to come to rest, on whatever machine
@pytest.mark.parametrize(("database", "minutes"), [("sqlite", "2"), ("postgres", "0.7")])
def test_random_kills_under_load_leave_no_difference(database: str, minutes: str) -> None:
    options = []
    if database == "postgres":
        tool("initdb")
        options = ["--postgres"]
    command = [sys.executable, "scripts/chaos.py", "--minutes", minutes, "--seed", "7", *options]
    env = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.stdout.endswith("\n0 differences\n")
    assert done.returncode == 0
