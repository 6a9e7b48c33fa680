"""Help for authors and operators: run an app on a folder, send, echo, make a phantom."""

from __future__ import annotations

import re
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from radnode.dicom import scu
from radnode.dicom.volume import read_series
from radnode.domain import series_class
from radnode.domain.app import App
from radnode.domain.errors import NotDicomError, OptionsError, PeerError, RadnodeError
from radnode.domain.jobs import Outcome, judge
from radnode.run import apps as app_finder
from radnode.run.environments import ForeignApp
from radnode.run.local import LocalRun, dicom_files, run_local
from radnode.run.reload import read_routing
from radnode.settings import Settings

PHANTOM_BLEED_ML = 30.0


def run_app(
    settings: Settings,
    name: str,
    path: Path,
    sets: Sequence[str],
    output: Path,
    out: Console,
    err: Console,
    *,
    level: str = "",
    only: str = "",
    inputs: Sequence[str] = (),
) -> int:
    """`radnode run`: a progress line while it works, then what was written; returns the exit code."""
    app = app_finder.find(settings.apps).get(name)
    if issubclass(app, ForeignApp):
        return subprocess.call([app.interpreter, "-m", "radnode.cli", *sys.argv[1:]])
    with err.status(f"{name}: reading {path}") as status:
        named = _options(inputs, "--input")
        how: dict[str, Any] = {"level": level, "only": only, "inputs": named, "models": settings.models}
        try:
            runs = run_local(app, path, _options(sets), output, status.update, **how)
        except (Exception, SystemExit) as error:
            if not (raised := _raised_in(app, error)):
                raise
            err.print(raised, style="red", markup=False, highlight=False)
            return 1
    for each in runs:
        _tell(each, out, err)
    return 1 if any(each.error for each in runs) else 0


def _raised_in(app: type[App[Any]], error: BaseException) -> str:
    """The traceback from the app's own code on; empty where that had no part in it, or radnode can say it in words."""
    at = error.__traceback__
    while at and at.tb_frame.f_globals.get("__name__") != app.__module__:
        at = at.tb_next
    if at is None or isinstance(error, RadnodeError):
        return ""
    return "".join(traceback.format_exception(type(error), error, at))


def _tell(ran: LocalRun, out: Console, err: Console) -> None:
    if ran.error:
        err.print(f"{ran.name}: {ran.error}", style="red", markup=False)
    elif ran.declined:
        out.print(f"{ran.name}: declined: {ran.declined}", style="yellow", markup=False)
    else:
        seconds = ", ".join(f"{what} {spent:.2f} s" for what, spent in ran.seconds.items())
        out.print(f"{ran.name}: {len(ran.files)} files ({seconds})", markup=False, highlight=False)
        for each in ran.files:
            out.print(f"  {each}", markup=False, highlight=False)


def _options(sets: Sequence[str], flag: str = "--set") -> dict[str, str]:
    options = {}
    for each in sets:
        key, equals, value = each.partition("=")
        if not (equals and key.strip()):
            lacks = "name" if equals else "value"
            raise OptionsError(f"{flag} {each!r} has no {lacks}", remedy=f"write {flag} KEY=VALUE")
        options[key.strip()] = value
    return options


def classify(path: Path) -> list[dict[str, Any]]:
    """`radnode classify`: what each series is taken for, and why."""
    return [
        {
            "SeriesInstanceUID": series.SeriesInstanceUID,
            "SeriesNumber": series.first.text("SeriesNumber"),
            "SeriesDescription": series.first.text("SeriesDescription"),
            "instances": len(series),
            **{keyword: values[0] for keyword, values in found.attributes().items()},
            "why": list(found.why),
        }
        for series in read_series(dicom_files(path))
        for found in [series_class.classify(series)]
    ]


def render_classes(classes: Sequence[dict[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for title in ("", "series", "images", "SeriesClass", "SeriesPlane", "SeriesDerived", "SeriesContrast", "why"):
        table.add_column(title, overflow="fold")
    for each in classes:
        known = (str(each.get(keyword, "")) for keyword in series_class.DERIVED_KEYWORDS)
        name = Text(each["SeriesDescription"] or each["SeriesInstanceUID"])
        table.add_row(each["SeriesNumber"], name, str(each["instances"]), *known, Text("; ".join(each["why"])))
    return table


def send(settings: Settings, paths: Sequence[Path], to: str, calling_aet: str, out: Console, err: Console) -> int:
    """`radnode send`: C-STOREs every DICOM file; returns 1 where one was not stored."""
    peer = _peer(settings, to)
    files, skipped = [], 0
    for path in paths:
        for each in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            try:
                files.append(scu.read_outgoing(each))
            except NotDicomError:
                skipped += 1
    stored = 0
    with err.status(f"sending to {peer}") as status:
        for number, answer in enumerate(scu.send(files, peer, calling_aet=calling_aet), 1):
            status.update(f"sending to {peer}: {number} of {len(files)}")
            if judge(answer.status) is Outcome.STORED:
                stored += 1
            else:
                shown = "no answer" if answer.status is None else f"0x{answer.status:04X}"
                err.print(f"{answer.sop_instance_uid}: {shown} {answer.comment}", style="red", markup=False)
    out.print(
        f"{stored} of {len(files)} instances stored by {peer}" + (f", {skipped} files are no DICOM" if skipped else "")
    )
    return 0 if stored == len(files) and files else 1


def echo(settings: Settings, to: str) -> str:
    """`radnode echo`. Raises PeerError."""
    peer = _peer(settings, to)
    return f"{peer} answered in {scu.echo(peer, calling_aet=settings.aet[0]) * 1000:.0f} ms"


def phantom(folder: Path, slices: int, size: int) -> str:
    """`radnode phantom`."""
    from radnode.testing.phantom import head_ct  # noqa: PLC0415 - numpy and pydicom are not needed by the other tools

    files = head_ct(folder, slices=slices, size=size, bleed_ml=PHANTOM_BLEED_ML)
    return f"{len(files)} images of a head CT with a bleed of {PHANTOM_BLEED_ML:g} mL in {folder}"


def _peer(settings: Settings, to: str) -> scu.Peer:
    if not to:
        return scu.Peer(settings.aet[0], "127.0.0.1" if settings.host == "0.0.0.0" else settings.host, settings.port)  # noqa: S104
    found = re.fullmatch(r"([^@]{1,16})@\[?([^@\]]+)\]?:(\d+)", to)
    if found is not None:
        return scu.Peer(found[1], found[2], int(found[3]))
    try:
        destinations = read_routing(settings.routing, app_finder.find(settings.apps)).destinations
    except RadnodeError as error:
        raise PeerError(f"{to!r} is not AET@HOST:PORT, and routing.yaml cannot be read: {error.message}") from None
    if to not in destinations:
        raise PeerError(
            f"{to!r} is neither AET@HOST:PORT nor a destination", remedy=f"destinations: {', '.join(destinations)}"
        )
    if not destinations[to].aet:
        raise PeerError(f"destination {to} is {destinations[to]}, no DICOM peer", remedy="copy or upload files there")
    return scu.Peer.of(destinations[to])
