"""Every line of a node's log is of one form, whoever writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

WRITE = """
import logging
import threading
from radnode import settings, telemetry
telemetry.set_up(settings.load(), "core")
telemetry.log().info("ours", number=1)
thread = threading.Thread(target=lambda: telemetry.log().info("of a thread"))
thread.start()
thread.join()
for other in ("the broker", "the broker", "a message", "the broker"):
    logging.getLogger("dramatiq.worker").critical("lost %s", other)
logging.getLogger("pydicom").setLevel(logging.WARNING)
logging.getLogger("pydicom").warning("a value of somebody")
logging.getLogger("pynetdicom.acse").error("no accepted presentation contexts")
"""


def test_what_a_library_says_is_a_line_of_json_as_well_not_again_and_again_and_no_peers_data(tmp_path: Path) -> None:
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    env = {"RADNODE_HOME": str(tmp_path), "RADNODE_LOG_FORMAT": "json"}
    done = subprocess.run([sys.executable, "-c", WRITE], env=env, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(each["event"], each["level"], each["part"]) for each in lines] == [
        ("ours", "info", "core"),
        ("of a thread", "info", "core"),
        ("lost the broker", "critical", "core"),
        ("lost a message", "critical", "core"),
    ]
    assert lines[2]["logger"] == "dramatiq.worker"
    assert lines[2]["timestamp"]
