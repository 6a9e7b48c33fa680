"""Instances per second into radnode's receivers, beside DCMTK's storescp and pynetdicom's AE, in interleaved rounds.

The sender is `dcmsend`, start and all. CPU is the receiver's, children included, per instance. radnode syncs every
instance and records it in its ledger; the others do neither. Compare ratios within one run: machines differ.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from radnode import settings
from radnode.state.ledger import Ledger

_TICK = os.sysconf("SC_CLK_TCK")

_PYNETDICOM = """
import itertools, sys
from pathlib import Path
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.sop_class import Verification
_config.LOG_HANDLER_LEVEL = "none"
numbers = itertools.count()
def store(event):
    Path(sys.argv[2], f"{next(numbers)}.dcm").write_bytes(event.encoded_dataset())
    return 0
ae = AE(ae_title="RADNODE")
ae.supported_contexts = AllStoragePresentationContexts
ae.add_supported_context(Verification)
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=[(evt.EVT_C_STORE, store)])
"""


@dataclass(frozen=True)
class Load:
    """One column of the table: which instances, how many senders, and whether they leave Nagle's algorithm on."""

    name: str
    folder: Path
    instances: int
    senders: int
    nagle: bool


def make_series(folder: Path, size: int, count: int) -> Path:
    """`count` instances of `size` x `size` pixels, 16 bits, with some hundred attributes."""
    folder.mkdir()
    noise = np.random.default_rng(size)
    study, series = generate_uid(), generate_uid()
    for number in range(count):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.PatientName, ds.PatientID, ds.Modality, ds.InstanceNumber = "Bench^Ingest", "B1", "CT", number + 1
        block = ds.private_block(0x0019, "RADNODE BENCH", create=True)
        for element in range(200):
            block.add_new(element, "DS", f"{number}.{element}")
        ds.Rows = ds.Columns = size
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.PixelData = noise.integers(0, 4096, (size, size), dtype=np.uint16).tobytes()
        ds.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return folder


# ---- receivers ------------------------------------------------------------------------------------------------------


@contextmanager
def processes(*commands: list[str], port: int, **how: object) -> Iterator[list[int]]:
    """Runs the commands until the port answers C-ECHO, and to the end of the block; gives their process ids."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **how}
    children = [subprocess.Popen(each, **quiet) for each in commands]
    echo = ["echoscu", "-aec", "RADNODE", "127.0.0.1", str(port)]
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(echo, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise SystemExit(f"{commands[0][0]} does not answer")
            time.sleep(0.1)
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()


@contextmanager
def radnode(home: Path, port: int) -> Iterator[list[int]]:
    """`radnode receive`, with a ledger of its own that `radnode core` would have made."""
    home.mkdir()
    own = {"RADNODE_HOME": str(home), "RADNODE_HOST": "127.0.0.1", "RADNODE_PORT": str(port)}
    own |= {"RADNODE_LOG_LEVEL": "warning", "REDIS_URL": "redis://127.0.0.1:1"}  # receivers do not need the broker
    ledger = Ledger(settings.load(own, dotenv=home / "none").home)
    ledger.migrate()
    ledger.close()
    env = {key: value for key, value in os.environ.items() if not key.startswith("RADNODE_")} | own
    with processes([sys.executable, "-m", "radnode.cli", "receive"], port=port, env=env, cwd=home) as pids:
        yield pids


@contextmanager
def storescp(home: Path, port: int) -> Iterator[list[int]]:
    home.mkdir()
    environment = os.environ | {"TCP_NODELAY": "1"}  # without it its own responses wait as well
    with processes(["storescp", "--fork", "-od", str(home), str(port)], port=port, env=environment) as pids:
        yield pids


@contextmanager
def pynetdicom(home: Path, port: int) -> Iterator[list[int]]:
    home.mkdir()
    with processes([sys.executable, "-c", _PYNETDICOM, str(port), str(home)], port=port) as pids:
        yield pids


# ---- measuring ------------------------------------------------------------------------------------------------------


def cpu(pids: list[int]) -> float:
    """Seconds of user and system time of these processes, their children, and the children they have reaped."""
    ticks = 0
    wanted = set(pids)
    for path in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(path.parent.name) in wanted or int(fields[1]) in wanted:
            wanted.add(int(path.parent.name))
            ticks += sum(int(each) for each in fields[11:15])
    return ticks / _TICK


def send(load: Load, port: int) -> float:
    """Sends the load; returns the seconds it took."""
    address = ["-aec", "RADNODE", "127.0.0.1", str(port)]
    command = ["dcmsend", "--max-send-pdu", "131072", *address, "+sd", str(load.folder)]
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    if not load.nagle:
        environment["TCP_NODELAY"] = "1"
    begin = time.perf_counter()
    senders = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(load.senders)]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise SystemExit(f"dcmsend failed on {load.name}")
    return time.perf_counter() - begin


Receiver = Callable[[Path, int], AbstractContextManager[list[int]]]


def measure(start: Receiver, load: Load, home: Path) -> tuple[float, float]:
    """Instances per second, and CPU milliseconds per instance, of a fresh receiver."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    total = load.instances * load.senders
    with start(home, port) as pids:
        before = cpu(pids)
        seconds = send(load, port)
        used = cpu(pids) - before
    shutil.rmtree(home)
    return total / seconds, used * 1000 / total


RECEIVERS: dict[str, Receiver] = {"radnode": radnode, "storescp --fork": storescp, "pynetdicom AE": pynetdicom}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to receive to: the disk to be measured (default: temporary)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        small, large = make_series(folder / "mr", 128, 200), make_series(folder / "ct", 512, 200)
        loads = [
            Load("33 kB x1", small, 200, 1, False),
            Load("33 kB x4", small, 200, 4, False),
            Load("525 kB x1", large, 200, 1, False),
            Load("525 kB x4", large, 200, 4, False),
            Load("33 kB x1, Nagle", small, 200, 1, True),
        ]
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(given.rounds):
            for load in loads:
                for receiver, start in RECEIVERS.items():
                    found.setdefault((receiver, load.name), []).append(measure(start, load, folder / "home"))
        report(found, loads)


def report(found: dict[tuple[str, str], list[tuple[float, float]]], loads: list[Load]) -> None:
    """Medians, and how many times faster radnode is."""
    rate = {key: statistics.median(each for each, _ in runs) for key, runs in found.items()}
    used = {key: statistics.median(each for _, each in runs) for key, runs in found.items()}
    print("| receiver | " + " | ".join(load.name for load in loads) + " |")
    print("|---" * (len(loads) + 1) + "|")
    for receiver in RECEIVERS:
        cells = [f"{rate[receiver, load.name]:.0f}/s ({used[receiver, load.name]:.2f} ms)" for load in loads]
        print(f"| {receiver} | " + " | ".join(cells) + " |")
    for receiver in list(RECEIVERS)[1:]:
        cells = [f"{rate['radnode', load.name] / rate[receiver, load.name]:.2f}" for load in loads]
        print(f"| radnode : {receiver} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
