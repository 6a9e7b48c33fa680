"""What is kept but belongs to no study is not silent: it is listed, and pointed at where a person looks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from radnode.cli import app
from tests.desk import Desk
from tests.road import small_ct


def without(keyword: str, file: Path) -> Path:
    ds = dcmread(file)
    del ds[keyword]
    ds.save_as(file)
    return file


def test_an_instance_of_no_study_is_listed_and_pointed_at(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = small_ct(tmp_path / "study", 1)
    lost = without("SeriesInstanceUID", files[3])
    desk.push(files[:3])
    desk.receive([lost])
    monkeypatch.setenv("RADNODE_HOME", str(desk.home))
    monkeypatch.setenv("DATABASE_URL", desk.settings.database_url)
    said = CliRunner().invoke(app, ["studies", "NO-SUCH-NUMBER"])
    assert said.exit_code == 1
    assert "1 instances lack a UID, and belong to no study" in said.output
    listed = CliRunner().invoke(app, ["studies", "--unfiled"])
    assert "no SeriesInstanceUID" in listed.output
    assert str(dcmread(lost).SOPInstanceUID) in listed.output
    assert [each["flaw"] for each in desk.events("flawed")] == ["no SeriesInstanceUID"]


def test_where_every_instance_has_its_study_nothing_is_said(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.push(small_ct(tmp_path / "study", 1))
    monkeypatch.setenv("RADNODE_HOME", str(desk.home))
    monkeypatch.setenv("DATABASE_URL", desk.settings.database_url)
    assert "no study" not in CliRunner().invoke(app, ["studies"]).output
    assert "every instance" in CliRunner().invoke(app, ["studies", "--unfiled"]).output
