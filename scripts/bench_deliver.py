"""How fast results go out: a node's sending side beside DCMTK's dcmsend, with the same files to the same sink.

500 captures of 512x512 and one report over one association to DCMTK's storescp, which keeps nothing. Twice: with
Nagle's algorithm in DCMTK, which is its default on both sides, and without (TCP_NODELAY=1). Of dcmsend the whole
process counts, of radnode what a delivery does: opening the association, every instance, release.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, generate_uid

from radnode.dicom.scu import Sender, read_outgoing
from radnode.testing.phantom import head_ct
from tests.peers import Storescp, tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captures", type=int, default=500)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = results(folder / "results", given.captures, given.size)
        for nagle in (True, False):
            os.environ["TCP_NODELAY"] = "0" if nagle else "1"  # DCMTK reads it, in sink and sender
            with Storescp(folder / f"sink-{nagle}", "--ignore", "--max-pdu", "131072") as sink:
                measure(files, sink, given.rounds, "with" if nagle else "without")


def measure(files: list[Path], sink: Storescp, rounds: int, nagle: str) -> None:
    ways: dict[str, Callable[[], None]] = {
        "radnode": lambda: by_radnode(files, sink),
        "dcmsend": lambda: by_dcmsend(files, sink),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):  # in turn, so that a machine that slows down slows both
        for way, send in ways.items():
            begun, worked = time.perf_counter(), cpu()
            send()
            seconds[way].append(time.perf_counter() - begun)
            spent[way].append(cpu() - worked)
    total = sum(each.stat().st_size for each in files)
    print(f"DCMTK {nagle} Nagle: {len(files)} instances, {total / 1e6:.0f} MB, median of {rounds}")
    for way, measured in seconds.items():
        median = statistics.median(measured)
        rates = f"{len(files) / median:7.0f} instances/s {total / median / 1e6:7.0f} MB/s"
        busy = 1000 * statistics.median(spent[way]) / len(files)
        print(f"  {way}  {median:6.2f} s {rates}, sender's CPU {busy:.2f} ms per instance")


def cpu() -> float:
    """Seconds that this process and its ended children have worked."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def results(folder: Path, captures: int, size: int) -> list[Path]:
    """RGB captures and one report, as large as an app's; what is in them does not matter here."""
    (source,) = head_ct(folder, slices=1, size=32)
    ds = dcmread(source)
    source.unlink()
    made = []
    for number in range(captures + 1):
        report = number == captures
        ds.SOPClassUID = Comprehensive3DSRStorage if report else SecondaryCaptureImageStorage
        ds.SOPInstanceUID = generate_uid()
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.Rows, ds.Columns = 7, size, size
        ds.PixelData = bytes(20_000 if report else size * size * 3)
        ds["PixelData"].VR = "OB"
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        made.append(folder / f"{number:04}.dcm")
        ds.save_as(made[-1])
    return made


def by_radnode(files: list[Path], sink: Storescp) -> None:
    with Sender(sink.peer) as sender:
        statuses = [each.status for each in sender.send([read_outgoing(each) for each in files])]
    assert statuses == [0x0000] * len(files)


def by_dcmsend(files: list[Path], sink: Storescp) -> None:
    command = [tool("dcmsend"), "--max-send-pdu", "131072", "-aec", sink.aet, "127.0.0.1", str(sink.port)]
    subprocess.run([*command, *map(str, files)], check=True, capture_output=True)


if __name__ == "__main__":
    main()
