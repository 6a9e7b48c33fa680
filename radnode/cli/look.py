"""The commands that look, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radnode.cli.common import (
    LOOK,
    AsJson,
    Limit,
    OfApp,
    OfState,
    Since,
    app,
    err,
    load_settings,
    show,
)


@app.command(rich_help_panel=LOOK)
def studies(
    wanted: Annotated[
        str, typer.Argument(help="An accession number, a Patient ID or a UID; without: the newest.")
    ] = "",
    attention: Annotated[bool, typer.Option("--attention", help="Only studies where a person can act.")] = False,
    near_misses: Annotated[
        bool,
        typer.Option(
            "--near-misses",
            help="Of the newest studies without a job, only those that a rule would have taken but for one attribute"
            " that is absent.",
        ),
    ] = False,
    unfiled: Annotated[
        bool, typer.Option("--unfiled", help="Instead: instances that are kept but lack a UID to belong to a study.")
    ] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """What was received, what became of it rule by rule, and what to do about it."""
    from radnode.run import look

    settings = load_settings()
    if unfiled:
        instances = look.unfiled(settings, limit)
        show(instances, as_json, lambda: look.render_unfiled(instances))
        return
    found = look.studies(settings, wanted, attention=attention, near_misses=near_misses, limit=limit)
    nothing = _no_study(wanted, limit, attention=attention, near_misses=near_misses)
    show(found, as_json, lambda: look.render_studies(found, detailed=bool(wanted), nothing=nothing))
    if not (found and wanted):
        for hint in look.hints(settings):
            err.print(hint, style="yellow", markup=False, highlight=False)
    if wanted and not found:
        raise typer.Exit(1)


def _no_study(wanted: str, limit: int, *, attention: bool, near_misses: bool) -> str:
    """What it means that none was found."""
    if wanted:
        return "no such study: has it been received? `radnode studies` lists the newest"
    if near_misses:
        return f"no near miss among the newest {limit} studies without a job; a larger --limit looks further back"
    return "no study waits for a person" if attention else "no study has been received yet"


@app.command(rich_help_panel=LOOK)
def jobs(state: OfState = "", of_app: OfApp = "", limit: Limit = 50, as_json: AsJson = False) -> None:
    """The newest jobs."""
    from radnode.run import look

    found = look.jobs(load_settings(), state=state, app=of_app, limit=limit)
    show(found, as_json, lambda: look.render_jobs(found))


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
        compared = comparing.compare(load_settings(), job_id, compare)
        show(compared.to_json(), as_json, lambda: comparing.render(compared))
        return
    found = look.job(load_settings(), job_id)
    show(found, as_json, lambda: look.render_job(found))


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

    settings = load_settings()
    routing = read_routing(settings.routing, apps.find(settings.apps))
    found = explaining.explain(path, routing, calling_aet=calling_aet, called_aet=called_aet)
    show(found.to_json() if as_json else None, as_json, lambda: explaining.render(found, verdicts=explain))
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
    show(found, as_json, lambda: tools.render_classes(found))


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

    settings = load_settings()
    if run:
        made = replaying.run_again(settings, run)
        said = f"{made[:12]} runs in shadow; `radnode job {made[:12]}` shows its results"
        show({"job": made}, as_json, lambda: said)
        return
    file = read_routing(routing or settings.routing, apps.find(settings.apps))
    found = replaying.replay(settings, file, since)
    show(found.to_json(), as_json, lambda: replaying.render(found))
