"""Apps with dependencies of their own: `apps/NAME/requirements.txt`, and an environment that a person has installed.

The environment is `apps/NAME/.venv`. What it lacks it takes from the node's own, so that it holds no more than the
app's packages, in the versions the app wants. Its interpreter runs the app, and is asked about it: the node never
imports it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from radnode.domain.app import App, AppOptions, Resources
from radnode.domain.errors import AppUnknownError, OptionsError, RadnodeError

_REQUIREMENTS, _ENVIRONMENT, _STAMP = "requirements.txt", ".venv", "radnode-installed"


class _AnyOptions(AppOptions):
    model_config = ConfigDict(frozen=True, extra="allow")


class ForeignApp(App[AppOptions]):
    """An app as its own interpreter describes it."""

    interpreter: ClassVar[str]
    place: ClassVar[Path]
    schema: ClassVar[dict[str, Any]]

    @classmethod
    def stays(cls) -> bool:
        return True

    @classmethod
    def options_schema(cls) -> dict[str, Any]:
        return cls.schema

    @classmethod
    def parse_options(cls, given: dict[str, Any]) -> AppOptions:
        told = json.loads(_ask(cls.place, "options", cls.name, json.dumps(given, sort_keys=True)))
        if "fault" in told:
            raise OptionsError(told["fault"], remedy=told["remedy"], faults=told["faults"])
        return _AnyOptions(**told["options"])


def has_its_own(place: Path) -> bool:
    """Whether the app in this folder runs in an environment other than this process'."""
    return (place / _REQUIREMENTS).is_file() and Path(sys.prefix).resolve() != (place / _ENVIRONMENT).resolve()


def describe(place: Path) -> list[type[ForeignApp]]:
    """The apps of a folder with an environment of its own. Raises RadnodeError where it has to be installed first."""
    if not _is_installed(place):
        raise RadnodeError(
            f"its environment is missing, or {_REQUIREMENTS} has changed since: `radnode app install {place.name}`"
        )
    found = []
    for told in json.loads(_ask(place, "describe")):
        fixed = {"interpreter": _interpreter(place), "place": place, "resources": Resources(**told.pop("resources"))}
        found.append(type("Described", (ForeignApp,), told | fixed))
    return found


def install(apps: Path, name: str) -> Path:
    """Makes the environment of the app in the folder `name`, anew where there is one. Raises RadnodeError."""
    place = apps / name
    if not (place / _REQUIREMENTS).is_file():
        fault = f"{place / _REQUIREMENTS} does not exist"
        raise AppUnknownError(fault, remedy="name a folder of RADNODE_APPS that has one")
    environment = place / _ENVIRONMENT
    _run([sys.executable, "-m", "venv", "--clear", str(environment)], place)
    packages = _run([_interpreter(place), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], place)
    nodes = sysconfig.get_path("purelib")
    (Path(packages.strip()) / "radnode-node.pth").write_text(f"import site; site.addsitedir({nodes!r})\n")
    _run([_interpreter(place), "-m", "pip", "install", "--disable-pip-version-check", "-r", _REQUIREMENTS], place)
    (environment / _STAMP).write_text(_digest(place))
    return environment


def _is_installed(place: Path) -> bool:
    stamp = place / _ENVIRONMENT / _STAMP
    return stamp.is_file() and stamp.read_text() == _digest(place)


def _digest(place: Path) -> str:
    return hashlib.sha256((place / _REQUIREMENTS).read_bytes()).hexdigest()


def _interpreter(place: Path) -> str:
    return str(place / _ENVIRONMENT / "bin" / "python")


@lru_cache(maxsize=256)
def _ask(place: Path, *words: str) -> str:
    return _run([_interpreter(place), "-m", "radnode.run.environments", str(place), *words], place)


def _run(command: list[str], place: Path) -> str:
    try:
        done = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as fault:
        raise RadnodeError(f"{command[0]}: {fault}") from None
    if done.returncode:
        raise RadnodeError(f"{place.name}: {' '.join(command[1:4])}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def main(place: Path, what: str, *words: str) -> None:
    """Answers `_ask`, in the app's own interpreter."""
    from radnode.run.apps import find  # noqa: PLC0415 - it imports this module

    catalog = find(place.parent, only=place.name)
    if catalog.faults:
        sys.exit("; ".join(catalog.faults.values()))
    if what == "describe":
        told: Any = [
            {
                "name": app.name,
                "version": app.version,
                "description": app.description or (app.__doc__ or "").strip().partition("\n")[0],
                "resources": vars(app.resources),
                "schema": app.options_schema(),
            }
            for app in catalog.apps.values()
        ]
    else:
        name, given = words
        try:
            told = {"options": catalog.parse_options(name, json.loads(given))}
        except OptionsError as fault:
            told = {"fault": fault.message, "remedy": fault.remedy, "faults": fault.faults}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
