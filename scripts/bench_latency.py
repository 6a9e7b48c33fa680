"""How long a result takes beyond what must be: the road's overhead, with the app `test`, on this machine.

overhead = result stored at the PACS - last instance acknowledged - quiet time - the app's own time
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from radnode.testing import head_ct
from radnode.testing.sink import SinkPacs
from tests.peers import Node

RESULTS = 2  # the app's page and its report
ROUTING = """
destinations:
  pacs: {{aet: SINK, host: 127.0.0.1, port: {port}}}
complete: {{series: {quiet}s, study: 1h}}
defaults: {{send_to: [pacs]}}
rules:
  - {{name: test, app: test, when: {{Modality: CT}}}}
"""
STAGES = {  # event -> the event it is counted from
    "complete": "last instance",
    "job": "complete",
    "running": "job",
    "done": "running",
    "delivered": "done",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--quiet", type=float, default=1.0, help="seconds of quiet after which a series is complete")
    parser.add_argument("--slices", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, SinkPacs() as sink:
        folder = Path(name)
        with Node(folder / "node", ROUTING.format(port=sink.port, quiet=given.quiet)) as node:
            measure(node, sink, folder, given.slices, -1)  # the first one pays for imports and connections
            road = [measure(node, sink, folder, given.slices, number) for number in range(given.studies)]
            studies = node.json("studies", "--limit", str(given.studies))
    report(road, [stages(each, given.quiet) for each in studies], given.quiet)


def measure(node: Node, sink: SinkPacs, folder: Path, slices: int, number: int) -> float:
    """Pushes one study; seconds from its last C-STORE response to its last result at the sink."""
    files = head_ct(folder / str(number), slices=slices, size=128, seed=number + 2)
    expected = len(sink.received) + RESULTS
    answers = node.send(files)
    acknowledged = time.monotonic()
    assert [each.status for each in answers] == [0x0000] * slices
    return sink.wait_for(expected)[expected - 1].received_at - acknowledged


def stages(study: dict[str, Any], quiet: float) -> dict[str, float]:
    """Seconds of each stage, less what is not the road's own: the quiet time and the app's time."""
    at = {each["event"]: moment(each["at"]) for each in study["timeline"]}
    at["last instance"] = moment(study["last_received"])
    spent = {event: at[event] - at[earlier] for event, earlier in STAGES.items()}
    spent["complete"] -= quiet
    inside = next(each["seconds"] for each in study["timeline"] if each["event"] == "done")
    spent["done"] -= inside["app"]
    return {**spent, "app": inside["app"]}


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def report(road: list[float], spent: list[dict[str, float]], quiet: float) -> None:
    app = statistics.median(each["app"] for each in spent)
    overhead = [1000 * (each - quiet - app) for each in road]
    print(f"studies {len(road)}, quiet time {quiet} s, the app's own time {1000 * app:.0f} ms")
    print(f"overhead: median {statistics.median(overhead):.0f} ms, least {min(overhead):.0f}, most {max(overhead):.0f}")
    print("of which, median in ms:")
    for event, earlier in STAGES.items():
        print(f"  {earlier:>13} -> {event:10} {1000 * statistics.median(each[event] for each in spent):7.1f}")


if __name__ == "__main__":
    main()
