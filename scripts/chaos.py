"""Nothing lost, nothing twice, whatever dies: a real node under a steady push, and a killer that strikes at random.

At the end, when everything has come to rest, what was acknowledged is compared with what lies in the spool and what
arrived at two sinks. Every difference is printed; any makes the exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from radnode.dicom.scu import read_outgoing, send
from radnode.domain.errors import RadnodeError
from radnode.testing import head_ct
from tests.peers import Node, free_port

ROUTING = """
destinations:
  results: {{aet: RESULTS, host: 127.0.0.1, port: {results}}}
  copies: {{aet: COPIES, host: 127.0.0.1, port: {copies}}}
complete: {{series: 2s, study: 4s}}
rules:
  - {{name: results, app: test, send_to: [results], when: {{Modality: CT}}}}
  - {{name: copies, level: study, send_to: [copies], when: {{Modality: CT}}}}
"""
RESULTS_PER_STUDY = 2
SLICES = 5
SETTLE = 240.0
SENDER_PAUSE = 0.3

# What is killed, by a piece of the command line; the supervisor restarts each but itself.
TARGETS = {
    "receiver": "radnode.run.receiving",
    "listener": "radnode.cli receive",
    "core": "radnode.cli core",
    "worker": "radnode.cli work --queues cpu,gpu",
    "deliverer": "radnode.cli work --queues deliver",
    "child": "radnode.run.nursery",
    "valkey": "valkey-server",
}


class Sink:
    """A sink PACS in a process of its own, killed and started again; each life has its own folder."""

    def __init__(self, aet: str, folder: Path) -> None:
        self.aet, self.folder, self.port, self.lives = aet, folder, free_port(), 0
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.lives += 1
        place = self.folder / str(self.lives)
        place.mkdir(parents=True)
        command = [sys.executable, "-m", "radnode.testing.sink", "--port", str(self.port), "--folder", str(place)]
        self.process = subprocess.Popen(
            [*command, "--aet", self.aet], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def arrived(self) -> Iterator[tuple[Dataset, str]]:
        """Every object that was stored whole: its header, and the digest of its data set."""
        for path in sorted(self.folder.rglob("*.dcm")):
            with contextlib.suppress(Exception):  # cut short by a kill of the sink: it was never acknowledged
                yield dcmread(path, stop_before_pixels=True), digest(path)


@dataclass
class Study:
    uid: str
    files: list[Path]
    digests: dict[str, str]
    acknowledged: set[str] = field(default_factory=set)
    pushes: int = 0


class Senders:
    """Several modalities at once: each pushes a study, and pushes it again until all of it was acknowledged."""

    def __init__(self, node: Node, folder: Path, count: int) -> None:
        self.node, self.folder, self.studies = node, folder, []
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._template = dcmread(head_ct(folder / "template", slices=1, size=48)[0])
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(count)]
        self.studies: list[Study] = []

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        self.stopping.set()
        for each in self._threads:
            each.join()

    def _work(self, number: int) -> None:
        while not self.stopping.is_set():
            study = self._make(number)
            with self._lock:
                self.studies.append(study)
            while len(study.acknowledged) < SLICES:
                self._push(study, f"MODALITY{number}")
                time.sleep(SENDER_PAUSE)

    def _push(self, study: Study, calling_aet: str) -> None:
        """A modality that was cut off sends the whole study again, as most do."""
        study.pushes += 1
        with contextlib.suppress(RadnodeError):
            for answer in send([read_outgoing(each) for each in study.files], self.node.peer, calling_aet=calling_aet):
                if answer.status == 0:
                    study.acknowledged.add(answer.sop_instance_uid)

    def _make(self, number: int) -> Study:
        with self._lock:
            ds = copy.deepcopy(self._template)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
        ds.AccessionNumber = f"C{number}-{time.monotonic_ns() % 10**10}"
        study = Study(ds.StudyInstanceUID, [], {})
        place = self.folder / ds.StudyInstanceUID
        place.mkdir()
        for slice_number in range(SLICES):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            ds.InstanceNumber = slice_number + 1
            ds.ImagePositionPatient = [0, 0, 5.0 * slice_number]
            path = place / f"{slice_number}.dcm"
            ds.save_as(path, enforce_file_format=True)
            study.files.append(path)
            study.digests[ds.SOPInstanceUID] = digest(path)
        return study


class Killer:
    """Strikes until it is told to stop; counts what it did."""

    def __init__(self, node: Node, sinks: list[Sink], seed: int, pause: float) -> None:
        self.node, self.sinks, self.pause = node, sinks, pause
        self.random = random.Random(seed)
        self.struck: Counter[str] = Counter()
        self.log: list[str] = []

    def strike(self) -> None:
        actions: list[tuple[Callable[[], None], int]] = [
            (self._part, 20),
            (self._child_of_job, 4),
            (self._sink, 3),
            (self._empty_valkey, 2),
            (self._stop_part, 2),
            (self._supervisor, 1),
            (self._everything, 2),
        ]
        chosen = self.random.choices([each for each, _ in actions], [weight for _, weight in actions])[0]
        chosen()

    def _note(self, what: str) -> None:
        self.struck[what] += 1
        self.log.append(f"{time.strftime('%H:%M:%S')} {what}")

    def _part(self) -> None:
        name = self.random.choice(list(TARGETS))
        self._kill(name, TARGETS[name])

    def _child_of_job(self) -> None:
        self._kill("child", TARGETS["child"])

    def _kill(self, name: str, marker: str) -> None:
        victims = self._victims(marker)
        if victims:
            self._signal(self.random.choice(victims), signal.SIGKILL)
            self._note(name)

    def _victims(self, marker: str) -> list[int]:
        return [pid for pid in self.node.pids() if marker in command_line(pid)]

    def _sink(self) -> None:
        sink = self.random.choice(self.sinks)
        sink.kill()
        time.sleep(self.random.uniform(0, 3))
        sink.start()
        self._note("sink")

    def _empty_valkey(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            redis.Redis.from_url(f"unix://{valkey_socket(self.node)}", socket_timeout=2).flushall()
            self._note("valkey emptied")

    def _stop_part(self) -> None:
        name = self.random.choice(["receiver", "core", "worker", "deliverer"])
        for pid in self._victims(TARGETS[name])[:1]:
            self._signal(pid, signal.SIGSTOP)
            time.sleep(self.random.uniform(1, 8))
            self._signal(pid, signal.SIGCONT)
            self._note(f"{name} stopped for a while")

    def _supervisor(self) -> None:
        self._kill("supervisor", "radnode.cli up")
        self._restart()

    def _everything(self) -> None:
        self.node.kill()
        self._note("everything")
        self._restart()

    def _restart(self) -> None:
        deadline = time.monotonic() + 60
        while self.node.pids() and time.monotonic() < deadline:
            time.sleep(0.1)
        if left := [command_line(pid) for pid in self.node.pids()]:
            raise SystemExit(f"left behind by a killed supervisor: {left}")
        self.node.process = None
        self.node.start()

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def settle(node: Node) -> list[str]:
    """Waits until nothing is under way; says what still is, if anything."""
    deadline = time.monotonic() + SETTLE
    while True:
        studies = node.json("studies", "--limit", "100000")
        open_ones = [
            f"study {each['StudyInstanceUID']} is {each['state']}" for each in studies if each["state"] != "done"
        ]
        if not open_ones or time.monotonic() > deadline:
            return open_ones
        time.sleep(1)


def reconcile(node: Node, senders: Senders, results: Sink, copies: Sink) -> list[str]:
    """Every difference between what was acknowledged, what is kept, and what arrived."""
    faults = []
    kept: defaultdict[str, set[str]] = defaultdict(set)
    for path in (node.home / "spool" / "instances").rglob("*.dcm"):
        kept[str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)].add(digest(path))
    faults += [f"left over: {each}" for each in (node.home / "spool").rglob("*.part")]
    faults += [f"left over: {each}" for each in (node.home / "spool" / "work").glob("*")]
    made, copied = by_study(results), by_instance(copies)
    for study in senders.studies:
        for uid in study.acknowledged:
            if study.digests[uid] not in kept[uid]:
                faults.append(f"acknowledged and not kept: {uid}")
            if copied.get(uid) != {study.digests[uid]}:
                faults.append(f"copy of {uid}: {len(copied.get(uid, ()))} different versions")
        if len(made.get(study.uid, {})) != RESULTS_PER_STUDY:
            faults.append(f"study {study.uid}: {len(made.get(study.uid, {}))} results, pushed {study.pushes} times")
    faults += [
        f"{uid} arrived with different bytes" for each in made.values() for uid, seen in each.items() if len(seen) > 1
    ]
    return faults


def by_study(sink: Sink) -> dict[str, dict[str, set[str]]]:
    found: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for ds, sha in sink.arrived():
        found[ds.StudyInstanceUID][ds.SOPInstanceUID].add(sha)
    return {study: dict(each) for study, each in found.items()}


def by_instance(sink: Sink) -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for ds, sha in sink.arrived():
        found[ds.SOPInstanceUID].add(sha)
    return dict(found)


def digest(path: Path) -> str:
    """Of the data set, without the preamble and File Meta."""
    data = path.read_bytes()
    return hashlib.sha256(data[144 + int.from_bytes(data[140:144], "little") :]).hexdigest()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def valkey_socket(node: Node) -> str:
    words = [command_line(pid).split() for pid in node.pids() if "--unixsocket" in command_line(pid)]
    return words[0][words[0].index("--unixsocket") + 1] if words else "/nowhere"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--senders", type=int, default=3)
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between two strikes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        faults = run(Path(name), given)
    for each in faults[:50]:
        print("DIFFERENCE", each)
    print(f"{len(faults)} differences")
    sys.exit(1 if faults else 0)


def run(folder: Path, given: argparse.Namespace) -> list[str]:
    results, copies = Sink("RESULTS", folder / "results"), Sink("COPIES", folder / "copies")
    node = Node(folder / "node", ROUTING.format(results=results.port, copies=copies.port))
    senders = Senders(node, folder, given.senders)
    killer = Killer(node, [results, copies], given.seed, given.pause)
    try:
        senders.start()
        deadline = time.monotonic() + 60 * given.minutes
        while time.monotonic() < deadline:
            time.sleep(killer.random.expovariate(1 / given.pause))
            killer.strike()
        senders.stop()
        print(f"{sum(killer.struck.values())} strikes: {dict(killer.struck)}")
        open_ones = settle(node)
        node.stop()
        faults = open_ones + reconcile(node, senders, results, copies)
        if faults:
            print(node.output()[-15000:])
            print("\n".join(killer.log[-40:]))
        pushes = sum(each.pushes for each in senders.studies)
        print(f"{len(senders.studies)} studies, {pushes} pushes, {results.lives + copies.lives} lives of sinks")
        return faults
    finally:
        senders.stopping.set()
        node.kill()
        results.kill()
        copies.kill()


if __name__ == "__main__":
    main()
