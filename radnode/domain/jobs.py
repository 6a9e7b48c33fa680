"""Jobs and deliveries: what identifies them, the states they go through, and what happens after a failure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

RESULT_FORMAT = 2
"""Version of what the node makes of an app's results; part of a job's identity, so that a change makes new objects."""


class SeriesState(StrEnum):
    RECEIVING = "receiving"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    HELD = "held"


class DeliveryState(StrEnum):
    WAITING = "waiting"
    SENDING = "sending"
    DELIVERED = "delivered"
    PARKED = "parked"
    HELD = "held"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


PRIORITIES = {"urgent": 0, "normal": 1, "low": 2}

MAX_CRASHES = 3
"""Deaths of the child by signal or memory under a live worker, after which a job is taken for poison."""
MAX_WORKERS_LOST = 20
"""Workers, or processes around the app, lost while they had the job: rarely the job's fault, so the cap is high."""


@dataclass(frozen=True)
class JobInput:
    """The instances a job takes under one name: sorted SOP Instance UIDs and their files, in the same order."""

    name: str
    series_uid: str
    sop_instance_uids: tuple[str, ...]
    paths: tuple[str, ...]


def job_id(  # every argument is part of the identity (design, "Jobs")
    app: str,
    app_version: str,
    options: Mapping[str, Any],
    inputs: Sequence[JobInput],
    *,
    revision: int = 0,
    predecessor: str = "",
    identity: int = 0,
) -> str:
    """The job's identity: equal for equal work, whoever asks for it. 32 hexadecimal characters.

    Args:
        revision: how often an input's pixels or geometry were corrected.
        predecessor: the job whose place it takes.
        identity: how often its patient or study attributes were corrected.
    """
    parts: list[Any] = [
        app,
        app_version,
        dict(options),
        sorted([each.name, sorted(each.sop_instance_uids)] for each in inputs),
        revision,
        predecessor,
        RESULT_FORMAT,
        *([identity] if identity else []),
    ]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def successor_id(work: str, identity: int, predecessor: str) -> str:
    """The identity of a job that takes another's place."""
    return job_id(work, "", {}, (), identity=identity, predecessor=predecessor)


@dataclass(frozen=True)
class SeriesLabel:
    """How the series that results go into are labelled.

    Attributes:
        number, description: as the rule wants them (`series:` in `routing.yaml`); empty: the app's own words.
        missing: source images that were known to be missing when the job was made, at least so many.
    """

    number: int | None = None
    description: str = ""
    missing: int = 0


@dataclass(frozen=True)
class Assignment:
    """All that the child process is told about its job: written as `job.json` into its work folder.

    Attributes:
        inputs: name -> absolute paths, one entry per series; the name is the rule's input name or the series UID.
        created: when the job was made, ISO 8601 with the node's UTC offset: the date and time of its results.
        site_uid: UID of this installation, from which the device observer's is derived.
        station: the node's AE title, written as StationName.
        models: name -> address of a model, as `RADNODE_MODELS` has them.
        predecessors: objects of earlier jobs that these results take the place of, each with `SOPClassUID`,
            `SOPInstanceUID`, `SeriesInstanceUID`: reports say so (PredecessorDocumentsSequence).
        reissues: absolute paths of results that get the inputs' identity instead of being computed again.
    """

    job_id: str
    app: str
    app_version: str
    level: str
    options: dict[str, Any]
    inputs: dict[str, list[str]]
    created: str
    label: SeriesLabel = field(default_factory=SeriesLabel)
    site_uid: str = "2.25.0"
    station: str = "RADNODE"
    models: dict[str, str] = field(default_factory=dict)
    predecessors: list[dict[str, str]] = field(default_factory=list)
    reissues: list[str] = field(default_factory=list)


class Outcome(StrEnum):
    """What a C-STORE response says about one instance."""

    STORED = "stored"
    TRANSIENT = "transient"
    PERMANENT = "permanent"


_STORED_WITH_WARNING = {0xB000, 0xB006, 0xB007}  # PS3.4 table B.2-1: coercion, elements discarded, mismatch
_TRANSIENT = {0x0213, 0x0110}  # PS3.7 C.5: resource limitation, processing failure


def judge(status: int | None) -> Outcome:
    """Whether a C-STORE status means stored, try again, or never (PS3.4 B.2.3, PS3.7 annex C). None: no answer came."""
    if status is None:
        return Outcome.TRANSIENT
    if status == 0x0000 or status in _STORED_WITH_WARNING:
        return Outcome.STORED
    if status in _TRANSIENT or 0xA700 <= status <= 0xA7FF:
        return Outcome.TRANSIENT
    return Outcome.PERMANENT


def backoff(failures: int, *, first: float = 1.0, cap: float = 60.0) -> float:
    """Seconds to wait after the given number of failures in a row: doubling, capped."""
    return float(min(cap, first * 2 ** min(max(failures - 1, 0), 32)))
