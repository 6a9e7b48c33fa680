"""The commands for authors of apps, and DICOM at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radnode.cli.common import (
    APPS,
    TOOLS,
    AsJson,
    app,
    err,
    load_settings,
    out,
    show,
    writing,
)


@app.command(rich_help_panel=APPS)
def apps(as_json: AsJson = False) -> None:
    """The installed apps with their options; broken ones with the reason."""
    from radnode.run import look

    found = look.apps(load_settings())
    show(found, as_json, lambda: look.render_apps(found))


author = typer.Typer(help="For authors: `app new` begins one, `app install` gets its packages.", no_args_is_help=True)
app.add_typer(author, name="app", rich_help_panel=APPS)


@author.command("new")
def new_app(name: Annotated[str, typer.Argument(help="What routing.yaml will call it.")]) -> None:
    """Makes apps/NAME: an app that runs, its test that passes, a README."""
    from radnode.run import apps
    from radnode.run.new_app import new_app, next_steps

    settings = load_settings()
    with writing():
        made = new_app(settings.apps, name, apps.find(settings.apps).names())
    for path in made:
        out.print(str(path), markup=False, highlight=False)
    out.print(next_steps(settings.apps, name, settings.routing), markup=False, highlight=False)


@author.command("install")
def install_app(name: Annotated[str, typer.Argument(help="A folder of RADNODE_APPS with a requirements.txt.")]) -> None:
    """Installs an app's own packages into apps/NAME/.venv, whose interpreter then runs it."""
    from radnode.run import environments

    out.print(f"{environments.install(load_settings().apps, name)} is installed; restart the node", markup=False)


@app.command(rich_help_panel=APPS)
def run(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app's name.")],
    path: Annotated[Path, typer.Argument(help="A folder of DICOM files.", exists=True)],
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the app.")] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where the results go: a folder.", file_okay=False)
    ] = Path("results"),
    series: Annotated[str, typer.Option(help="Only this series: its description (*, ?), number or UID.")] = "",
    level: Annotated[str, typer.Option(help="series or study; default: what the app takes.")] = "",
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=SERIES", help="At study level: a series by its name.")
    ] = None,
) -> None:
    """Runs an app on a folder: no network, no Redis; the results are .dcm files, pictures also .png."""
    from radnode.run import tools

    done = tools.run_app(
        load_settings(), name, path, sets or [], output, out, err, level=level, only=series, inputs=inputs or []
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

    raise typer.Exit(tools.send(load_settings(), paths, to, calling_aet, out, err))


@app.command(rich_help_panel=TOOLS)
def echo(
    to: Annotated[
        str,
        typer.Argument(metavar="AET@HOST:PORT", help="A peer, or a destination of routing.yaml; default: this node."),
    ] = "",
) -> None:
    """C-ECHO: does the peer answer?"""
    from radnode.run import tools

    out.print(tools.echo(load_settings(), to), markup=False)


@app.command(rich_help_panel=TOOLS)
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("phantom"),
    slices: Annotated[int, typer.Option(help="How many images.", min=1)] = 28,
    size: Annotated[int, typer.Option(help="Rows and columns.", min=1)] = 512,
) -> None:
    """Makes a phantom head CT with a bleed of known volume, to try things with."""
    from radnode.run import tools

    with writing():
        out.print(tools.phantom(folder, slices, size), markup=False)
