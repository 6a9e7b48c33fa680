"""`radnode app new NAME`: a folder with an app that runs, its test that passes, and a README that says how to go on."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

from radnode.domain.errors import OptionsError

_APP = '''"""{title}: measures what is denser than a threshold on a CT. Make of it what you need."""

from radnode import (
    App,
    AppOptions,
    Declined,
    Field,
    Measurement,
    MeasurementReport,
    Resources,
    SecondaryCapture,
    Series,
)


class {cls}Options(AppOptions):
    threshold_hu: float = Field(300, ge=-1000, le=3000, description="what is denser is counted, in HU")


class {cls}(App[{cls}Options]):
    name, version = "{name}", "0.1.0"
    description = "Volume of what is dense."
    resources = Resources(cpu=1, memory=4096, timeout=300)

    def process(self, series: Series, options: {cls}Options):
        if series.first.get("Modality") != "CT":
            raise Declined(f"modality is {{series.first.text('Modality') or 'unknown'}}, not CT")
        volume = series.volume()  # a SimpleITK image: HU, LPS, mm
        mask = volume > options.threshold_hu
        yield MeasurementReport([Measurement.volume_ml("Dense volume", mask)], description="dense volume")
        yield SecondaryCapture.overlay(volume, mask, window=(40, 400), description="dense voxels")
'''

_TEST = '''"""pytest {place}"""

import pydicom
from {name} import {cls}

from radnode.testing import head_ct, run_local


def test_a_head_gives_a_report_and_a_picture_per_slice(tmp_path):
    head_ct(tmp_path / "in", slices=8, size=64, bleed_ml=20)
    (run,) = run_local({cls}, tmp_path / "in", {{}}, tmp_path / "out")
    kinds = [pydicom.dcmread(path).Modality for path in run.files if path.suffix == ".dcm"]
    assert sorted(kinds) == ["OT"] * 8 + ["SR"]


def test_what_is_no_ct_is_declined(tmp_path):
    head_ct(tmp_path / "in", slices=8, size=64, Modality="MR")
    (run,) = run_local({cls}, tmp_path / "in", {{}}, tmp_path / "out")
    assert run.declined == "modality is MR, not CT"
'''

_README = """# {title}

What it does, for whom, and what it must not be used for.

```sh
radnode phantom head-ct                             # something to try it on
radnode run {name} head-ct -o results            # no node, no network; results are .dcm files and .png
radnode run {name} head-ct --set threshold_hu=60 -o results
pytest {place}
```

To let a node run it, name it in a rule of `routing.yaml`:

```yaml
  - name: {name}
    app: {name}
    when: {{Modality: CT, StudyDescription: "*HEAD*"}}
    options: {{threshold_hu: 300}}
```

Raise `version` whenever results change: it is part of every job's identity, so that the same images are computed anew.
`docs/apps.md` of radnode says what an app is given and what it may yield.
"""


def _means_already(name: str, cls: str) -> str:
    """What else goes by the name, in a test that imports the app, or by the class's in the app; empty where nothing."""
    if iskeyword(name) or iskeyword(cls):
        return "a word of Python's own"
    if name in sys.stdlib_module_names:
        return "a module of Python"
    if cls in re.findall(r"^    (\w+),$", _APP, re.MULTILINE):
        return f"what radnode calls its {cls}"
    return "a package that is installed here" if find_spec(name) else ""


def new_app(apps: Path, name: str, known: Collection[str]) -> list[Path]:
    """Makes the folder `apps/NAME` and returns its files. Raises OptionsError for a name that cannot be used.

    Args:
        known: names of apps there are already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,39}", name):
        raise OptionsError(f"{name!r} is no name for an app", remedy="lower-case letters, digits and _, at most 40")
    folder = apps / name
    if name in known or folder.exists():
        raise OptionsError(f"there is an app {name!r} already", remedy="choose another name")
    cls = "".join(part.capitalize() for part in name.split("_"))
    if other := _means_already(name, cls):
        raise OptionsError(f"{name!r} is {other}", remedy=f"call it {name}_app")
    words = {
        "name": name,
        "cls": cls,
        "title": name.replace("_", " ").capitalize(),
        "place": f"{apps.name}/{name}",
    }
    folder.mkdir(parents=True)
    files = {"__init__.py": _APP, f"test_{name}.py": _TEST, "README.md": _README}
    for file, text in files.items():
        (folder / file).write_text(text.format(**words), encoding="utf-8")
    return [folder / file for file in files]


def next_steps(apps: Path, name: str, routing: Path) -> str:
    """What its author does then; `routing` is the node's routing file."""
    return f"""
next:
  edit {apps / name / "__init__.py"}: its process() is where the radiology goes
  radnode run {name} FOLDER  tries it on DICOM files (radnode phantom FOLDER makes some)
  name it in a rule of {routing}: {{name: {name}, app: {name}, when: {{Modality: CT}}}}
  radnode check  says whether the app and the routing are sound"""
