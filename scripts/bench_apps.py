"""Seconds and peak memory of the apps that come with radnode, by stage, on phantoms: each app in a process of its own.

The peak of a stage is that of the whole process's resident set while the stage lasted, what came before and is still
held among it. `glioma` runs on four series as they mostly come (26 slices), `glioma 3-D` on four of 1 mm, 155 slices.
The model is the stand-in; what it takes is named, and left out of the sum.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from radnode import models
from radnode.run import process
from radnode.run.apps import find
from radnode.run.local import run_local
from radnode.testing import brain_mr, head_ct

ROOT = Path(__file__).parent.parent
POSES = {"t1": (3, -4, 5, 4, -3, 6), "flair": (6, 2, -3, -2, 4, -3), "t2": (-4, 3, 2, 3, 2, 5)}
INPUTS = {"flair": "*FLAIR", "t1": "AX T1", "t1ce": "*POST", "t2": "*TSE"}
BRAINS = {
    "glioma": {"size": 256, "slices": 26, "spacing": 5.5},
    "glioma 3-D": {"size": 240, "slices": 155, "spacing": 1.0},
}
CASES = ("test", "hyperdense", "hemorrhage", *BRAINS)


class Watch:
    """In place of the runner's clock: also the peak of each stage. What lies within another stage counts once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}
        self._open = ["between"]
        self._since = time.monotonic()
        last.append(self)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def each(self, name: str, items: Iterator, *, less: str = "") -> Iterator:
        while True:
            with self.measure(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def step(self, text: str) -> None:
        """What the app says it does is a stage of its own."""
        if self._open[-1].startswith("app"):
            self._count()
            self._open[-1] = f"app: {text.rpartition(': ')[2].partition(' (')[0]}"

    def _count(self) -> None:
        name, now = self._open[-1], time.monotonic()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self.peaks[name] = max(self.peaks.get(name, 0.0), peak())
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, at what is held now
        self._since = now


last: list[Watch] = []


def peak() -> float:
    """MiB."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", choices=CASES, help="all where none is named")
    parser.add_argument("--slices", type=int, default=28, help="of the head CT")
    parser.add_argument("--runs", type=int, default=3, help="of the head CT apps; the last one is shown: warm")
    given = parser.parse_args()
    if given.case:
        measured(given.case, given.slices, given.runs)
        return
    for case in CASES:
        same = ["--slices", str(given.slices), "--runs", str(given.runs)]
        subprocess.run([sys.executable, __file__, case, *same], check=True)


def measured(case: str, slices: int, runs: int) -> None:
    process._Clock = Watch  # type: ignore[assignment,misc]
    app = find(ROOT / "apps").get(case.partition(" ")[0])
    with tempfile.TemporaryDirectory() as name:
        folder, inputs = Path(name), INPUTS if case in BRAINS else None
        if inputs:
            brain_mr(folder / "in", poses=POSES, **BRAINS[case])
        else:
            head_ct(folder / "in", slices=slices, bleed_ml=20)
        for _ in range(1 if inputs else runs):
            run_local(
                app, folder / "in", {}, folder / "out", lambda text: last[-1].step(text) if last else None,
                level="study" if inputs else "series", inputs=inputs,
            )  # fmt: skip
    report(case, last[-1], sum(each.seconds for each in models.usage()))


def report(case: str, watch: Watch, inference: float) -> None:
    total = sum(watch.seconds.values()) - inference
    print(f"{case:12} {total:6.2f} s without inference ({inference:.2f} s), peak {max(watch.peaks.values()):.0f} MiB")
    for stage, seconds in watch.seconds.items():
        print(f"{'':12} {stage:24} {seconds:6.2f} s {watch.peaks[stage]:6.0f} MiB")


if __name__ == "__main__":
    main()
