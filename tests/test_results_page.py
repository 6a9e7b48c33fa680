"""docs/results.md: its app runs, and its pictures are what the app makes of a phantom."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from radnode.dicom.encode import KINDS
from radnode.run.apps import find
from radnode.testing import LocalRun, head_ct, run_local
from tests.peers import REPO

PAGE = REPO / "docs" / "results.md"
PICTURES = REPO / "docs" / "images"


def run_page(folder: Path) -> LocalRun:
    """Runs the app of the page on a small phantom with a bleed."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / "apps").mkdir(parents=True)
    (folder / "apps" / "dense.py").write_text(block)
    head_ct(folder / "in", slices=10, size=160, spacing=14, bleed_ml=25)
    (run,) = run_local(find(folder / "apps").get("dense"), folder / "in", {}, folder / "out")
    return run


def pictures(run: LocalRun) -> dict[str, Path]:
    """Name in docs/images -> what the run has made: the slice through the bleed, and the segments' sheet."""
    return {"overlay.png": find_file(run, "sc-0006.png"), "segmentation.png": find_file(run, "seg-0001.png")}


def find_file(run: LocalRun, name: str) -> Path:
    (found,) = (each for each in run.files if each.name == name)
    return found


def test_the_app_of_the_page_makes_every_kind_and_the_pictures_shown(tmp_path: Path) -> None:
    run = run_page(tmp_path)
    assert {each.name.partition("-")[0] for each in run.files} == {"seg", "sc", "sr", "ko", "pm", "pdf"}
    for name, path in pictures(run).items():
        made, shown = (np.asarray(Image.open(each).convert("RGB")).astype(int) for each in (path, PICTURES / name))
        assert made.shape == shown.shape
        assert np.abs(made - shown).max() <= 2, f"{name}: make it anew with `python -m tests.test_results_page FOLDER`"
        assert (PICTURES / name).stat().st_size < 200_000


def test_every_picture_of_the_documents_is_there() -> None:
    for page in (*PAGE.parent.glob("*.md"), REPO / "README.md"):
        for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / name).is_file()


def test_every_value_is_on_the_page() -> None:
    missing = [each.__name__ for each in KINDS if f"`{each.__name__}`" not in PAGE.read_text()]
    assert missing == []


if __name__ == "__main__":
    for name, path in pictures(run_page(Path(sys.argv[1]))).items():
        Image.open(path).save(PICTURES / name, optimize=True)
