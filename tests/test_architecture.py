"""What may import what, read from the source, and documents that must keep up with it."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import radnode
from radnode.settings import Settings, variable
from tests.peers import REPO

MODULES = sorted((REPO / "radnode").rglob("*.py"))
APPS = sorted((REPO / "apps").rglob("*.py"))
ALLOWED = {  # part of radnode -> the other parts it may import
    "domain": set(),
    "dicom": {"domain"},
    "state": {"domain"},
    "models": {"domain"},
    "settings": {"domain"},
    "metrics": {"domain"},
    "telemetry": {"domain", "settings", "state", "metrics"},  # of state, the lock files
    "run": {"domain", "dicom", "state", "models", "settings", "metrics", "telemetry", "testing"},
    "testing": {"domain", "dicom", "state", "settings", "run"},
    "cli": {"domain", "dicom", "state", "settings", "metrics", "telemetry", "run", "testing"},
    "__init__": {"domain", "dicom", "models", "testing"},
}
IMPURE = {"os", "io", "socket", "ssl", "subprocess", "threading", "multiprocessing", "tempfile", "shutil", "sqlite3"}
IMPURE |= {"logging", "structlog", "prometheus_client", "time", "sqlalchemy", "redis", "dramatiq", "pynetdicom", "http"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, wherever in the module it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{source}.{each.name}") for each in node.names)


def part(path: Path) -> str:
    return path.relative_to(REPO / "radnode").parts[0].removesuffix(".py")


def strays(paths: list[Path], forbidden: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(REPO)}:{line}: {name}"
        for path in paths
        for line, name in imports(path)
        if forbidden.match(name)
    ]


def named(path: Path) -> str:
    return str(path.relative_to(REPO))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_imports_only_what_its_part_may(path: Path) -> None:
    own = part(path)
    for line, name in imports(path):
        assert not name.startswith("."), f"{path}:{line}: relative import"
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "radnode" and other != own:
            assert other in ALLOWED[own], f"{path}:{line}: radnode.{own} imports {name}"


def test_the_domain_is_pure() -> None:
    domain = [path for path in MODULES if part(path) == "domain"]
    assert strays(domain, re.compile(rf"({'|'.join(sorted(IMPURE))})(\.|$)")) == []


def test_dramatiq_is_known_only_to_run_and_sqlalchemy_only_to_state() -> None:
    assert strays([each for each in MODULES if part(each) != "run"], re.compile(r"dramatiq(\.|$)")) == []
    assert strays([each for each in MODULES if part(each) != "state"], re.compile(r"(sqlalchemy|alembic)(\.|$)")) == []


def test_only_settings_reads_the_environment() -> None:
    readers = [
        f"{named(path)}:{line}" for path in MODULES if part(path) != "settings" for line in environment_reads(path)
    ]
    assert readers == []


def environment_reads(path: Path) -> Iterator[int]:
    """Lines that name the environment, less those that only put a variable there for a library to find."""
    tree = ast.parse(path.read_text())
    written = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"} and node not in written:
            yield node.lineno
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (node.lineno for each in node.names if each.name in {"environ", "getenv"})


def test_an_app_imports_nothing_of_radnode_but_its_front() -> None:
    assert APPS
    front = "|".join(radnode.__all__)
    assert strays(APPS, re.compile(rf"radnode\.(?!({front})$)")) == []


def test_nothing_imports_a_private_name_of_another_part() -> None:
    private = [
        f"{named(path)}:{line}: {name}"
        for path in MODULES
        for line, name in imports(path)
        if name.startswith("radnode.") and name.rpartition(".")[2].startswith("_") and not name.endswith("__")
    ]
    assert private == []


def test_every_setting_is_documented_with_its_default_and_meaning() -> None:
    rows = [line for line in (REPO / "docs" / "settings.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == [_row(name) for name in Settings.__dataclass_fields__]


def _row(name: str) -> str:
    said = Settings.__dataclass_fields__[name].metadata
    default = f"`{said['default']}`" if said["default"] else "empty"
    if name in ("receivers", "workers"):
        default = "CPU count"
    return f"| `{variable(name)}` | {default} | {said['doc']} |"


def test_functions_fit_on_a_screen_and_modules_in_a_sitting() -> None:
    long = []
    for path in MODULES:
        if "migrations" in path.parts:
            continue
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(f"{named(path)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1
                if length > 60:
                    long.append(f"{named(path)}:{node.lineno}: {node.name} has {length} lines")
    assert long == []


def test_no_tracked_file_names_a_place_on_somebodys_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone")
    place = re.compile(r"(?<![\w.}])/(work|tmp|home/\w+|Users/\w+|root)/\w")
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = REPO / name
        try:
            text = path.read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        lines = enumerate(text.splitlines(), 1)
        found += [f"{name}:{number}: {line.strip()}" for number, line in lines if place.search(line)]
    assert found == []
