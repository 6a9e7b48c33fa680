"""Every line of a node's log is of one form, whoever writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

WRITE = """
import logging
from radnode import settings, telemetry
telemetry.set_up(settings.load(), "core")
telemetry.log().info("ours", number=1)
logging.getLogger("dramatiq.worker").critical("lost %s", "the broker")
logging.getLogger("pydicom").setLevel(logging.WARNING)
logging.getLogger("pydicom").warning("a value of somebody")
logging.getLogger("pynetdicom.acse").error("no accepted presentation contexts")
"""


def test_what_a_library_says_is_a_line_of_json_as_well_and_no_peers_data(tmp_path: Path) -> None:
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    env = {"RADNODE_HOME": str(tmp_path), "RADNODE_LOG_FORMAT": "json"}
    done = subprocess.run([sys.executable, "-c", WRITE], env=env, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(each["event"], each["level"], each["part"]) for each in lines] == [
        ("ours", "info", "core"),
        ("lost the broker", "critical", "core"),
    ]
    assert lines[1]["logger"] == "dramatiq.worker"
    assert lines[1]["timestamp"]
