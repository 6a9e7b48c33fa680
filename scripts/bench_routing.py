"""Routing: rules held against one series, whose headers have been read, and a routing file read from its text.

No part of a node runs: this is `domain/routing` alone, in one process. Times are CPU time: what else the machine
is busy with does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radnode.domain.routing import Routing, evaluate_series, parse_routing
from radnode.domain.study import Instance, Series
from tests.judging import Apps

MODALITIES = ("CT", "MR", "CR", "US")


def text_of(rules: int) -> str:
    """Rules of five conditions each, a quarter of them for CT, every thirtieth of those for this series."""
    lines = ["defaults: {send_to: []}", "rules:"]
    for number in range(rules):
        lines += [
            f"  - name: rule-{number}",
            "    app: test",
            "    when:",
            f"      Modality: {MODALITIES[number % 4]}",
            f'      StudyDescription: ["*SITE {number % 30} HEAD*", "*BRAIN {number % 30}*"]',
            f"      SliceThickness: {{max: {number % 9 + 1}}}",
            "    unless:",
            f'      SeriesDescription: ["*LOCALIZER*", "*SCOUT*", "*BONE {number}*"]',
            '      ContrastBolusAgent: "*"',
        ]
    return "\n".join(lines) + "\n"


def series_of(images: int) -> Series:
    common: dict[str, tuple[str | float, ...]] = {
        "StudyInstanceUID": ("1.2",), "SeriesInstanceUID": ("1.2.3",), "Modality": ("CT",), "SliceThickness": (5.0,),
        "StudyDescription": ("CT SITE 8 HEAD NATIVE",), "SeriesDescription": ("AXIAL 5.0 SOFT TISSUE",),
        "ImageType": ("ORIGINAL", "PRIMARY", "AXIAL"),
    }  # fmt: skip
    return Series(tuple(Instance(Path(), {**common, "InstanceNumber": (number,)}) for number in range(images)))


def milliseconds(action: Callable[[], Any], times: int) -> tuple[float, float]:
    """Of CPU time: median and worst."""
    taken = []
    for _ in range(times):
        began = time.thread_time()
        action()
        taken.append((time.thread_time() - began) * 1000)
    return statistics.median(taken), max(taken)


def measure(rules: int, images: int, times: int) -> dict[str, Any]:
    text = text_of(rules)
    routing: Routing = parse_routing(text, catalog=Apps())

    def decide() -> int:
        return sum(each.matched for each in evaluate_series(routing, series_of(images), {}))

    def say() -> int:
        return len(json.dumps([each.for_timeline() for each in evaluate_series(routing, series_of(images), {})]))

    matched, written = decide(), say()
    made, _ = milliseconds(lambda: series_of(images), times)
    found: dict[str, Any] = {"rules": rules, "images": images, "matched": matched, "timeline_bytes": written}
    for name, action in (("decide", decide), ("with_reasons_as_json", say)):
        median, worst = milliseconds(action, times)
        found[name] = {"median_ms": round(median - made, 2), "worst_ms": round(worst - made, 2)}
    median, worst = milliseconds(lambda: parse_routing(text, catalog=Apps()), max(times // 20, 3))
    found["read_the_file"] = {"median_ms": round(median, 1), "worst_ms": round(worst, 1)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--times", type=int, default=100)
    given = parser.parse_args()
    print(json.dumps(measure(given.rules, given.images, given.times), indent=1))


if __name__ == "__main__":
    main()
