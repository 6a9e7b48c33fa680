"""Objects that are sent in place of a job's results: made in a child process with limits, kept beside the results.

`python -m radnode.run.substitutes PARENT` is the child: one request as JSON in, what went wrong out.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.uid import Comprehensive3DSRStorage

from radnode.dicom.headers import read_attributes
from radnode.domain.errors import ResultError
from radnode.domain.identity import differing
from radnode.domain.jobs import Assignment, SeriesLabel
from radnode.domain.routing import Destination
from radnode.domain.routing.destinations import COMPREHENSIVE
from radnode.run.assignments import assignment_of, site_uid
from radnode.run.lifeline import die_with_parent
from radnode.run.making import FORWARD
from radnode.settings import Settings, child_environment
from radnode.state import deliveries, jobs, substitutes
from radnode.state.jobs import ResultRow
from radnode.state.ledger import Ledger, Record
from radnode.state.spool import Spool

if TYPE_CHECKING:
    from radnode.dicom.encode import Encoded

REISSUE = "reissue"
_BURNED_IN = frozenset(["BurnedInAnnotation"])
_NOTHING: Mapping[str, str] = {}
_MEMORY = 4 << 30
_SECONDS = 300
_LONGEST_ERROR = 500


def when_unwanted(place: Destination, row: Record) -> str:
    """The form in which a destination gets a result of a kind that it does not want; empty: in none."""
    return place.fallback.get(row.kind, "")


def when_refused(place: Destination, row: Record) -> str:
    """The form for one whose SOP class it has refused. The lesser class of a report is tried first."""
    if row.kind == "sr" and row.sop_class_uid == Comprehensive3DSRStorage:
        return COMPREHENSIVE
    return when_unwanted(place, row)


class Substitutes:
    """Makes what a delivery sends in place of results, and keeps to it."""

    def __init__(self, settings: Settings, ledger: Ledger, owner: str) -> None:
        self._settings, self._ledger, self._owner = settings, ledger, owner

    def make(
        self, delivery: Record, rows: Sequence[Record], form_of: Callable[[Record], str], why: str
    ) -> list[Record]:
        """Has each row that has a form sent in it; returns those rows. Raises ResultError, SpoolError."""
        forms = [(row, form_of(row)) for row in rows]
        made = [(row, form, self._made(delivery.job_id, [row], form)[0]) for row, form in forms if form]
        if made:
            with self._ledger.begin("substitute") as tx:
                substitutes.record(tx, delivery, [(row, each) for row, _, each in made])
                said = [(row.kind, form) for row, form, _ in made]
                for kind, form in dict.fromkeys(said):
                    count = said.count((kind, form))
                    deliveries.noted(tx, delivery, "sent instead", instances=count, result=kind, form=form, reason=why)
        return [row for row, *_ in made]

    def reissue(self, delivery: Record, rows: Sequence[Record], corrections: Mapping[str, str], why: str) -> None:
        """Has all of these sent under another identity. Raises ResultError where it cannot be, SpoolError."""
        if any(row.kind == FORWARD for row in rows):
            raise ResultError("originals are sent as they came")
        made = self._made(delivery.job_id, rows, REISSUE, corrections)
        first = read_attributes(self._settings.spool / made[0].path, frozenset(corrections))
        if differing({key: str(values[0]) for key, values in first.items()}, corrections):
            raise ResultError("what the destination calls the patient cannot be written")
        with self._ledger.begin("reissue") as tx:
            substitutes.record(tx, delivery, list(zip(rows, made, strict=True)))
            deliveries.noted(tx, delivery, "reissued", instances=len(rows), reason=why)

    def page_of(self, job_id: str, *, with_identity: bool) -> bytes:
        """A PDF for a person: the app's own, where it may be shown, or a page of its report; empty: there is neither.

        Raises ResultError, SpoolError.
        """
        from radnode.dicom.encode.pdf import embedded  # noqa: PLC0415 - few workers need it

        with self._ledger.read() as tx:
            made = jobs.results(tx, job_id)
        for row in (each for each in made if each.kind == "pdf"):
            path = self._settings.spool / row.path
            if with_identity or read_attributes(path, _BURNED_IN).get("BurnedInAnnotation") == ("NO",):
                return embedded(path)
        for row in (each for each in made if each.kind == "sr"):
            return embedded(self._settings.spool / self._made(job_id, [row], "pdf")[0].path)
        return b""

    def _made(
        self, job_id: str, rows: Sequence[Record], form: str, corrections: Mapping[str, str] = _NOTHING
    ) -> list[ResultRow]:
        """One object for each row, in their order; those that were made before a crash, where they were."""
        asked = json.dumps([form, [row.sop_instance_uid for row in rows], dict(corrections)], sort_keys=True)
        name = f"{job_id}.{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
        spool = Spool(self._settings.spool, self._settings.durability)
        place = spool.result(name)
        if place is None:
            place = self._publish(spool, name, self._request(job_id, rows, form) | {"corrections": dict(corrections)})
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        return [
            ResultRow(
                each["SOPInstanceUID"],
                each["SOPClassUID"],
                each["TransferSyntaxUID"],
                each["kind"],
                str((place / each["file"]).relative_to(spool.root)),
                each["size"],
            )
            for each in manifest["objects"]
        ]

    def _request(self, job_id: str, rows: Sequence[Record], form: str) -> dict[str, Any]:
        root = self._settings.spool
        with self._ledger.read() as tx:
            job, inputs = jobs.get(tx, job_id), jobs.inputs(tx, job_id)
        named = {name: [str(root / path) for path in paths] for name, paths in inputs.items()}
        kept = [str(root / row.path) for row in rows]
        assignment = assignment_of(job, named, self._settings, site_uid(self._ledger))
        return {"form": form, "kept": kept, "job": asdict(assignment)}

    def _publish(self, spool: Spool, name: str, request: Mapping[str, Any]) -> Path:
        spool.work.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=spool.work, prefix=f"{self._owner}.substitute-") as folder:
            out = Path(folder) / "out"
            out.mkdir()
            fault = _in_child(self._settings, {**request, "out": str(out)})
            if fault:
                raise ResultError(f"a result cannot be had as {request['form']}: {fault}")
            return spool.publish(out, name)


def _in_child(settings: Settings, request: Mapping[str, Any]) -> str:
    command = [sys.executable, "-m", "radnode.run.substitutes", str(os.getpid())]
    done = subprocess.run(
        command,
        input=json.dumps(request).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(settings),
        check=False,
    )
    return str(json.loads(done.stdout)) if done.stdout else f"its process died ({done.returncode})"


def main() -> None:
    """The child. Images and objects are read here, and nowhere else on a result's way out."""
    die_with_parent(int(sys.argv[1]), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.alarm(_SECONDS)
    request = json.load(sys.stdin)
    fault = ""
    try:
        _make(request)
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they like
        fault = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
    print(json.dumps(fault), flush=True)


def _make(request: Mapping[str, Any]) -> None:
    """Writes the objects and their manifest, if they pass the check that all results pass."""
    from radnode.dicom.encode.check import check  # noqa: PLC0415 - only the child encodes
    from radnode.run.process import write_object  # noqa: PLC0415

    out, kept = Path(request["out"]), list(map(Path, request["kept"]))
    objects: list[dict[str, Any]] = []
    reference = out.parent / "header.dcm"
    made = _reissued(request, kept, reference) if request["form"] == REISSUE else _in_form(request, kept)
    for path, encoded in zip(kept, made, strict=True):
        objects.append(write_object(encoded, out, objects))
        if problems := check(out / objects[-1]["file"], reference if reference.exists() else path):
            raise ResultError("; ".join(problems))
    (out / "manifest.json").write_text(json.dumps({"objects": objects}), encoding="utf-8")


def _in_form(request: Mapping[str, Any], kept: Sequence[Path]) -> Iterator[Encoded]:
    from radnode.dicom.encode.substitute import substitute  # noqa: PLC0415
    from radnode.run.process import read_input  # noqa: PLC0415

    assignment = Assignment(**{**request["job"], "label": SeriesLabel(**request["job"]["label"])})
    for path in kept:
        yield substitute(path, request["form"], assignment, lambda: read_input(assignment))


def _reissued(request: Mapping[str, Any], kept: Sequence[Path], reference: Path) -> Iterator[Encoded]:
    """Under the identity that a destination gives the study; its header is written to `reference`."""
    from pydicom import Dataset  # noqa: PLC0415

    from radnode.dicom.encode.reissue import corrected, reissue, shows_identity  # noqa: PLC0415

    if any(map(shows_identity, kept)):
        raise ResultError("one of them shows the identity in its picture")
    better = Dataset()
    better.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in request["corrections"].items():
        setattr(better, keyword, value)
    header = corrected(kept[0], better)
    header.save_as(reference)
    key = json.dumps([request["job"]["job_id"], request["corrections"]], sort_keys=True)
    yield from reissue(kept, header, key, seen=False)


if __name__ == "__main__":
    main()
