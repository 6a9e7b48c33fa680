"""The commands that are the node, or a part of it, that look for mistakes before it starts, and look after its data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from radnode.cli.common import NODE, AsJson, DryRun, app, complain, load_settings, none_empty, out, print_json
from radnode.domain.errors import NewerLedgerError, RoutingError, SettingsError
from radnode.run import EXIT_CONFIG
from radnode.settings import Settings


@app.command(rich_help_panel=NODE)
def up(
    demo: Annotated[
        bool, typer.Option("--demo", help="Push a phantom head CT through the node, show what happens, and end.")
    ] = False,
) -> None:
    """The whole node: receivers, core, workers, and an embedded Valkey unless REDIS_URL is set. Ctrl-C ends it."""
    from radnode.run import up as run_up

    _serve(lambda: run_up.demo(load_settings(), out) if demo else run_up.up(load_settings()))


@app.command(rich_help_panel=NODE)
def receive() -> None:
    """Only the receivers (for a cluster; needs REDIS_URL)."""
    from radnode.run import up as run_up

    _serve(lambda: run_up.receive(_part_settings()))


@app.command(rich_help_panel=NODE)
def core() -> None:
    """Only core: completes studies, makes jobs, serves /metrics (for a cluster; needs REDIS_URL). There is one core."""
    from radnode.run import up as run_up

    _serve(lambda: run_up.core(_part_settings()))


@app.command(rich_help_panel=NODE)
def work(
    queues: Annotated[str, typer.Option(help="Which tickets to take: any of cpu, gpu, deliver.")] = "cpu,gpu,deliver",
) -> None:
    """Only a worker: runs apps and sends results (for a cluster; needs REDIS_URL). Start as many as you like."""
    from radnode.run import up as run_up

    _serve(lambda: run_up.work(_part_settings(), [each.strip() for each in queues.split(",") if each.strip()]))


def _part_settings() -> Settings:
    settings = load_settings()
    if not settings.redis_url:
        raise SettingsError(
            "REDIS_URL is not set", remedy="a part started alone needs it; `radnode up` starts everything"
        )
    return settings


@app.command(rich_help_panel=NODE)
def check(
    echo: Annotated[
        bool, typer.Option("--echo", help="Also ask Redis/Valkey, and each destination with a C-ECHO.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Looks for mistakes in the settings, routing.yaml, the apps and the destinations. Exit code 1 if there is any."""
    from radnode.run import apps, explain

    settings = load_settings()
    findings = explain.check(settings, apps.find(settings.apps), with_echo=echo)
    if as_json:
        print_json([vars(each) for each in findings])
    else:
        out.print(explain.render_findings(findings))
    if any(each.state == "problem" for each in findings):
        raise typer.Exit(1)


def _serve(start: Callable[[], int]) -> NoReturn:
    """Runs a long-lived part. Exit code 78 tells its supervisor that a person has to change something first."""
    try:
        code = start()
    except (SettingsError, RoutingError, NewerLedgerError) as error:
        complain(error, EXIT_CONFIG)
    sys.exit(code)


@app.command(rich_help_panel=NODE)
def backup(
    target: Annotated[Path, typer.Argument(help="A new file, or a folder for one with the time in its name.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there already.")] = False,
) -> None:
    """Copies the ledger, also while the node runs. (PostgreSQL: says how.)"""
    from radnode.run import act

    out.print(act.backup(load_settings(), target, force=force), markup=False)


@app.command(rich_help_panel=NODE)
def purge(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(
            help="Accession numbers, Patient IDs or Study Instance UIDs; without: by age and free space.",
            callback=none_empty,
        ),
    ] = None,
    older_than: Annotated[str, typer.Option(help="Instead of RADNODE_KEEP: 12h, 30d, 8w.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Removes the files of finished studies; what became of them stays in the ledger."""
    from radnode.run import retention

    found = retention.purge(load_settings(), wanted or (), older_than, dry_run=dry_run)
    if as_json:
        print_json(found.to_json())
    else:
        out.print(retention.render(found, dry_run=dry_run))
    if not found.purged:
        raise typer.Exit(1)
