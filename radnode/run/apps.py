"""Finds apps: folders and modules under `RADNODE_APPS`, and entry points of the group `radnode.apps`.

A broken app is listed as broken, with the reason, and harms nobody else.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from radnode.domain.app import App, AppOptions, Resources
from radnode.domain.errors import AppUnknownError, OptionsError
from radnode.run.environments import ForeignApp, describe, has_its_own

_GROUP = "radnode.apps"
_PACKAGE = "radnode_apps"
_LONGEST = 64
"""Characters that DICOM takes where results name their app (VR LO)."""


@dataclass
class Catalog:
    """Apps by name; `faults` holds, by app or module name, why one cannot be used."""

    apps: dict[str, type[App[Any]]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def names(self) -> Collection[str]:
        return {*self.apps, *self.faults}

    def broken(self, name: str) -> str | None:
        return self.faults.get(name)

    def get(self, name: str) -> type[App[Any]]:
        """The app's class. Raises AppUnknownError."""
        if name in self.apps:
            return self.apps[name]
        if name in self.faults:
            raise AppUnknownError(f"app {name!r} is broken: {self.faults[name]}", remedy="mend it, then `radnode apps`")
        raise AppUnknownError(f"no app {name!r}", remedy=f"installed: {', '.join(sorted(self.apps)) or 'none'}")

    def parse_options(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """All options with their values, as JSON has them. Raises OptionsError, AppUnknownError."""
        return self.get(name).parse_options(given).model_dump(mode="json")

    def version(self, name: str) -> str:
        return self.get(name).version

    def queue(self, name: str) -> str:
        return self.get(name).resources.queue


def find(folder: Path, *, only: str = "") -> Catalog:
    """Imports every app there is. One that cannot be imported, or has no name, ends up in `faults`.

    Args:
        only: a folder or module: the others are left alone.
    """
    catalog = Catalog()
    for name, load in _candidates(folder):
        if only not in ("", name):
            continue
        try:
            loaded = load()
            found = loaded if isinstance(loaded, list) else list(_apps_in(loaded))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's module raises at import
            catalog.faults[name] = _fault(error, folder)
            continue
        if not found:
            catalog.faults[name] = "it defines no class derived from radnode.App"
        for app in found:
            _add(catalog, name, app)
    return catalog


def _fault(error: BaseException, folder: Path) -> str:
    """What it is, and the app's own line that it came from, which a SyntaxError tells by itself."""
    told = f"{type(error).__name__}: {error}"
    at = [
        f"{path.relative_to(folder.resolve())}, line {each.lineno}"
        for each in traceback.extract_tb(error.__traceback__)
        if (path := Path(each.filename).resolve()).is_relative_to(folder.resolve())
    ]
    return f"{told} ({at[-1]})" if at and not isinstance(error, SyntaxError) else told


def _candidates(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith((".", "_")):
            continue
        file = path / "__init__.py" if path.is_dir() else path
        if path.is_dir() and has_its_own(path):
            yield path.name, partial(describe, path)
        elif file.suffix == ".py" and file.exists():
            yield path.stem, lambda path=path, file=file: _import(path.stem, file, path.is_dir())
    for point in entry_points(group=_GROUP):
        yield point.name, point.load


def _import(name: str, file: Path, package: bool) -> ModuleType:
    full = f"{_PACKAGE}.{name}"
    if _PACKAGE not in sys.modules:
        parent = ModuleType(_PACKAGE)
        parent.__path__ = []
        sys.modules[_PACKAGE] = parent
    spec = importlib.util.spec_from_file_location(
        full, file, submodule_search_locations=[str(file.parent)] if package else None
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[full]
        raise
    return module


def _apps_in(found: Any) -> Iterator[type[App[Any]]]:
    if isinstance(found, type):
        yield found
        return
    for each in vars(found).values():
        if (
            isinstance(each, type)
            and issubclass(each, App)
            and each is not App
            and each.__module__.startswith(found.__name__)
        ):
            yield each


def _add(catalog: Catalog, place: str, app: type[App[Any]]) -> None:
    if fault := _unusable(app):
        catalog.faults[place] = f"class {app.__name__}{fault}"
    elif app.name in catalog.apps:
        catalog.faults[place] = f"another app is called {app.name!r} already"
    else:
        catalog.apps[app.name] = app


def _unusable(app: type[App[Any]]) -> str:
    """Why a class is no app; empty where it is one."""
    if not getattr(app, "name", "") or not getattr(app, "version", ""):
        return " lacks a `name` or a `version`"
    for keyword in ("name", "version", "description"):
        text = getattr(app, keyword)
        if not isinstance(text, str):
            return f": its {keyword}, {text!r}, is no text"
        if keyword != "description" and not (len(text) <= _LONGEST and text.isprintable() and "\\" not in text):
            return f": its {keyword} is longer than {_LONGEST} characters, or has some that DICOM does not take"
    if not isinstance(app.resources, Resources):
        return ": its resources are no radnode.Resources"
    return "" if issubclass(app, ForeignApp) else _unusable_options(app)


def _unusable_options(app: type[App[Any]]) -> str:
    given = [each for base in getattr(app, "__orig_bases__", ()) for each in getattr(base, "__args__", ())]
    if strange := [each.__name__ for each in given if isinstance(each, type) and not issubclass(each, AppOptions)]:
        return f": its options, {strange[0]}, are not derived from radnode.AppOptions"
    try:
        app.options_schema()
        app.parse_options({}).model_dump(mode="json")
    except OptionsError:
        return ""  # some have no default
    except Exception as error:  # noqa: BLE001 - of whatever type a stranger's options are
        return f": its options cannot be written as JSON: {error}"
    return ""
