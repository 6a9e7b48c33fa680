"""Seconds and peak memory of the apps that come with radnode, by stage, on phantoms. `inference` is the stand-in's.

glioma is run once, on four series as large as a patient's; its peak is that of all of them in one process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

from radnode import models
from radnode.run.apps import find
from radnode.run.local import run_local
from radnode.testing import brain_mr, head_ct

ROOT = Path(__file__).parent.parent
POSES = {"t1": (3, -4, 5, 4, -3, 6), "flair": (6, 2, -3, -2, 4, -3), "t2": (-4, 3, 2, 3, 2, 5)}
INPUTS = {"flair": "*FLAIR", "t1": "AX T1", "t1ce": "*POST", "t2": "*TSE"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=28)
    parser.add_argument("--runs", type=int, default=3, help="the last one is shown: warm")
    given = parser.parse_args()
    catalog = find(ROOT / "apps")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head_ct(folder / "ct", slices=given.slices, bleed_ml=20)
        for app in ("test", "hyperdense", "hemorrhage"):
            for _ in range(given.runs):
                (ran,) = run_local(catalog.get(app), folder / "ct", {}, folder / "out")
            report(app, dict(ran.seconds), sum(each.seconds for each in models.usage()))
        brain_mr(folder / "mr", poses=POSES, size=256, slices=26, spacing=5.5)
        (ran,) = run_local(catalog.get("glioma"), folder / "mr", {}, folder / "out", level="study", inputs=INPUTS)
        report("glioma", dict(ran.seconds), sum(each.seconds for each in models.usage()))


def report(app: str, seconds: dict[str, float], inference: float) -> None:
    seconds["app"] -= inference
    stages = ", ".join(f"{stage} {spent:.2f}" for stage, spent in seconds.items())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{app:12} {sum(seconds.values()):5.2f} s without inference, peak {peak:.0f} MiB")
    print(f"{'':12} {stages}; inference {inference:.2f}")


if __name__ == "__main__":
    main()
