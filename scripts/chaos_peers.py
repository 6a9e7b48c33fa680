"""Who talks with the node that chaos strikes: senders that push studies until all is acknowledged, and sinks."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from radnode.dicom.scu import Peer, read_outgoing, send
from radnode.domain.errors import RadnodeError
from radnode.testing import head_ct
from tests.peers import free_port

SLICES = 5
SENDER_PAUSE = 1.0
"""Seconds between two pushes of one sender: what a node on two cores works off."""


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

    def arrived(self) -> dict[str, set[str]]:
        """SOP Instance UID -> digests of the data sets that were stored whole under it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for path in sorted(self.folder.rglob("*.dcm")):
            with contextlib.suppress(Exception):  # cut short by a kill of the sink: it was never acknowledged
                found[str(_header(path).SOPInstanceUID)].add(digest(path))
        return dict(found)


def _header(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True)


def digest(path: Path) -> str:
    """Of the data set, without the preamble and File Meta."""
    data = path.read_bytes()
    return hashlib.sha256(data[144 + int.from_bytes(data[140:144], "little") :]).hexdigest()


@dataclass
class Study:
    """What a sender knows of a study it pushes.

    Attributes:
        digests: SOP Instance UID -> of the data set.
        acknowledged: SOP Instance UID -> when it was first, on the monotonic clock.
    """

    uid: str
    files: list[Path]
    digests: dict[str, str]
    acknowledged: dict[str, float] = field(default_factory=dict)
    pushes: int = 0

    def longest_pause(self) -> float:
        """Seconds between two first acknowledgements, at most: how long the node may have seen nothing new."""
        times = sorted(self.acknowledged.values())
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)


class Senders:
    """Several modalities at once: each pushes a study, and pushes it again until all of it was acknowledged."""

    def __init__(self, peer: Peer, folder: Path, count: int) -> None:
        self.studies: list[Study] = []
        self.stopping = threading.Event()
        self._peer, self._folder = peer, folder
        self._lock = threading.Lock()
        self._template = dcmread(head_ct(folder / "template", slices=1, size=48)[0])
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(count)]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """Returns when every study that was begun is acknowledged."""
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
            for answer in send([read_outgoing(each) for each in study.files], self._peer, calling_aet=calling_aet):
                if answer.status == 0:
                    study.acknowledged.setdefault(answer.sop_instance_uid, time.monotonic())

    def _make(self, number: int) -> Study:
        with self._lock:
            ds = copy.deepcopy(self._template)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
        ds.AccessionNumber = f"C{number}-{time.monotonic_ns() % 10**10}"
        study = Study(ds.StudyInstanceUID, [], {})
        place = self._folder / ds.StudyInstanceUID
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
