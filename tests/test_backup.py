"""Copies of the ledger, and a ledger that is lost: the spool knows the images, and a person lets them go."""

from __future__ import annotations

from pathlib import Path

import pytest

from radnode.domain.errors import LedgerError
from radnode.run import act, look
from radnode.state import holds
from radnode.state.ledger import Ledger
from tests.desk import Desk
from tests.road import small_ct


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
