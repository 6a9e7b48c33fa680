"""Instances per second into radnode's receivers, beside those of the field, in interleaved rounds.

The sender is `dcmsend`, start and all; every round has UIDs of its own. CPU is the receiver's, children included, per
instance. Who syncs what before it answers: radnode (fsync), Orthanc and the bare loop the instance, radnode (flush),
storescp and pynetdicom nothing; radnode and Orthanc keep a database as well. Compare ratios within one run: each is
the median over the rounds of this round's rates, in brackets of its CPU. Machines differ.

"Files alone" has no network: one thread for each sender writes the same files and makes them durable. radnode (fsync)
is compared with radnode (flush) and these one after the other: what it would be if nothing overlapped.

What was received is removed at the end only, some 23 MB for each of `--rounds` times `--instances`: on ext4, who writes
after many files were removed takes two to three times as much system time, and the order of the receivers would decide.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from radnode.state.presence import present
from tests.peers import Orthanc, free_port

STEM, UID = b"2.25.1", 36
"""How the instances' UIDs begin, and their length."""
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
    """One column of the table: a folder of instances for each sender, and whether it leaves Nagle's algorithm on."""

    name: str
    folders: tuple[Path, ...]
    instances: int
    nagle: bool = False

    def with_fresh_uids(self) -> Load:
        """The same instances under UIDs nobody has seen."""
        for path in (each for folder in self.folders for each in folder.iterdir()):
            data = path.read_bytes()
            at = data.index(STEM)
            fresh = f"{uuid.uuid4().int % 10**30:030d}".encode()
            path.write_bytes(data.replace(data[at : at + UID], STEM + fresh))
        return self


def make_series(folder: Path, size: int, count: int) -> Path:
    """`count` instances of `size` x `size` pixels, 16 bits, with some hundred attributes."""
    folder.mkdir()
    noise = np.random.default_rng(size)
    study, series = generate_uid(), generate_uid()
    for number in range(count):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"{STEM.decode()}{number:030d}"
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


Running = tuple[int, list[int]]
"""The port a receiver listens on, and its process ids."""


@contextmanager
def process(port: int, command: list[str], **how: object) -> Iterator[Running]:
    """Runs the command until the port answers C-ECHO, and to the end of the block."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **how}
    child = subprocess.Popen(command, **quiet)
    echo = ["echoscu", "-aec", "RADNODE", "127.0.0.1", str(port)]
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(echo, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not answer")
            time.sleep(0.1)
        yield port, [child.pid]
    finally:
        child.terminate()
        child.wait()


@contextmanager
def radnode(home: Path, durability: str) -> Iterator[Running]:
    """`radnode receive`, with a ledger of its own that `radnode core` would have made."""
    port = free_port()
    own = {"RADNODE_HOME": str(home), "RADNODE_HOST": "127.0.0.1", "RADNODE_PORT": str(port)}
    own |= {"RADNODE_LOG_LEVEL": "warning", "RADNODE_DURABILITY": durability}
    own |= {"REDIS_URL": "redis://127.0.0.1:1"}  # receivers do not need the broker
    node = settings.load(own, dotenv=home / "none")
    ledger = Ledger(node.home)
    ledger.migrate()
    ledger.close()
    env = {key: value for key, value in os.environ.items() if not key.startswith("RADNODE_")} | own
    with process(port, [sys.executable, "-m", "radnode.cli", "receive"], env=env, cwd=home) as running:
        while len(list(present(node.run, "receiver-"))) < node.receivers:  # one of them has answered already
            time.sleep(0.1)
        yield running


@contextmanager
def storescp(home: Path, *options: str) -> Iterator[Running]:
    port = free_port()
    environment = os.environ | {"TCP_NODELAY": "1"}  # without it its own responses wait as well
    with process(port, ["storescp", *options, "-od", str(home), str(port)], env=environment) as running:
        yield running


@contextmanager
def orthanc(home: Path) -> Iterator[Running]:
    with Orthanc(home, aet="RADNODE") as server:
        yield server.port, [server.process.popen.pid]


@contextmanager
def python(home: Path, *script: str) -> Iterator[Running]:
    port = free_port()
    with process(port, [sys.executable, *script, str(port), str(home)], cwd=Path(__file__).parents[1]) as running:
        yield running


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
    command = ["dcmsend", "--max-send-pdu", "131072", "-aec", "RADNODE", "127.0.0.1", str(port), "+sd"]
    environment = os.environ | {"TCP_NODELAY": "0" if load.nagle else "1"}
    begin = time.perf_counter()
    senders = [subprocess.Popen([*command, str(each)], env=environment, stderr=subprocess.DEVNULL)
               for each in load.folders]  # fmt: skip
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise SystemExit(f"dcmsend failed on {load.name}")
    return time.perf_counter() - begin


def measure(start: Receiver, load: Load, home: Path) -> tuple[float, float]:
    """Instances per second, and CPU milliseconds per instance, of a fresh receiver on a disk at rest."""
    home.mkdir()
    load.with_fresh_uids()
    total = load.instances * len(load.folders)
    with start(home) as (port, pids):
        os.sync()  # what the one before has left unwritten is not for this one to write
        before = cpu(pids)
        seconds = send(load, port)
        used = cpu(pids) - before
    return total / seconds, used * 1000 / total


def write(load: Load, home: Path) -> tuple[float, float]:
    """The same of writing the load's files and making each durable, by one thread for each sender."""
    home.mkdir()
    datas = [[path.read_bytes() for path in sorted(folder.iterdir())] for folder in load.folders]
    os.sync()
    begin, before = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(len(datas)) as pool:
        list(pool.map(_write_durably, [home / str(number) for number in range(len(datas))], datas))
    seconds, used = time.perf_counter() - begin, time.process_time() - before
    total = load.instances * len(load.folders)
    return total / seconds, used * 1000 / total


def _write_durably(folder: Path, datas: list[bytes]) -> None:
    folder.mkdir()
    for number, data in enumerate(datas):
        part = folder / f"{number}.part"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, data)
        os.fdatasync(fd)
        os.close(fd)
        part.rename(part.with_suffix(".dcm"))


FSYNC, FLUSH, FILES = "radnode (fsync)", "radnode (flush)", "files alone"
Receiver = Callable[[Path], AbstractContextManager[Running]]
RECEIVERS: dict[str, Receiver] = {
    FSYNC: lambda home: radnode(home, "fsync"),
    FLUSH: lambda home: radnode(home, "flush"),
    "bare durable loop": lambda home: python(home, "-m", "scripts.durable_loop"),
    "storescp --fork": lambda home: storescp(home, "--fork"),
    "storescp +B --fork": lambda home: storescp(home, "+B", "--fork"),
    "Orthanc": orthanc,
    "pynetdicom AE": lambda home: python(home, "-c", _PYNETDICOM),
}
Runs = list[tuple[float, float]]
"""Instances per second, CPU milliseconds per instance; one for each round."""
Found = dict[tuple[str, str], Runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=200, help="of each sender")
    parser.add_argument(
        "--only", default="", help="receivers and loads that have one of these words: flush,storescp,x1"
    )
    parser.add_argument("--folder", type=Path, help="where to receive to: the disk to be measured (default: temporary)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder, count = Path(name), given.instances
        small = tuple(make_series(folder / f"mr{each}", 128, count) for each in range(4))
        large = tuple(make_series(folder / f"ct{each}", 512, count) for each in range(4))
        few = make_series(folder / "few", 128, max(count // 2, 10))
        loads = [
            Load("MR 33 kB x1", small[:1], count),
            Load("MR x4", small, count),
            Load("CT 525 kB x1", large[:1], count),
            Load("CT x4", large, count),
            Load("MR x1, Nagle", (few,), max(count // 2, 10), nagle=True),
        ]
        names = _chosen([load.name for load in loads], given.only)
        receivers = _chosen([FILES, *RECEIVERS], given.only)
        found: Found = {}
        homes = (folder / f"home{number}" for number in itertools.count())
        for number in range(given.rounds):
            for load in (each for each in loads if each.name in names):
                for receiver in receivers:
                    print(f"round {number + 1}: {load.name}, {receiver}", file=sys.stderr)
                    home = next(homes)
                    run = write(load, home) if receiver == FILES else measure(RECEIVERS[receiver], load, home)
                    found.setdefault((receiver, load.name), []).append(run)
        report(found, receivers, names)


def _chosen(names: list[str], words: str) -> list[str]:
    """Those that have one of the words; all where none has."""
    return [each for each in names if any(word in each for word in words.split(",") if word)] or names


def report(found: Found, receivers: list[str], loads: list[str]) -> None:
    """Medians, and the medians of the rounds' ratios: how many times faster radnode is than the others."""
    print("| receiver | " + " | ".join(loads) + " |")
    print("|---" * (len(loads) + 1) + "|")
    for receiver in receivers:
        print(f"| {receiver} | " + " | ".join(_cell(found[receiver, load]) for load in loads) + " |")
    for first in (each for each in receivers if each.startswith("radnode")):
        for other in (each for each in receivers if not each.startswith("radnode") and each != FILES):
            pairs = [list(zip(found[first, load], found[other, load], strict=True)) for load in loads]
            rates = [statistics.median(mine / theirs for (mine, _), (theirs, _) in each) for each in pairs]
            used = [statistics.median(mine / theirs for (_, mine), (_, theirs) in each) for each in pairs]
            cells = [f"{rate:.2f} ({cost:.2f})" for rate, cost in zip(rates, used, strict=True)]
            print(f"| {first} : {other} | " + " | ".join(cells) + " |")
    if {FSYNC, FLUSH, FILES} <= set(receivers):
        cells = [f"{_in_turn(*(found[each, load] for each in (FSYNC, FLUSH, FILES))):.2f}" for load in loads]
        print(f"| {FSYNC} : {FLUSH}, then {FILES} | " + " | ".join(cells) + " |")


def _in_turn(fsync: Runs, flush: Runs, files: Runs) -> float:
    """How many times faster receiving durably is than receiving and then making durable."""
    rounds = zip(fsync, flush, files, strict=True)
    return statistics.median(one * (1 / two + 1 / three) for (one, _), (two, _), (three, _) in rounds)


def _cell(runs: Runs) -> str:
    rate, used = (statistics.median(column) for column in zip(*runs, strict=True))
    return f"{rate:.0f}/s ({used:.2f} ms)"


if __name__ == "__main__":
    main()
