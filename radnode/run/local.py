"""`radnode run APP FOLDER`: an app on files, without network, broker or ledger, by the code the node itself runs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydicom.misc import is_dicom

from radnode.dicom.volume import read_series
from radnode.domain.app import App
from radnode.domain.errors import NotDicomError, NotFoundError, RadnodeError
from radnode.domain.jobs import Assignment, JobInput, job_id
from radnode.domain.study import Series, Study
from radnode.run.child import MANIFEST
from radnode.run.preview import preview
from radnode.run.process import process, read_input


@dataclass(frozen=True)
class LocalRun:
    """What came of one series or study.

    Attributes:
        files: objects, previews and files written.
        declined: the app's reason; empty where it did not decline.
        error: why this series gave nothing, where several were run.
        seconds: by what the time went into.
    """

    name: str
    files: tuple[Path, ...]
    declined: str
    error: str
    seconds: Mapping[str, float]


def run_local(
    app_class: type[App[Any]],
    folder: Path,
    options: Mapping[str, Any],
    out: Path,
    progress: Callable[[str], None] = lambda text: None,
    *,
    level: str = "",
    only: str = "",
    inputs: Mapping[str, str] | None = None,
    models: Mapping[str, str] | None = None,
) -> list[LocalRun]:
    """Runs an app on every series of a folder (or file), or at study level on all of them together.

    Args:
        out: results go there; into a folder per series where there are several.
        progress: told in a few words what goes on.
        level: `series` or `study`; empty: what the app's `process` says it takes.
        only: runs on the series this fits: a SeriesDescription with wildcards, a SeriesNumber or a SeriesInstanceUID.
        inputs: at study level, the app's names for series, with what fits them as in `only`.
        models: name -> address of a model, as in `RADNODE_MODELS`.

    Raises OptionsError, NotDicomError, NotFoundError; what the app raises where it is run only once.
    """
    checked = app_class.parse_options(dict(options)).model_dump(mode="json")
    found = read_series(dicom_files(folder))
    if only:
        found = _fitting(found, only)
    app = app_class()
    progress(f"loading {app_class.name}")
    app.load()
    if (level or _level(app_class)) == "study":
        return [_run(app, _assignment(app, "study", _named(found, inputs or {}), checked, models), out, progress)]
    jobs = [_assignment(app, "series", {name: series}, checked, models) for name, series in _by_name(found).items()]
    if len(jobs) == 1:
        return [_run(app, jobs[0], out, progress)]
    return [_run_or_tell(app, each, out / f"series-{number}", progress) for number, each in enumerate(jobs, 1)]


def _run_or_tell(app: App[Any], job: Assignment, out: Path, progress: Callable[[str], None]) -> LocalRun:
    try:
        return _run(app, job, out, progress)
    except RadnodeError as error:
        return LocalRun(", ".join(job.inputs), (), "", str(error), {})


def _run(app: App[Any], job: Assignment, out: Path, progress: Callable[[str], None]) -> LocalRun:
    name = ", ".join(job.inputs)
    _remove_previous(out)
    made = process(app, job, out, lambda text: progress(f"{app.name} on {name}: {text}"))
    files, sources = [], _series_of(job)
    for each in made["objects"]:
        files.append(out / each["file"])
        picture = preview(out / each["file"], sources)
        files += [picture] if picture else []
    files += [out / each for each in made["files"]]
    return LocalRun(name, tuple(files), made["reason"], "", made["seconds"])


def _series_of(job: Assignment) -> tuple[Series, ...]:
    source = read_input(job)
    return source.series if isinstance(source, Study) else (source,)


def _remove_previous(out: Path) -> None:
    """What an earlier run left in this folder, by its manifest: old results must not pass for new ones."""
    manifest = out / MANIFEST
    if not manifest.exists():
        return
    made = json.loads(manifest.read_text(encoding="utf-8"))
    for name in [each["file"] for each in made["objects"]] + made["files"]:
        path = out / Path(name).name
        path.unlink(missing_ok=True)
        path.with_suffix(".png").unlink(missing_ok=True)
    manifest.unlink()


def _assignment(
    app: App[Any], level: str, named: dict[str, Series], options: dict[str, Any], models: Mapping[str, str] | None
) -> Assignment:
    created = datetime.now().astimezone().isoformat()
    inputs = [
        JobInput(
            name,
            series.SeriesInstanceUID,
            tuple(each.SOPInstanceUID for each in series),
            tuple(str(each.path.absolute()) for each in series),
        )
        for name, series in named.items()
    ]
    # The time belongs to the identity here: a second run writes other times, so it must have other UIDs.
    identity = job_id(app.name, app.version, options, inputs, predecessor=f"local {created}")
    paths = {each.name: list(each.paths) for each in inputs}
    return Assignment(identity, app.name, app.version, level, options, paths, created, models=dict(models or {}))


def dicom_files(folder: Path) -> Iterable[Path]:
    """The Part 10 files in a folder and below it, or the file itself. Raises NotFoundError, NotDicomError."""
    if not folder.exists():
        raise NotFoundError(f"{folder} does not exist", remedy="name a DICOM file or a folder of them")
    files = [folder] if folder.is_file() else sorted(each for each in folder.rglob("*") if each.is_file())
    found = [each for each in files if is_dicom(each)]
    if not found:
        raise NotDicomError(f"{folder} holds no DICOM file", remedy="name a folder of Part 10 files")
    return found


def _level(app_class: type[App[Any]]) -> str:
    """`study` where the first parameter of `process` is a Study and nothing else."""
    parameters = list(inspect.signature(app_class.process).parameters.values())
    kind = parameters[1].annotation if len(parameters) > 1 else ""
    name = str(getattr(kind, "__name__", kind)).rpartition(".")[2]  # text where annotations are not evaluated
    return "study" if name == "Study" else "series"


def _named(found: list[Series], inputs: Mapping[str, str]) -> dict[str, Series]:
    """The series of a study under the names the app knows them by. Raises NotFoundError."""
    if len({each.StudyInstanceUID for each in found}) > 1:
        raise NotFoundError("the files are of several studies", remedy="give one study at a time")
    if not inputs:
        return _by_name(found)
    named = {}
    for name, pattern in inputs.items():
        fitting = _fitting(found, pattern)
        if len(fitting) > 1:
            raise NotFoundError(f"{len(fitting)} series fit input {name}={pattern!r}", remedy=_choices(fitting))
        named[name] = fitting[0]
    return named


def _by_name(found: list[Series]) -> dict[str, Series]:
    named: dict[str, Series] = {}
    for series in found:
        name = _name(series)
        named[name if name not in named else f"{name} ({len(named) + 1})"] = series
    return named


def _fitting(found: list[Series], pattern: str) -> list[Series]:
    fitting = [each for each in found if _fits(each, pattern)]
    if not fitting:
        raise NotFoundError(f"no series fits {pattern!r}", remedy=_choices(found))
    return fitting


def _fits(series: Series, pattern: str) -> bool:
    if pattern in (series.SeriesInstanceUID, series.first.text("SeriesNumber")):
        return True
    return fnmatchcase(series.first.text("SeriesDescription").casefold(), pattern.casefold())


def _choices(found: list[Series]) -> str:
    return "there are: " + "; ".join(f"{each.first.text('SeriesNumber')} {_name(each)}" for each in found)


def _name(series: Series) -> str:
    return series.first.text("SeriesDescription") or series.SeriesInstanceUID
