"""What encoding costs: milliseconds of CPU and memory per kind of result, for a series of many slices.

CPU, not the clock: user and system of the process and of the validators it starts. The memory is what the peak of the
resident set (VmHWM) grows by, the object's bytes among it.

scripts/bench encode [--slices 300] [--size 512]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from radnode import (
    EncapsulatedPdf,
    Finding,
    KeyImages,
    Measurement,
    MeasurementReport,
    ParametricMap,
    Region,
    SecondaryCapture,
    Segment,
    Segmentation,
    Series,
)
from radnode.dicom.encode import encode, load_all
from radnode.dicom.encode.check import check
from radnode.dicom.volume import read_series
from radnode.domain.jobs import Assignment
from radnode.testing import head_ct

JOB = Assignment("0" * 32, "bench", "1", "series", {}, {}, "2026-01-01T00:00:00+00:00")


def main() -> None:
    options = arguments()
    if options.kind:
        print(json.dumps(measure(options.kind, options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        head_ct(Path(folder), slices=options.slices, size=options.size, spacing=150 / options.slices, bleed_ml=30)
        print(f"{options.slices} slices of {options.size}²; the app's own arrays are part of the memory\n")
        print("| result | objects | MB | encode, ms | check, ms | memory, MB |\n|---|---|---|---|---|---|")
        for kind in KINDS:
            command = [sys.executable, __file__, "--kind", kind, "--folder", folder]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print("| {kind} | {objects} | {size:.1f} | {encode:.0f} | {check:.0f} | {peak:.0f} |".format(**found))


def measure(kind: str, folder: Path) -> dict[str, Any]:
    """Encodes one kind in this process, writes it and checks it."""
    load_all()
    (series,) = read_series(sorted(folder.glob("ct-*.dcm")))
    results = KINDS[kind](series, ball(series))
    before = peak()
    start = cpu()
    paths = []
    for number, encoded in enumerate(encode(results, series, JOB)):
        paths.append(folder / f"out-{number}.dcm")
        paths[-1].write_bytes(encoded.data())
    spent = cpu() - start
    grown = peak() - before
    start = cpu()
    problems = [check(path, series.first.path) for path in paths]
    checked = cpu() - start
    assert not any(problems), problems
    size = sum(path.stat().st_size for path in paths) / 1e6
    for path in paths:
        path.unlink()
    return {
        "kind": kind,
        "objects": len(paths),
        "size": size,
        "encode": spent * 1000,
        "check": checked * 1000,
        "peak": grown,
    }


def cpu() -> float:
    """Seconds of CPU, of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak() -> float:
    """Largest resident memory so far, MB."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def ball(series: Series) -> np.ndarray:
    """A mask of a tenth of every slice."""
    rows, columns = int(series.first.get("Rows")), int(series.first.get("Columns"))
    y, x = np.ogrid[:rows, :columns]
    disc = (y - rows / 2) ** 2 + (x - columns / 2) ** 2 < rows * columns / 10 / np.pi
    return np.broadcast_to(disc, (len(series), rows, columns)).copy()


def overlay(series: Series, mask: np.ndarray) -> list[Any]:
    return [SecondaryCapture.overlay(series, mask, window=(40, 80), series=series)]


def report(series: Series, mask: np.ndarray) -> list[Any]:
    segment = Segment("Lesion", mask)
    region = Region(segment, measurements=[Measurement.volume_ml("Volume", segment)])
    return [Segmentation([segment]), MeasurementReport(findings=[Finding("Bleed", True)], regions=[region])]


KINDS: dict[str, Callable[[Series, np.ndarray], list[Any]]] = {
    "captures on every slice": overlay,
    "one page": lambda series, mask: [SecondaryCapture(np.zeros((800, 600, 3), np.uint8))],
    "segmentation, BINARY": lambda series, mask: [Segmentation([Segment("Lesion", mask)])],
    "segmentation, LABELMAP": lambda series, mask: [Segmentation([Segment("Lesion", mask)], kind="LABELMAP")],
    "segmentation, FRACTIONAL": lambda series, mask: [Segmentation([Segment("Lesion", mask)], kind="FRACTIONAL")],
    "parametric map": lambda series, mask: [ParametricMap(mask.astype(np.float32), "Risk")],
    "report and segmentation": report,
    "report": lambda series, mask: [MeasurementReport([Measurement("Size", 3, "mm")], [Finding("Bleed", False)])],
    "key images": lambda series, mask: [KeyImages(series.planes[:3])],
    "PDF": lambda series, mask: [EncapsulatedPdf(b"%PDF-1.4\n" + bytes(1_000_000))],
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
