"""The commands by which a person decides about jobs and deliveries."""

from __future__ import annotations

from typing import Annotated

import typer

from radnode.cli.common import (
    ACT,
    AsJson,
    DryRun,
    Ids,
    OfApp,
    OfDestination,
    OfRule,
    OfState,
    Since,
    app,
    err,
    load_settings,
    none_empty,
    out,
    print_json,
)


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
    _acted(act.retry(load_settings(), chosen, dry_run=dry_run), "set waiting again", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def resend(
    ids: Ids = None,
    of_app: OfApp = "",
    rule: OfRule = "",
    state: OfState = "",
    since: Since = "",
    destination: OfDestination = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Sends kept results again, also those that were delivered: for a PACS that lost them."""
    from radnode.run import act

    chosen = act.Filter(tuple(ids or ()), of_app, rule, state, since, destination)
    _acted(act.resend(load_settings(), chosen, dry_run=dry_run), "set waiting again", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def rerun(
    ids: Ids = None,
    of_app: OfApp = "",
    rule: OfRule = "",
    state: OfState = "",
    since: Since = "",
    destination: OfDestination = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Computes again what has ended, by the apps as they are now; the new results supersede those before."""
    from radnode.run import act

    chosen = act.Filter(tuple(ids or ()), of_app, rule, state, since, destination)
    _acted(act.rerun(load_settings(), chosen, dry_run=dry_run), "computed again", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def release(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            help="Job IDs or their beginnings, accession numbers, Study Instance UIDs.", callback=none_empty
        ),
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
    _acted(act.release(load_settings(), chosen, dry_run=dry_run), "released", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def cancel(
    ids: Ids = None,
    of_app: OfApp = "",
    rule: OfRule = "",
    state: OfState = "",
    since: Since = "",
    destination: OfDestination = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Stops waiting and running jobs, drops held ones, settles failed ones, and drops what is not delivered yet."""
    from radnode.run import act

    chosen = act.Filter(tuple(ids or ()), of_app, rule, state, since, destination)
    done, sending = act.cancel(load_settings(), chosen, dry_run=dry_run)
    for each in sending:
        hint = "is being sent, and left to end; if it has to wait again, cancel it then"
        err.print(f"{each} {hint}", style="yellow", markup=False, highlight=False)
    _acted(done, "cancelled", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def promote(
    rule: Annotated[str, typer.Argument(help="A rule that has run in shadow.")],
    since: Since = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Sends what a rule's shadow jobs have made: routing.yaml alone promotes only what comes from now on."""
    from radnode.run import act

    _acted(act.promote(load_settings(), rule, since, dry_run=dry_run), "promoted", dry_run, as_json)


@app.command(rich_help_panel=ACT)
def pause(name: Annotated[str, typer.Argument(help="An app or a destination.")]) -> None:
    """Lets an app's jobs, or a destination's deliveries, wait. Reception goes on."""
    from radnode.run import act

    out.print(
        f"{act.pause(load_settings(), name)} {name} is paused; `radnode resume {name}` lets it go on", markup=False
    )


@app.command(rich_help_panel=ACT)
def resume(name: Annotated[str, typer.Argument(help="An app or a destination.")]) -> None:
    """Lets a paused app or destination go on."""
    from radnode.run import act

    out.print(f"{act.resume(load_settings(), name)} {name} goes on", markup=False)


def _acted(done: list[str], what: str, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    for each in done:
        out.print(each, markup=False, highlight=False)
    out.print(f"{len(done)} {'would be ' if dry_run else ''}{what}")
    if not done:
        raise typer.Exit(1)
