"""The commands. Each one reads the settings, calls into `radnode.run`, and prints: no work is done here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from radnode.cli import node  # noqa: F401 - its commands come first
from radnode.cli.common import (
    ACT,
    APPS,
    LOOK,
    TOOLS,
    AsJson,
    DryRun,
    Ids,
    Limit,
    OfApp,
    OfDestination,
    OfRule,
    OfState,
    Since,
    app,
    complain,
    err,
    out,
)
from radnode.cli.common import load_settings as _settings
from radnode.cli.common import print_json as _print_json
from radnode.domain.errors import RadnodeError


def main() -> None:
    """The command line. A RadnodeError becomes one clear message and exit code 1."""
    try:
        app()
    except RadnodeError as error:
        complain(error, 1)


# ---- look ----------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=LOOK)
def studies(
    wanted: Annotated[
        str, typer.Argument(help="An accession number, a Patient ID or a UID; without: the newest.")
    ] = "",
    attention: Annotated[bool, typer.Option("--attention", help="Only studies where a person can act.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """What was received, what became of it rule by rule, and what to do about it."""
    from radnode.run import look

    found = look.studies(_settings(), wanted, attention=attention, limit=limit)
    _show(found, as_json, lambda: look.render_studies(found, detailed=bool(wanted)))
    if wanted and not found:
        raise typer.Exit(1)


@app.command(rich_help_panel=LOOK)
def jobs(state: OfState = "", of_app: OfApp = "", limit: Limit = 50, as_json: AsJson = False) -> None:
    """The newest jobs."""
    from radnode.run import look

    found = look.jobs(_settings(), state=state, app=of_app, limit=limit)
    _show(found, as_json, lambda: look.render_jobs(found))


@app.command(rich_help_panel=LOOK)
def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's ID, or its beginning.")],
    compare: Annotated[
        str, typer.Option(metavar="ID", help="Another job: what its reports say otherwise, and what both have made.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """One job: its timeline from the first instance to the delivery, its results, and its log."""
    from radnode.run import comparing, look

    if compare:
        compared = comparing.compare(_settings(), job_id, compare)
        _show(compared.to_json(), as_json, lambda: comparing.render(compared))
        return
    found = look.job(_settings(), job_id)
    _show(found, as_json, lambda: look.render_job(found))


def _show(value: Any, as_json: bool, render: Callable[[], Any]) -> None:
    if as_json:
        _print_json(value)
    else:
        out.print(render())


@app.command(rich_help_panel=LOOK)
def route(
    path: Annotated[Path, typer.Argument(help="A DICOM file, or a folder of them.", exists=True)],
    explain: Annotated[
        bool, typer.Option("--explain", help="Every rule with every condition: wanted and found.")
    ] = False,
    expect: Annotated[
        str, typer.Option(metavar="RULE", help="Exit code 1 unless this rule matches: for your own tests.")
    ] = "",
    calling_aet: Annotated[str, typer.Option(help="As if sent by this AE title.")] = "",
    called_aet: Annotated[str, typer.Option(help="As if sent to this AE title.")] = "",
    as_json: AsJson = False,
) -> None:
    """What routing.yaml does with these files, and why. Nothing is sent or run."""
    from radnode.run import apps
    from radnode.run import explain as explaining
    from radnode.run.reload import read_routing

    settings = _settings()
    routing = read_routing(settings.routing, apps.find(settings.apps))
    found = explaining.explain(path, routing, calling_aet=calling_aet, called_aet=called_aet)
    _show(found.to_json() if as_json else None, as_json, lambda: explaining.render(found, verdicts=explain))
    if expect and not found.matches(expect):
        err.print(f"rule {expect} does not match", style="red", markup=False)
        raise typer.Exit(1)


@app.command(rich_help_panel=LOOK)
def classify(
    path: Annotated[Path, typer.Argument(help="A DICOM file, or a folder of them.", exists=True)],
    as_json: AsJson = False,
) -> None:
    """What each series is taken for (SeriesClass, SeriesPlane, …), and why."""
    from radnode.run import tools

    found = tools.classify(path)
    _show(found, as_json, lambda: tools.render_classes(found))


@app.command(rich_help_panel=LOOK)
def replay(
    since: Since = "30d",
    routing: Annotated[Path | None, typer.Option(help="This routing file instead of the node's.", exists=True)] = None,
    run: Annotated[
        str, typer.Option("--run", metavar="ID", help="Run this job again, in shadow, with the app as installed now.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """What a routing file would have done with the studies of the last weeks, against what happened."""
    from radnode.run import apps
    from radnode.run import replay as replaying
    from radnode.run.reload import read_routing

    settings = _settings()
    if run:
        made = replaying.run_again(settings, run)
        said = f"{made[:12]} runs in shadow; `radnode job {made[:12]}` shows its results"
        _show({"job": made}, as_json, lambda: said)
        return
    file = read_routing(routing or settings.routing, apps.find(settings.apps))
    found = replaying.replay(settings, file, since)
    _show(found.to_json(), as_json, lambda: replaying.render(found))


# ---- act -----------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=ACT)
def retry(
    ids: Ids = None,
    of_app: OfApp = "",
    rule: OfRule = "",
    state: OfState = "",
    since: Since = "",
    destination: OfDestination = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Runs failed jobs again, and sends parked deliveries again."""
    from radnode.run import act

    chosen = act.Filter(tuple(ids or ()), of_app, rule, state, since, destination)
    _acted(act.retry(_settings(), chosen, dry_run=dry_run), "set waiting again", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def resend(
    ids: Ids = None,
    of_app: OfApp = "",
    rule: OfRule = "",
    since: Since = "",
    destination: OfDestination = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Sends kept results again, also those that were delivered: for a PACS that lost them."""
    from radnode.run import act

    chosen = act.Filter(tuple(ids or ()), of_app, rule, "", since, destination)
    _acted(act.resend(_settings(), chosen, dry_run=dry_run), "set waiting again", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def rerun(
    ids: Ids = None,
    of_app: OfApp = "",
    rule: OfRule = "",
    state: OfState = "",
    since: Since = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Computes again what has ended, by the apps as they are now; the new results supersede those before."""
    from radnode.run import act

    chosen = act.Filter(tuple(ids or ()), of_app, rule, state, since, "")
    _acted(act.rerun(_settings(), chosen, dry_run=dry_run), "computed again", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def release(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Job IDs or their beginnings, accession numbers, Study Instance UIDs.")
    ] = None,
    of_app: OfApp = "",
    rule: OfRule = "",
    state: OfState = "",
    since: Since = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Lets held jobs and studies go, and takes the flag off results whose images were rejected."""
    from radnode.run import act

    chosen = act.Filter(tuple(ids or ()), of_app, rule, state, since, "")
    _acted(act.release(_settings(), chosen, dry_run=dry_run), "released", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def cancel(
    ids: Ids = None,
    of_app: OfApp = "",
    rule: OfRule = "",
    state: OfState = "",
    since: Since = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Stops waiting and running jobs."""
    from radnode.run import act

    chosen = act.Filter(tuple(ids or ()), of_app, rule, state, since, "")
    _acted(act.cancel(_settings(), chosen, dry_run=dry_run), "cancelled", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def promote(
    rule: Annotated[str, typer.Argument(help="A rule that has run in shadow.")],
    since: Since = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Sends what a rule's shadow jobs have made: routing.yaml alone promotes only what comes from now on."""
    from radnode.run import act

    _acted(act.promote(_settings(), rule, since, dry_run=dry_run), "promoted", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def pause(name: Annotated[str, typer.Argument(help="An app or a destination.")]) -> None:
    """Lets an app's jobs, or a destination's deliveries, wait. Reception goes on."""
    from radnode.run import act

    out.print(f"{act.pause(_settings(), name)} {name} is paused; `radnode resume {name}` lets it go on", markup=False)


@app.command(rich_help_panel=ACT)
def resume(name: Annotated[str, typer.Argument(help="An app or a destination.")]) -> None:
    """Lets a paused app or destination go on."""
    from radnode.run import act

    out.print(f"{act.resume(_settings(), name)} {name} goes on", markup=False)


def _acted(done: list[str], what: str, dry_run: bool, as_json: bool) -> None:
    if as_json:
        _print_json(done)
        return
    for each in done:
        out.print(each, markup=False, highlight=False)
    out.print(f"{len(done)} {'would be ' if dry_run else ''}{what}")
    if not done:
        raise typer.Exit(1)


# ---- apps and tools ------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=APPS)
def apps(as_json: AsJson = False) -> None:
    """The installed apps with their options; broken ones with the reason."""
    from radnode.run import look

    found = look.apps(_settings())
    _show(found, as_json, lambda: look.render_apps(found))


author = typer.Typer(help="For authors: `app new` begins one, `app install` gets its packages.", no_args_is_help=True)
app.add_typer(author, name="app", rich_help_panel=APPS)


@author.command("new")
def new_app(name: Annotated[str, typer.Argument(help="What routing.yaml will call it.")]) -> None:
    """Makes apps/NAME: an app that runs, its test that passes, a README."""
    from radnode.run import apps
    from radnode.run.new_app import new_app

    settings = _settings()
    for path in new_app(settings.apps, name, apps.find(settings.apps).names()):
        out.print(str(path), markup=False, highlight=False)


@author.command("install")
def install_app(name: Annotated[str, typer.Argument(help="A folder of RADNODE_APPS with a requirements.txt.")]) -> None:
    """Installs an app's own packages into apps/NAME/.venv, whose interpreter then runs it."""
    from radnode.run import environments

    out.print(f"{environments.install(_settings().apps, name)} is installed; restart the node", markup=False)


@app.command(rich_help_panel=APPS)
def run(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app's name.")],
    path: Annotated[Path, typer.Argument(help="A folder of DICOM files.", exists=True)],
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the app.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the results go.")] = Path("results"),
    series: Annotated[str, typer.Option(help="Only this series: its description (*, ?), number or UID.")] = "",
    level: Annotated[str, typer.Option(help="series or study; default: what the app takes.")] = "",
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=SERIES", help="At study level: a series by its name.")
    ] = None,
) -> None:
    """Runs an app on a folder: no network, no Redis; the results are .dcm files, pictures also .png."""
    from radnode.run import tools

    done = tools.run_app(
        _settings(), name, path, sets or [], output, out, err, level=level, only=series, inputs=inputs or []
    )
    raise typer.Exit(done)


@app.command(rich_help_panel=TOOLS)
def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.", exists=True)],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="AET@HOST:PORT", help="A peer, or a destination of routing.yaml; default: this node."
        ),
    ] = "",
    calling_aet: Annotated[str, typer.Option(help="As this AE title.")] = "RADNODE",
) -> None:
    """C-STOREs files to a peer."""
    from radnode.run import tools

    raise typer.Exit(tools.send(_settings(), paths, to, calling_aet, out, err))


@app.command(rich_help_panel=TOOLS)
def echo(
    to: Annotated[
        str,
        typer.Argument(metavar="AET@HOST:PORT", help="A peer, or a destination of routing.yaml; default: this node."),
    ] = "",
) -> None:
    """C-ECHO: does the peer answer?"""
    from radnode.run import tools

    out.print(tools.echo(_settings(), to), markup=False)


@app.command(rich_help_panel=TOOLS)
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("phantom"),
    slices: Annotated[int, typer.Option(help="How many images.")] = 28,
    size: Annotated[int, typer.Option(help="Rows and columns.")] = 512,
) -> None:
    """Makes a phantom head CT with a bleed of known volume, to try things with."""
    from radnode.run import tools

    out.print(tools.phantom(folder, slices, size), markup=False)
