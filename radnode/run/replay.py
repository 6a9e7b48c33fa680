"""`radnode replay`: what a routing file would have done with the studies of the last weeks; and one job again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from radnode.dicom.headers import read_attributes
from radnode.domain.errors import NotDicomError, NotFoundError
from radnode.domain.jobs import PRIORITIES, JobInput, SeriesLabel, job_id
from radnode.domain.routing import Routing
from radnode.domain.routing.replay import Difference, Past, compare
from radnode.domain.study import Instance, Series, Study, Value
from radnode.run import apps
from radnode.run.act import Filter
from radnode.run.filing import Kept
from radnode.run.look import ledger_of
from radnode.settings import Settings
from radnode.state import history, jobs
from radnode.state.ledger import Record, Transaction, take_turns
from radnode.state.views import Views

_SHOWN = 10


@dataclass(frozen=True)
class Replay:
    """`receiving` studies were left out: they are not complete yet."""

    routing: Routing
    studies: int
    receiving: int
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "routing": self.routing.version,
            "studies": self.studies,
            "receiving": self.receiving,
            "rules": [each.to_json() for each in self.differences],
        }


def replay(settings: Settings, routing: Routing, since: str) -> Replay:
    """Holds the routing against what came since then. Raises RadnodeError for a duration that is none."""
    after = Filter(since=since).after or 0.0
    pasts: list[Past] = []
    receiving = 0
    with ledger_of(settings) as ledger:
        with ledger.read() as tx:
            studies = history.studies_since(tx, after)
        for study in studies:
            with ledger.read() as tx:
                past = _past(settings, tx, study, routing) if study.state != "receiving" else None
            receiving += study.state == "receiving"
            pasts += [past] if past else []
    return Replay(routing, len(pasts), receiving, tuple(compare(routing, pasts)))


def _past(settings: Settings, tx: Transaction, study: Record, routing: Routing) -> Past | None:
    series: list[Series] = []
    contexts, unknown = {}, {}
    for row in history.complete_series_of(tx, study.id):
        uid = row.series_instance_uid
        wanted = sorted(routing.keywords - set(row.kept))
        kept: dict[str, Any] = dict(row.kept)
        if wanted:
            read = _from_spool([settings.spool / each for each in history.paths_of(tx, row.id)], wanted)
            kept |= read or {}
            unknown[uid] = () if read is not None else tuple(wanted)
        series.append(_series(uid, study.study_instance_uid, row.instances, kept))
        contexts[uid] = {"CallingAETitle": row.calling_aet, "CalledAETitle": row.called_aet}
    if not series:
        return None
    return Past(Study(tuple(series)), contexts, history.matches_of(tx, study.id), unknown)


def _from_spool(paths: Sequence[Path], names: Sequence[str]) -> Kept | None:
    """The values of attributes that were not kept; None where not all the files are there any more."""
    found: dict[str, dict[tuple[Value, ...], None]] = {name: {} for name in names}
    for path in paths:
        try:
            attributes = read_attributes(path, frozenset(names))
        except NotDicomError:
            return None
        for name, values in attributes.items():
            found[name][values] = None
    return {name: [list(each) for each in values] for name, values in found.items()} if paths else None


def _series(uid: str, study_uid: str, instances: int, kept: Mapping[str, Sequence[Sequence[Value]]]) -> Series:
    """A series of so many instances whose attributes take these values; which image had which is not known."""
    made = []
    for number in range(instances):
        values = {name: tuple(each[min(number, len(each) - 1)]) for name, each in kept.items() if each}
        identity: dict[str, tuple[Value, ...]] = {"SeriesInstanceUID": (uid,), "StudyInstanceUID": (study_uid,)}
        made.append(Instance(Path(), {**values, **identity}))
    return Series(tuple(made))


def run_again(settings: Settings, prefix: str) -> str:
    """Makes a shadow job of the same inputs and options with the app as it is installed now; returns its ID.

    Raises NotFoundError where the job, its app or its originals are not there, OptionsError.
    """
    catalog = apps.find(settings.apps)
    with ledger_of(settings) as ledger:
        with ledger.read() as tx:
            job = jobs.get(tx, Views(tx, settings.zone).job(prefix)["id"])
            rows = jobs.input_rows(tx, job.id)
        if job.app not in catalog.apps:
            fault = catalog.broken(job.app) or "not installed"
            raise NotFoundError(f"app {job.app!r} cannot run: {fault}", remedy="`radnode apps` lists what is installed")
        new = _again(job, rows, catalog)
        with ledger.begin("replay job") as tx:
            take_turns(tx, "jobs")  # no purge comes between
            rows = jobs.input_rows(tx, job.id)
            if gone := [each for each in rows if each.purged or not (settings.spool / each.path).exists()]:
                fault = f"{len(gone)} of {len(rows)} originals are no longer in the spool"
                raise NotFoundError(fault, remedy="push the study again")
            jobs.create(tx, new)
    return new.id


def _again(job: Record, rows: Sequence[Record], catalog: apps.Catalog) -> jobs.NewJob:
    version, options = catalog.version(job.app), catalog.parse_options(job.app, job.options)
    named: dict[str, list[Record]] = {}
    for row in rows:
        named.setdefault(row.name, []).append(row)
    inputs = [
        JobInput(name, name, tuple(one.sop_instance_uid for one in each), tuple(one.path for one in each))
        for name, each in named.items()
    ]
    return jobs.NewJob(
        id=job_id(job.app, version, options, inputs, predecessor=f"replay of {job.id}"),
        study_id=job.study_id,
        series_id=job.series_id,
        rule=f"{job.rule} (replay)",
        routing_version=job.routing_version,
        app=job.app,
        app_version=version,
        level=job.level,
        options=options,
        send_to=tuple(job.send_to),
        queue=catalog.queue(job.app),
        priority=PRIORITIES["low"],
        last_image_at=job.last_image_at,
        inputs={name: [one.id for one in each] for name, each in named.items()},
        label=SeriesLabel(**job.label),
        expire=job.expire,
        shadow=True,
    )


def render(found: Replay) -> RenderableType:
    lines = [Text(f"{found.studies} studies, {found.receiving} more are not complete yet")]
    for each in found.differences:
        change = f"{each.rule}: matched {each.before}, would match {each.after}"
        if each.unknown:
            change += f", {len(each.unknown)} unknown"
        lines.append(Text(change, style="bold" if each.gained or each.lost else ""))
        marked = (("+", each.gained, "green"), ("-", each.lost, "red"), ("?", each.unknown, "yellow"))
        for mark, places, style in marked:
            for (study, series), reason in list(places.items())[:_SHOWN]:
                lines.append(_text(f"  {mark} {study} {series}  {reason}", style))
            if len(places) > _SHOWN:
                lines.append(Text(f"  {mark} and {len(places) - _SHOWN} more", style=style))
    return Group(*lines)


def _text(text: str, style: str) -> Text:
    """A peer's words never control the terminal."""
    return Text("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text), style=style)
