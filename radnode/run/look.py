"""What `radnode studies`, `jobs`, `job` and `apps` show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from radnode.domain.errors import LedgerError
from radnode.run import apps as app_finder
from radnode.run.joblog import log_path
from radnode.settings import Settings
from radnode.state import unfiled as unfiled_instances
from radnode.state.ledger import Ledger, Unavailable
from radnode.state.views import ATTENTION_DELIVERIES, View, Views

_STYLES = {
    "done": "green", "delivered": "green",
    "complete": "cyan", "receiving": "cyan", "running": "cyan", "sending": "cyan",
    "failed": "bold red", "parked": "bold red", "attention": "bold red", "held": "yellow", "declined": "yellow",
    "expired": "yellow", "cancelled": "yellow", "incomplete": "yellow",
}  # fmt: skip
_LOG_TAIL = 40
_QUIET = ("rules", "seconds", "at", "event", "SeriesInstanceUID", "job", "delivery")


@contextmanager
def ledger_of(settings: Settings) -> Iterator[Ledger]:
    """The ledger of a node that runs, or has run. Raises LedgerError where there is none, or it cannot be used."""
    ledger = Ledger(settings.home, settings.database_url)
    if ledger.file is not None and not ledger.file.exists():
        raise LedgerError(
            f"no ledger in RADNODE_HOME={settings.home}", remedy="start the node, or set RADNODE_HOME to its folder"
        )
    try:
        ledger.ready()
        yield ledger
    except Unavailable as error:
        raise LedgerError(
            f"the ledger cannot be used: {error.orig}",
            remedy="run this as the node's user; where its database is away, try again later",
        ) from None
    finally:
        ledger.close()


@contextmanager
def _views(settings: Settings) -> Iterator[Views]:
    with ledger_of(settings) as ledger, ledger.read() as tx:
        yield Views(tx, settings.zone)


def studies(
    settings: Settings, wanted: str = "", *, attention: bool = False, near_misses: bool = False, limit: int = 50
) -> list[View]:
    with _views(settings) as views:
        return views.studies(wanted, attention=attention, near_misses=near_misses, limit=limit)


def unfiled(settings: Settings, limit: int = 50) -> list[View]:
    """Instances that belong to no study, the newest first."""
    with ledger_of(settings) as ledger, ledger.read() as tx:
        return unfiled_instances.newest(tx, settings.zone, limit)


def hints(settings: Settings) -> Iterator[str]:
    """What no study tells of itself."""
    with ledger_of(settings) as ledger, ledger.read() as tx:
        others, paused = unfiled_instances.count(tx), Views(tx, settings.zone).paused()
    if others:
        yield f"{others} instances lack a UID, and belong to no study: `radnode studies --unfiled` lists them"
    for each in paused:
        name, since = each["name"], f"since {_clock(each['at'])} by {each['who']}"
        yield f"{each['kind']} {name} is paused {since}: `radnode resume {quote(name)}` lets it go on"


def jobs(settings: Settings, *, state: str = "", app: str = "", limit: int = 50) -> list[View]:
    with _views(settings) as views:
        return views.jobs(state=state, app=app, limit=limit)


def job(settings: Settings, prefix: str) -> View:
    """One job; `log` is the end of what its last attempt printed."""
    with _views(settings) as views:
        found = views.job(prefix)
    return {**found, "log": _log_tail(log_path(settings.home, found["id"], found["attempt"]))}


def apps(settings: Settings) -> list[View]:
    catalog = app_finder.find(settings.apps)
    working = [
        {
            "name": name,
            "version": app.version,
            "description": app.description or (app.__doc__ or "").strip().partition("\n")[0],
            "queue": app.resources.queue,
            "timeout": app.resources.timeout,
            "memory": app.resources.memory,
            "options": app.options_schema().get("properties", {}),
            "broken": "",
        }
        for name, app in sorted(catalog.apps.items())
    ]
    return working + [{"name": name, "version": "", "broken": fault} for name, fault in sorted(catalog.faults.items())]


def render_studies(found: Sequence[View], *, detailed: bool, nothing: str) -> RenderableType:
    """One line each or, detailed, all of each; `nothing` is said where there is none."""
    if not found:
        return Text(nothing, style="yellow")
    if detailed:
        return Group(*(_study_tree(each) for each in found))
    columns = "received", "accession", "description", "series", "images", "jobs", "delivered", "state", "near miss"
    table = _table(*columns)
    for each in found:
        images = sum(series["instances"] for series in each["series"])
        delivered = sum(delivery["state"] == "delivered" for delivery in each["deliveries"])
        row = (_clock(each["received"]), each["AccessionNumber"], each["StudyDescription"], len(each["series"]), images,
               len(each["jobs"]), f"{delivered}/{len(each['deliveries'])}")  # fmt: skip
        near = "; ".join(dict.fromkeys(f"{miss['rule']}: no {miss['keyword']}" for miss in each["near_misses"]))
        table.add_row(*map(plain, row), _state(each["state"]), plain(near))
    return table


def render_unfiled(found: Sequence[View]) -> RenderableType:
    if not found:
        return Text("every instance that was received belongs to a study", style="green")
    table = _table("received", "from", "peer", "flaw", "SOP Instance UID", "file in the spool")
    for each in found:
        row = each["CallingAETitle"], each["peer"], each["flaw"], each["SOPInstanceUID"], each["path"]
        table.add_row(plain(_clock(each["received"])), *map(plain, row))
    return table


def render_jobs(found: Sequence[View]) -> RenderableType:
    if not found:
        return Text("no jobs", style="yellow")
    table = _table("job", "created", "app", "rule", "accession", "attempt", "state", "error")
    for each in found:
        row = (
            each["id"][:12],
            _clock(each["created"]),
            each["app"] or "(forward)",
            each["rule"],
            each["AccessionNumber"],
            each["attempt"],
        )
        table.add_row(*map(plain, row), _job_state(each), plain(_why(each)))
    return table


def render_job(found: View) -> RenderableType:
    tree = Tree(
        _line(f"job {found['id']} ", _job_state(found), f"  {found['app'] or 'forward'} {found['app_version']}")
    )
    tree.add(plain(f"rule {found['rule']}, routing {found['routing_version']}"))
    tree.add(plain(f"{found['inputs']} instances, attempt {found['attempt']}"))
    tree.add(plain(f"study {found['StudyInstanceUID']}, accession {found['AccessionNumber'] or '(none)'}"))
    if found["progress"] and found["state"] == "running":
        tree.add(plain(f"at work: {found['progress']}"))
    if found["error"]:
        tree.add(_line("error: ", Text("\n").join(plain(each, "red") for each in found["error"].splitlines())))
    elif why := _why(found):
        tree.add(plain(why))
    for remedy in _remedies(found):
        tree.add(plain(remedy))
    if found["state"] == "declined" and not found["superseded_by"]:
        tree.add(plain(f"radnode rerun {found['id'][:12]}  asks the app again"))
    if found["shadow"]:
        promote = f"radnode promote {quote(found['rule'])}"
        tree.add(plain(f"shadow: nothing is sent; `{promote}` sends what its jobs have made"))
    if found["results"]:
        branch = tree.add("results")
        for each in found["results"][:10]:
            branch.add(plain(f"{each['kind']}  {each['SOPInstanceUID']}  {each['path']}"))
        if len(found["results"]) > 10:
            branch.add(f"and {len(found['results']) - 10} more")
    _add_deliveries(tree, found["deliveries"])
    _add_timeline(tree, found["timeline"])
    if found["log"]:
        log = tree.add("log")
        for line in found["log"].splitlines():
            log.add(plain(line))
    return tree


def render_apps(found: Sequence[View]) -> RenderableType:
    tree = Tree("apps")
    for each in found:
        if each["broken"]:
            tree.add(_line(plain(f"{each['name']} is broken: ", "red"), each["broken"]))
            continue
        branch = tree.add(plain(f"{each['name']} {each['version']}: {each['description']}"))
        for name, schema in each["options"].items():
            value = f" = {schema['default']!r}" if "default" in schema else ""
            branch.add(plain(f"{name}{value}  {schema.get('description', '')}"))
    return tree


def _study_tree(study: View) -> Tree:
    label = f"study {study['StudyInstanceUID']}, accession {study['AccessionNumber'] or '(none)'} "
    tree = Tree(_line(label, _state(study["state"])))
    if study["held"]:
        tree.add(plain(f"held: {study['held']} -> radnode release {study['StudyInstanceUID']}"))
    if study["purged"]:
        tree.add(plain(f"its files were removed at {_clock(study['purged'])}: push it again to work on it"))
    for each in study["series"]:
        description = each["SeriesDescription"] or each["SeriesInstanceUID"]
        branch = tree.add(
            _line(f"{each['Modality']} {description}, {each['instances']} images ", _state(each["state"]))
        )
        for line in _verdicts(study["timeline"], "complete", each["SeriesInstanceUID"]):
            branch.add(line)
    if of_study := list(_verdicts(study["timeline"], "study complete")):
        branch = tree.add("the study as a whole")
        for line in of_study:
            branch.add(line)
    for each in study["near_misses"]:
        tree.add(plain(f"near miss: rule {each['rule']} (line {each['line']}) wants {each['keyword']}, which is absent"
                       " -> have it filled in, or change the rule; then push the study again"))  # fmt: skip
    for each in study["waits"]:
        tree.add(plain(f"rule {each['rule']} waits for {', '.join(each['missing'])} until {_clock(each['until'])}"))
    for each in study["jobs"]:
        line = _line(f"job {each['id'][:12]} {each['app'] or 'forward'} by rule {each['rule']} ", _job_state(each))
        branch = tree.add(line)
        if why := _why(each):
            branch.add(plain(why))
        for remedy in _remedies(each):
            branch.add(plain(remedy))
    _add_deliveries(tree, study["deliveries"])
    _add_timeline(tree, study["timeline"])
    return tree


def _why(job: View) -> str:
    """Why a job is where it is, in one line."""
    if job["paused"]:
        return f"app {job['app']} is paused: radnode resume {quote(job['app'])}"
    return f"waits for its hours, {job['run_between']}" if job["waits_for_hours"] else job["error"].partition("\n")[0]


def _remedies(job: View) -> Iterator[str]:
    """What a person can do about a job."""
    short = job["id"][:12]
    if job["superseded_by"]:
        yield f"superseded by job {job['superseded_by'][:12]}"
    elif job["state"] == "held":
        yield f"radnode release {short}  runs it; radnode cancel {short}  drops it"
    elif job["state"] == "failed":
        yield f"radnode retry {short}  runs it again; radnode cancel {short}  leaves it at that"
    elif job["state"] == "cancelled":
        yield f"radnode retry {short}  runs it after all"
    if job["flag"]:
        yield f"{job['flag']} -> see to its results in the PACS, then radnode release {short}"


def _verdicts(timeline: Sequence[View], event: str, series_uid: str = "") -> Iterator[Text]:
    """The last word of every rule on a series, or of those at study level on the study."""
    said = [each for each in timeline if each["event"] == event and each["SeriesInstanceUID"] == series_uid]
    for rule in said[-1].get("rules", []) if said else []:
        mark = Text("✓ ", style="green") if rule["matched"] else Text("✗ ", style="red")
        yield _line(mark, f"{rule['rule']}: {rule['reason']} (line {rule['line']})")


def _add_deliveries(tree: Tree, deliveries: Sequence[View]) -> None:
    for each in deliveries:
        what = f"to {each['destination']}: {each['stored']} of {each['instances']} stored "
        branch = tree.add(_line(what, _state(each["state"])))
        if each["error"]:
            branch.add(plain(each["error"]))
        if each["paused"]:
            branch.add(plain(f"it is paused: radnode resume {quote(each['destination'])}"))
        if each["state"] in ATTENTION_DELIVERIES:
            one = f"{each['job'][:12]} --destination {quote(each['destination'])}"
            branch.add(plain(f"radnode retry {one}  tries it again; radnode cancel {one}  leaves it at that"))


def _add_timeline(tree: Tree, timeline: Sequence[View]) -> None:
    branch = tree.add("timeline")
    for each in timeline:
        details = ", ".join(
            f"{key} {value}" for key, value in each.items() if key not in _QUIET and value not in ("", None)
        )
        branch.add(plain(f"{_clock(each['at'])}  {each['event']}  {details}"))


def _log_tail(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-_LOG_TAIL:])
    except OSError:
        return ""


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for each in columns:
        table.add_column(each)
    return table


def _clock(at: str | None) -> str:
    return "" if at is None else at[:23].replace("T", " ")


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _job_state(job: View) -> Text:
    return _state(job["state"]) + Text(" (shadow)", style="magenta") if job["shadow"] else _state(job["state"])


def plain(value: Any, style: str = "") -> Text:
    """A peer's words are text, on one line: never markup, and they never control the terminal."""
    words = re.sub(r"\s*\n\s*", " ", str(value)).expandtabs()
    return Text("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in words), style)


def _line(*parts: str | Text) -> Text:
    return Text("").join(each if isinstance(each, Text) else plain(each) for each in parts)
