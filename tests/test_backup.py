"""Copies of the ledger, and a ledger that is lost: the spool knows the images, and a person lets them go."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from radnode.domain.errors import LedgerError
from radnode.run import act, look
from radnode.state import holds
from radnode.state.ledger import Ledger
from radnode.testing.sink import SinkPacs
from tests.desk import Desk
from tests.peers import Node, until
from tests.road import QUICK, destinations, push, settings_of, settled, small_ct, study, study_uid
from tests.test_life import assert_once


def adopted_anew(desk: Desk, files: list[Path]) -> int:
    """What core does when it starts on a spool and a ledger without a study."""
    with desk.ledger.begin() as tx:
        holds.watch_for_loss(tx)
    with desk.ledger.begin() as tx:
        holds.adopting(tx)
    desk.receive(files)
    with desk.ledger.begin() as tx:
        return holds.loss(tx)


def test_a_copy_of_the_ledger_is_a_ledger(desk: Desk, tmp_path: Path) -> None:
    desk.push(small_ct(tmp_path / "study", 1))
    if desk.ledger.file is None:
        with pytest.raises(LedgerError, match="pg_dump"):
            act.backup(desk.settings, tmp_path)
        return
    copy = act.backup(desk.settings, tmp_path / "copy.sqlite")
    home = tmp_path / "restored"
    home.mkdir()
    copy.rename(home / "ledger.sqlite")
    restored = Ledger(home)
    restored.ready()
    restored.close()
    assert act.backup(desk.settings, home).name.startswith("ledger-2")
    for place, fault in ((desk.ledger.file, "the ledger itself"), (tmp_path / "nowhere" / "x", "cannot be written")):
        with pytest.raises(LedgerError, match=fault):
            act.backup(desk.settings, place)


def test_a_file_that_is_there_is_overwritten_only_by_force_and_the_ledger_never(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", "rules: []\n", start=False)
    node.home.mkdir()
    ledger = Ledger(node.home)
    ledger.migrate()
    ledger.close()
    kept = tmp_path / "the-last-good-copy.sqlite"
    kept.write_text("of yesterday")
    with pytest.raises(LedgerError, match=r"is there already\n  -> .*--force"):
        act.backup(settings_of(node), kept)
    node.cli("backup", str(kept), code=1)
    assert kept.read_text() == "of yesterday"
    node.cli("backup", "--force", str(kept))
    assert kept.read_bytes().startswith(b"SQLite format 3")
    node.cli("backup", "--force", str(node.home / "ledger.sqlite"), code=1)


def test_after_a_loss_nothing_is_made_until_a_person_releases_the_study(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    assert adopted_anew(desk, files) == 1
    desk.judge()
    study = desk.study()
    assert (study["state"], desk.jobs()) == ("attention", [])
    assert "the ledger was lost" in study["held"]
    assert [each["StudyInstanceUID"] for each in look.studies(desk.settings, attention=True)] == [
        study["StudyInstanceUID"]
    ]
    assert act.release(desk.settings, act.Filter(state="held"), dry_run=True) == act.release(
        desk.settings, act.Filter((study["AccessionNumber"],))
    )
    desk.judge()
    assert (desk.states(), desk.study()["held"]) == (["waiting"], "")


@pytest.mark.parametrize("used", ["a study", "a start of core"])
def test_what_a_dead_receiver_left_is_no_loss(desk: Desk, tmp_path: Path, used: str) -> None:
    if used == "a study":
        desk.push(small_ct(tmp_path / "one", 1))
    else:
        with desk.ledger.begin() as tx:
            holds.watch_for_loss(tx)
            assert holds.loss(tx) == 0
    assert adopted_anew(desk, small_ct(tmp_path / "two", 2)) == 0


def test_a_rebuild_that_was_cut_short_still_holds(desk: Desk, tmp_path: Path) -> None:
    with desk.ledger.begin() as tx:
        holds.watch_for_loss(tx)
        holds.adopting(tx)
    desk.receive(small_ct(tmp_path / "study", 1))
    with desk.ledger.begin() as tx:
        holds.watch_for_loss(tx)  # the next start
        assert holds.loss(tx) == 1


@pytest.mark.timeout(300)
def test_results_in_the_spool_are_put_back_into_an_older_ledger_and_a_new_one_and_nothing_is_computed_again(
    start_node: Callable[..., Node], sink: SinkPacs, tmp_path: Path
) -> None:
    node = start_node(destinations(a=sink) + QUICK + "rules: [{name: wiring, app: test, send_to: [a]}]\n")
    copy = tmp_path / "copy.sqlite"
    node.cli("backup", str(copy))
    once, grown = study_uid(small_ct(tmp_path / "once", 1)), small_ct(tmp_path / "grown", 2)
    settled(node, push(node, (tmp_path / "once").glob("*.dcm")))
    push(node, [each.path for each in sink.received if each.path])  # as a PACS that routes on what it gets
    settled(node, push(node, grown[:-1]))
    push(node, grown[-1:])
    until(lambda: len(study(node, study_uid(grown))["jobs"]) == 2, "the whole series has superseded the part")
    settled(node, study_uid(grown))
    before, logs, made = _jobs(node, once, study_uid(grown)), _job_logs(node), len(set(sink.uids))

    _stop_and_lose_the_ledger(node)
    shutil.copyfile(copy, node.home / "ledger.sqlite")
    sent = len(sink.received)
    node.start()
    until(lambda: set(sink.uids[sent:]) == _newest(before), "what stands has been sent again")
    assert _jobs(node, once, study_uid(grown)) == before

    _stop_and_lose_the_ledger(node)
    sent = len(sink.received)
    node.start()
    until(lambda: _jobs(node, once, study_uid(grown)) == before, "all jobs are known again")
    assert sink.uids[sent:] == []
    node.cli("release", once, study_uid(grown))
    until(lambda: set(sink.uids[sent:]) == _newest(before), "what stands has been sent again")
    for each in (once, study_uid(grown)):
        settled(node, each)
    assert_once(sink, 0, made, again=True)
    assert (_jobs(node, once, study_uid(grown)), _job_logs(node)) == (before, logs)


def _stop_and_lose_the_ledger(node: Node) -> None:
    node.stop()
    for each in node.home.glob("ledger.sqlite*"):
        each.unlink()


def _jobs(node: Node, *studies: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """(ID, what has superseded it, its results) of each job that is done."""
    ids = [job["id"] for uid in studies for job in study(node, uid)["jobs"] if job["state"] == "done"]
    found = [look.job(settings_of(node), each) for each in ids]
    return sorted(
        (each["id"], each["superseded_by"], tuple(one["SOPInstanceUID"] for one in each["results"])) for each in found
    )


def _newest(jobs: list[tuple[str, str, tuple[str, ...]]]) -> set[str]:
    return {uid for _, superseded_by, results in jobs if not superseded_by for uid in results}


def _job_logs(node: Node) -> dict[str, int]:
    """Every run of an app writes one."""
    return {each.name: each.stat().st_mtime_ns for each in (node.home / "log/jobs").glob("*.log")}
