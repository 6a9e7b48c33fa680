"""One job from its files to its result objects: the path that the node's child process and `radnode run` share."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydicom import Dataset

from radnode import models
from radnode.dicom.encode import Encoded, encode, load_all
from radnode.dicom.encode.check import check, find_judge
from radnode.dicom.encode.reissue import corrected, reissue, shows_identity
from radnode.dicom.volume import read_series
from radnode.domain.app import App
from radnode.domain.errors import Declined, NotDicomError, ResultError
from radnode.domain.jobs import Assignment
from radnode.domain.results import File, Result
from radnode.domain.study import Series, Study
from radnode.run.child import MANIFEST, REFUSED

_MOST_TOLD = 5

T = TypeVar("T")
Progress = Callable[[str], None]


def process(app: App[Any], assignment: Assignment, out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Runs a loaded app on the files its assignment names, and writes what it found into `out_dir`.

    Args:
        app: an instance whose `load()` has been called.
        out_dir: made if it is not there; then holds one `.dcm` per object and, written last, `manifest.json`.
        progress: told in a few words what goes on.

    Returns:
        The manifest: `state` is `done` or `declined`, the latter with its `reason` and without objects; `objects` has
        `file`, `kind`, `SOPInstanceUID`, `SOPClassUID`, `TransferSyntaxUID`, `sha256`, `size` of each; `files` names
        those that are for folders; `seconds` says where the time went.

    Raises whatever the app raises except Declined; ResultError for a result that must not be sent; NotDicomError.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    models.begin(assignment.models)
    app.listener = progress
    clock = _Clock()
    with clock.measure("read"):
        source = read_input(assignment)
    manifest: dict[str, Any] = {"state": "done", "reason": "", "objects": [], "files": []}
    try:
        results = clock.each("app", _run(app, assignment, source))
        wanted = _without_files(results, out_dir, manifest["files"])
        objects = _reissued(source, assignment) or encode(
            wanted, source, assignment, app.description, models.identities
        )
        for encoded in clock.each("encode", objects, less="app"):
            with clock.measure("write"):
                manifest["objects"].append(write_object(encoded, out_dir, manifest["objects"]))
            progress(f"{manifest['objects'][-1]['file']} written")
        with clock.measure("check"):
            _check(manifest["objects"], out_dir, source)
    except Declined as declined:
        for name in [each["file"] for each in manifest["objects"]] + manifest["files"]:
            (out_dir / name).unlink()
        reason = f"{declined.message} -> {declined.remedy}" if declined.remedy else declined.message
        manifest |= {"state": "declined", "reason": reason, "objects": [], "files": []}
    manifest["seconds"] = clock.seconds
    (out_dir / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def warm_up() -> None:
    """Imports and finds what jobs need, so that children forked from this process have it. Starts no thread."""
    import highdicom.sr  # noqa: F401, PLC0415
    import PIL.Image  # noqa: F401, PLC0415
    import SimpleITK  # noqa: F401, PLC0415

    load_all()
    find_judge()


def read_input(assignment: Assignment) -> Series | Study:
    """The Series, or at study level the Study, of a job. Raises NotDicomError; ResultError where it is nobody's."""
    named: dict[str, Series] = {}
    for name, paths in assignment.inputs.items():
        found = read_series(map(Path, paths))
        if len(found) != 1:
            raise NotDicomError(f"input {name!r} holds {len(found)} series", remedy="an input is one series")
        named[name] = found[0]
    _refuse_strangers(tuple(named.values()))
    if assignment.level == "study":
        return Study(tuple(named.values()), named)
    if len(named) != 1:
        raise NotDicomError(f"a job at series level has {len(named)} inputs", remedy="run it with `level: study`")
    return next(iter(named.values()))


def _refuse_strangers(given: Sequence[Series]) -> None:
    """Images of two patients, whatever study they say they are of, make no result that is either's.

    Patients are told apart by their ID, where no image has one by their name.
    """
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName"):
        said = {values for series in given for values in series.distinct(keyword)}
        if len(said) > 1:
            where = "its series name" if all(len(each.distinct(keyword)) < 2 for each in given) else "a series names"
            raise ResultError(
                f"{where} {len(said)} different {keyword}: whose result it would be cannot be told",
                remedy="correct it in the PACS, and push the study again",
            )
        if said and keyword == "PatientID":
            return


def _run(app: App[Any], assignment: Assignment, source: Series | Study) -> Iterator[Result]:
    results = app.process(source, app.parse_options(assignment.options))
    if not isinstance(results, Iterable) or isinstance(results, str | bytes | Dataset):
        what = "nothing" if results is None else f"one {type(results).__name__}"
        raise ResultError(f"app {app.name!r} returned {what}", remedy="yield results, or raise Declined")
    yield from results


def _reissued(source: Series | Study, assignment: Assignment) -> Iterator[Encoded] | None:
    """The kept results under the identity that the source has now; None where the app has to run."""
    kept = [Path(each) for each in assignment.reissues]
    if not kept or any(map(shows_identity, kept)):
        return None
    return reissue(kept, corrected(source.first.path), assignment.job_id)


def _without_files(results: Iterator[Result], out_dir: Path, files: list[str]) -> Iterator[Result]:
    """Copies files aside, under names of their own, and hands on what becomes DICOM."""
    for result in results:
        if not isinstance(result, File):
            yield result
            continue
        source = Path(result.path)
        if not source.is_file():
            raise ResultError(f"the app yielded File({source.name!r}), which does not exist")
        name = f"file-{len(files) + 1:04d}-{source.name}"
        shutil.copyfile(source, out_dir / name)
        files.append(name)


def write_object(encoded: Encoded, out_dir: Path, before: list[dict[str, Any]]) -> dict[str, Any]:
    """Writes one object beside those `before` it; returns its entry in the manifest."""
    index = 1 + sum(each["kind"] == encoded.kind for each in before)
    name = f"{encoded.kind}-{index:04d}.dcm"
    data = encoded.data()
    (out_dir / name).write_bytes(data)
    return {
        "file": name,
        "kind": encoded.kind,
        "SOPInstanceUID": encoded.SOPInstanceUID,
        "SOPClassUID": encoded.SOPClassUID,
        "TransferSyntaxUID": encoded.TransferSyntaxUID,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }


def _check(objects: list[dict[str, Any]], out_dir: Path, source: Series | Study) -> None:
    """All objects, or none: what is left of results that refer to each other would be another result.

    Those at fault are moved into `refused/`, each with its reason beside it.
    """
    refused: dict[str, str] = {}
    for name in (each["file"] for each in objects):
        problems = check(out_dir / name, source.first.path)
        if problems:
            refused[name] = "; ".join(problems)
    if not refused:
        return
    place = out_dir / REFUSED
    place.mkdir(exist_ok=True)
    for name, reason in refused.items():
        (out_dir / name).rename(place / name)
        (place / name).with_suffix(".txt").write_text(reason, encoding="utf-8")
    told = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:_MOST_TOLD])
    raise ResultError(
        f"{len(refused)} of {len(objects)} results must not be sent, so none is: {told}",
        remedy="a pydicom Dataset of the app's? mend it there; anything else radnode has encoded wrongly: report it",
    )


class _Clock:
    """Seconds by what they went into."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def each(self, name: str, items: Iterator[T], *, less: str = "") -> Iterator[T]:
        """Passes items on and counts the time it took to get them, less what was counted as `less` meanwhile."""
        while True:
            before = self.seconds.get(less, 0.0)
            with self.measure(name):
                item = next(items, self)  # not None, which an app may yield by mistake
            self.seconds[name] -= self.seconds.get(less, 0.0) - before
            if isinstance(item, _Clock):
                return
            yield item
