"""Core's turns without a core: receivers flush when a test says so, and the clock is the test's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import insert, update

from radnode.domain.assembly import Assessment
from radnode.run.assembling import Assembling
from radnode.run.fetching import Fetcher
from radnode.run.inquiry import Peers, SeriesInquiry
from radnode.run.study_inquiry import StudyInquiry
from radnode.run.study_watch import StudyWatch
from radnode.state import schema
from radnode.state.presence import Barrier, Presence
from radnode.state.spool import Spool
from tests.desk import Desk
from tests.peers import until
from tests.road import small_ct

SENT_AT = 100.0
"""When the desk's files came, on the ledger's clock."""
RELEASED = "{{name: {}, app: test, send_to: [a], complete: {{series: 30m, released: {}s}}}}"


class Turns:
    """Core's turns, at moments of the ledger's clock, and one receiver."""

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self._desk, self.now = desk, SENT_AT
        monkeypatch.setattr(desk.ledger, "now", lambda: self.now)
        monkeypatch.setattr("radnode.run.assembling._LOOK_EVERY", 0.0)
        self.barrier = Barrier(desk.settings.run)
        self.receiver = Presence(desk.settings.run, "receiver-1")
        asking = desk.settings, desk.ledger, Peers(desk.ledger), Fetcher(desk.ledger, Spool(desk.settings.spool))
        studies = StudyWatch(desk.settings, desk.ledger, desk.completion, StudyInquiry(*asking))
        inquiry = SeriesInquiry(*asking)
        self._part = Assembling(desk.settings, desk.ledger, self.barrier, desk.completion, inquiry, studies)

    def at(self, now: float, *, flushed: bool) -> None:
        """A turn, before which the receiver has flushed past the barrier, or has not."""
        self.now = now
        if flushed:
            self.receiver.mark(self.barrier.read())
        self._part.advance(self._desk.routing)


@pytest.fixture
def turns(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    made = Turns(desk, monkeypatch)
    yield made
    made.receiver.leave()


def released(desk: Desk, files: list[Path]) -> None:
    """One association brings these files, and ends."""
    ended = {"id": "a1", "how": "released", "calling_aet": "PACS", "called_aet": "RADNODE", "peer": "p"}
    desk.receive(files)
    with desk.ledger.begin() as tx:
        tx.execute(update(schema.instance).values(association="a1"))
        tx.execute(insert(schema.association), {**ended, "instances": len(files), "opened_at": 1.0, "closed_at": 2.0})


def test_what_is_found_out_while_a_barrier_is_up_is_judged_behind_the_next(
    desk: Desk, turns: Turns, tmp_path: Path
) -> None:
    desk.route(RELEASED.format("early", 2), RELEASED.format("late", 4))
    turns.at(SENT_AT, flushed=True)
    released(desk, small_ct(tmp_path / "study", 1))
    turns.at(101.0, flushed=True)  # its sender has gone
    turns.at(103.0, flushed=True)  # for long enough for the first rule: the barrier is raised
    assert turns.barrier.read() == 1
    turns.at(105.0, flushed=False)  # and for the second, while the receiver is busy
    turns.at(105.1, flushed=True)  # judged as of 103
    assert (len(desk.jobs()), desk.study()["series"][0]["state"]) == (1, "receiving")
    turns.at(105.2, flushed=True)
    turns.at(105.3, flushed=True)
    assert desk.study()["series"][0]["state"] == "complete"
    (said,) = desk.events("complete")
    assert (said["verdict"], said["evidence"]) == ("proven", "released 4.2 s ago")
    before = turns.barrier.read()
    turns.at(105.4, flushed=True)  # and nothing is left to be judged
    assert turns.barrier.read() == before


def test_series_of_a_big_study_hold_up_nobody_where_a_rule_with_inputs_reads_all_of_it(
    desk: Desk, turns: Turns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def judged(*_: Any) -> Assessment | None:
        threads.append(threading.current_thread().name)
        return None

    monkeypatch.setattr("radnode.run.assembling._BIG", 4)
    monkeypatch.setattr(desk.completion, "judge_series", judged)
    desk.receive(small_ct(tmp_path / "study", 1, localizer=True))  # series of four files and of two
    moments = count(1000, 100)
    for inputs, expected in (("", "MainThread"), (", level: study, inputs: {ct: {Modality: CT}}", "big series")):
        desk.route(f"{{name: wiring, app: test, send_to: [a]{inputs}}}")
        threads.clear()
        for _ in range(4):
            turns.at(next(moments), flushed=True)
        until(lambda: len(threads) >= 2, "both series are judged")
        assert set(threads) == {expected}


def test_however_many_series_wait_in_the_lane_others_are_judged_meanwhile(
    desk: Desk, turns: Turns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, beside = threading.Event(), []

    def judged(row: Any, *_: Any) -> Assessment | None:
        if threading.current_thread() is threading.main_thread():
            beside.append(row.id)
        else:
            done.wait()
        return None

    monkeypatch.setattr("radnode.run.assembling._BIG", 1)
    monkeypatch.setattr(desk.completion, "judge_series", judged)
    desk.route("{name: wiring, app: test, send_to: [a], level: study, inputs: {ct: {Modality: CT}}}")
    desk.receive(scattered(small_ct(tmp_path / "big", 1, slices=150, size=8)))
    desk.receive(small_ct(tmp_path / "small", 2, slices=1, size=8))
    for now in range(1000, 1600, 100):
        turns.at(now, flushed=True)
    done.set()
    assert beside


def scattered(files: list[Path]) -> list[Path]:
    """Each file a series of its own."""
    for file in files:
        ds = dcmread(file)
        ds.SeriesInstanceUID = f"{ds.StudyInstanceUID}.{ds.InstanceNumber}"
        ds.save_as(file)
    return files
