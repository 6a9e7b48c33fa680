"""The DICOM Conformance Statement says what the code does."""

from __future__ import annotations

import subprocess
import sys

from tests.peers import REPO


def test_the_conformance_statement_is_what_the_code_makes_it_now() -> None:
    program = "from scripts import conformance; print(conformance.page(), end='')"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    written = (REPO / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert written == done.stdout, "docs/conformance.md: write it anew with scripts/conformance.py"
    for said in ("Segmentation Storage", "Comprehensive SR Storage", "A700", "ISO 2022 IR 149", "99RADNODE"):
        assert said in written
