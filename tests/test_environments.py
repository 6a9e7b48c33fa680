"""An app with packages of its own: installed by a person, asked about and run by its own interpreter."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from radnode import settings as settings_module
from radnode.domain.errors import AppUnknownError, OptionsError, RadnodeError
from radnode.run import apps, environments, explain
from radnode.run.capacity import Share
from radnode.run.runner import Ending
from radnode.testing.phantom import head_ct
from tests.test_isolation import Bench

pytestmark = pytest.mark.timeout(400)  # on a busy machine pip takes its time
RADNODE = [sys.executable, "-m", "radnode.cli"]
APP = """\
import numpy
import radnode_tiny
import radnode
from radnode import Measurement, MeasurementReport

class OldOptions(radnode.AppOptions):
    level: int = radnode.Field(1, ge=0, le=5)

class Old(radnode.App[OldOptions]):
    name, version = "old", "1"
    description = "Needs another numpy."
    resources = radnode.Resources(memory=2048)

    def process(self, series, options):
        print("numpy", numpy.__version__, "tiny", radnode_tiny.VERSION, "level", options.level)
        yield MeasurementReport([Measurement("Images", len(series))])
"""


def wheel(folder: Path, name: str, version: str, text: str) -> str:
    """A package's wheel, made by hand; returns its file name."""
    file = f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / file, "w") as archive:
        archive.writestr(f"{name}/__init__.py", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RADNODE_APPS with an app that wants a package which the node does not have."""
    place = tmp_path_factory.mktemp("apps") / "old"
    place.mkdir()
    (place / "__init__.py").write_text(APP)
    (place / "requirements.txt").write_text(f"./{wheel(place, 'radnode_tiny', '2.0', 'VERSION = 2')}\n")
    return place.parent


def test_an_app_whose_environment_is_missing_says_how_to_install_it_and_harms_no_other(folder: Path) -> None:
    catalog = apps.find(folder)
    assert catalog.apps == {}
    assert "radnode app install old" in catalog.faults["old"]
    settings = settings_module.load({"RADNODE_APPS": str(folder)}, Path("nowhere"))
    told = [each for each in explain.check(settings, catalog) if "app old" in each.message]
    assert [each.state for each in told] == ["problem"]


def test_an_app_is_installed_described_checked_and_run_by_its_own_interpreter(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"RADNODE_APPS": str(folder), "PATH": ""}
    subprocess.run([*RADNODE, "app", "install", "old"], env=env, check=True)
    catalog = apps.find(folder)
    assert catalog.faults == {}
    old = catalog.get("old")
    assert (old.version, old.description, old.resources.memory) == ("1", "Needs another numpy.", 2048)
    assert catalog.parse_options("old", {"level": "3"}) == {"level": 3}
    with pytest.raises(OptionsError, match="app 'old': level"):
        catalog.parse_options("old", {"level": 9})
    bench = Bench(tmp_path, monkeypatch, walled=False, apps=folder)
    ending, log = bench.run("old", share=Share(1), level=4)
    bench.stop()
    assert ending == Ending("done"), log
    assert "tiny 2 level 4" in log
    head_ct(tmp_path / "in", slices=2, size=16)
    run = [*RADNODE, "run", "old", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "sr-0001.dcm").exists()


def test_changed_requirements_have_to_be_installed_anew(folder: Path) -> None:
    environments.install(folder, "old")
    requirements = folder / "old" / "requirements.txt"
    requirements.write_text(requirements.read_text() + "# one more\n")
    assert "has changed since" in apps.find(folder).faults["old"]


def test_what_cannot_be_installed_says_why(folder: Path) -> None:
    (folder / "bad").mkdir(exist_ok=True)
    with pytest.raises(AppUnknownError, match=r"requirements\.txt does not exist"):
        environments.install(folder, "bad")
    (folder / "bad" / "requirements.txt").write_text("./no-such-file.whl\n")
    with pytest.raises(RadnodeError, match=r"no-such-file\.whl"):
        environments.install(folder, "bad")
    assert "bad" in apps.find(folder).faults
