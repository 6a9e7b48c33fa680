"""Edits of `routing.yaml` on a running node: taken up however they are saved, and never half."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from radnode.domain.routing import parse_routing
from radnode.run.reload import RoutingFile
from radnode.state.ledger import Ledger
from tests.judging import Apps

ONE, TWO = "rules: [{name: one, send_to: []}]\n", "rules: [{name: two, send_to: []}]\n"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path)
    opened.migrate()
    yield opened
    opened.close()


def watched(path: Path, ledger: Ledger) -> RoutingFile:
    return RoutingFile(path, ledger, Apps())


def rules(file: RoutingFile) -> list[str]:
    """What is in force after the two looks that an edit needs."""
    file.poll()
    file.poll()
    return [each.name for each in file.routing.rules]


def test_an_edit_in_place_is_seen_though_size_time_and_inode_stay(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(ONE)
    file, stat = watched(path, ledger), path.stat()
    with path.open("r+") as stream:
        stream.write(TWO)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert rules(file) == ["two"]


def test_an_editor_that_renames_is_followed(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(ONE)
    file = watched(path, ledger)
    path.rename(tmp_path / "routing.yaml~")
    (tmp_path / "new").write_text(TWO)
    file.poll()  # in the moment in which there is none
    (tmp_path / "new").rename(path)
    assert rules(file) == ["two"]


def test_a_mounted_volume_that_swaps_its_folder_by_a_symlink_is_followed(tmp_path: Path, ledger: Ledger) -> None:
    for name, text in (("..1", ONE), ("..2", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "routing.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "routing.yaml").symlink_to("..data/routing.yaml")
    file = watched(tmp_path / "routing.yaml", ledger)
    assert rules(file) == ["one"]
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert rules(file) == ["two"]


def test_a_file_that_is_being_written_is_not_taken_half(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(ONE)
    file = watched(path, ledger)
    for text in ("", "rules: []\n", ONE + "#", TWO):
        path.write_text(text)
        file.poll()
        assert [each.name for each in file.routing.rules] == ["one"]
    assert rules(file) == ["two"]


def test_a_bad_edit_and_a_missing_file_leave_what_was_in_force(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(ONE)
    file = watched(path, ledger)
    path.write_text("rules: [{nam: two}]\n")
    assert rules(file) == ["one"]
    path.unlink()
    assert rules(file) == ["one"]
    path.write_text(TWO)
    assert rules(file) == ["two"]
    assert file.routing.version == parse_routing(TWO, catalog=Apps()).version


def test_a_pipe_in_its_place_holds_core_up_no_more_than_a_bad_edit(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(ONE)
    file = watched(path, ledger)
    path.unlink()
    os.mkfifo(path)
    assert rules(file) == ["one"]
    path.unlink()
    path.write_text(TWO)
    assert rules(file) == ["two"]
