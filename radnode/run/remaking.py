"""Objects made after a job's end, or without one: kept results in another form, notices. In a child with limits.

`python -m radnode.run.remaking PARENT` is the child: one request as JSON in, what went wrong out.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radnode.domain.errors import ResultError
from radnode.domain.jobs import Assignment, SeriesLabel
from radnode.domain.notice import TITLE
from radnode.run.assignments import assignment_of, site_uid
from radnode.run.child import MANIFEST
from radnode.run.lifeline import die_with_parent
from radnode.run.published import read_manifest, rows_of
from radnode.settings import Settings, child_environment
from radnode.state import jobs
from radnode.state.jobs import ResultRow
from radnode.state.ledger import Ledger, Record
from radnode.state.spool import Spool

if TYPE_CHECKING:
    from radnode.dicom.encode import Encoded

REISSUE, NOTICE = "reissue", "notice"
_MEMORY = 4 << 30
_SECONDS = 300
_LONGEST_ERROR = 500


class Remaking:
    """Makes objects, or finds those that were made before.

    Args:
        owner: the worker, which names its scratch folders.
    """

    def __init__(self, settings: Settings, ledger: Ledger, owner: str) -> None:
        self._settings, self._ledger, self._owner = settings, ledger, owner

    def made(self, name: str, job: Record, form: str, **more: Any) -> list[ResultRow]:
        """Objects of a job in a form; those that were published under this name before, where they were.

        Args:
            more: `kept` results, one object for each; `corrections`; of a notice the `lines`, and `after` how many
                seconds it is written.

        Raises ResultError, SpoolError.
        """
        spool = Spool(self._settings.spool, self._settings.durability)
        place = spool.result(name) or self._publish(spool, name, {**self._request(job, form), **more})
        return rows_of(place, read_manifest(place), spool.root)

    def _request(self, job: Record, form: str) -> dict[str, Any]:
        with self._ledger.read() as tx:
            inputs = jobs.inputs(tx, job.id)
        named = {name: [str(self._settings.spool / path) for path in paths] for name, paths in inputs.items()}
        assignment = assignment_of(job, named, self._settings, site_uid(self._ledger))
        return {"form": form, "kept": [], "job": asdict(assignment)}

    def _publish(self, spool: Spool, name: str, request: Mapping[str, Any]) -> Path:
        spool.work.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=spool.work, prefix=f"{self._owner}.remaking-") as folder:
            out = Path(folder) / "out"
            out.mkdir()
            fault = _in_child(self._settings, {**request, "out": str(out)})
            if fault:
                raise ResultError(f"a result cannot be had as {request['form']}: {fault}")
            return spool.publish(out, name)


def _in_child(settings: Settings, request: Mapping[str, Any]) -> str:
    command = [sys.executable, "-m", "radnode.run.remaking", str(os.getpid())]
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
    request, fault = json.load(sys.stdin), ""
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
    for source, encoded in {REISSUE: _reissued, NOTICE: _notice}.get(request["form"], _in_form)(request, kept):
        objects.append(write_object(encoded, out, objects))
        if problems := check(out / objects[-1]["file"], source):
            raise ResultError("; ".join(problems))
    (out / MANIFEST).write_text(json.dumps({"objects": objects}), encoding="utf-8")


def _assignment(request: Mapping[str, Any]) -> Assignment:
    return Assignment(**{**request["job"], "label": SeriesLabel(**request["job"]["label"])})


def _in_form(request: Mapping[str, Any], kept: Sequence[Path]) -> Iterator[tuple[Path, Encoded]]:
    from radnode.dicom.encode.substitute import substitute  # noqa: PLC0415
    from radnode.run.process import read_input  # noqa: PLC0415

    assignment = _assignment(request)
    for path in kept:
        yield path, substitute(path, request["form"], assignment, lambda: read_input(assignment))


def _notice(request: Mapping[str, Any], _kept: Sequence[Path]) -> Iterator[tuple[Path, Encoded]]:
    """A page that says that there is no result, of the moment at which one should have been there."""
    from radnode.dicom.encode import encode  # noqa: PLC0415
    from radnode.dicom.encode.page import page  # noqa: PLC0415
    from radnode.domain.results import SecondaryCapture  # noqa: PLC0415
    from radnode.run.process import read_input  # noqa: PLC0415

    assignment = _assignment(request)
    due = datetime.fromisoformat(assignment.created) + timedelta(seconds=request["after"])
    own = replace(assignment, job_id=f"{assignment.job_id}|notice", created=due.isoformat(), label=SeriesLabel())
    source = read_input(assignment)
    capture = SecondaryCapture(page(TITLE, request["lines"]), TITLE.lower())
    for encoded in encode([capture], source, own, "Says that there is no result"):
        yield source.first.path, encoded


def _reissued(request: Mapping[str, Any], kept: Sequence[Path]) -> Iterator[tuple[Path, Encoded]]:
    """Under the identity that a destination gives the study; each with a file of its header."""
    from pydicom import Dataset  # noqa: PLC0415

    from radnode.dicom.encode.reissue import corrected, reissue, shows_identity  # noqa: PLC0415

    if any(map(shows_identity, kept)):
        raise ResultError("one of them shows the identity in its picture")
    better = Dataset()
    better.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in request["corrections"].items():
        setattr(better, keyword, value)
    header = corrected(kept[0], better)
    reference = Path(request["out"]).parent / "header.dcm"
    header.save_as(reference)
    key = json.dumps([request["job"]["job_id"], request["corrections"]], sort_keys=True)
    for encoded in reissue(kept, header, key, seen=False):
        yield reference, encoded


if __name__ == "__main__":
    main()
