"""No result in time: one page in the study says so, once, and makes way for the result."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from prometheus_client import REGISTRY

from radnode.dicom.scu import read_outgoing
from radnode.domain.notice import notice_id
from radnode.domain.routing import Destination
from radnode.run.notices import Notices
from radnode.state import claims, generations, jobs, notices, schema
from radnode.state.ledger import Ledger, Record
from radnode.testing.sink import SinkPacs
from tests.databases import make_job, result, rows
from tests.peers import until
from tests.results import phantom
from tests.sending import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A job on a phantom waits, and its notice is due."""
    opened = Desk(tmp_path / "desk")
    make_job(opened.ledger, "j1")
    with opened.ledger.begin() as tx:
        ((path,),) = jobs.inputs(tx, "j1").values()
        notices.expect(tx, "j1", 0.0)
        notices.start(tx, opened.ledger.now())
    there = opened.settings.spool / path
    there.parent.mkdir(parents=True)
    there.write_bytes(phantom(tmp_path / "in", slices=1, charset="japanese").first.path.read_bytes())
    yield opened
    opened.close()


def drain(desk: Desk) -> None:
    Notices(desk.settings, desk.ledger, "worker-1", threading.Event()).drain()


def job(ledger: Ledger, name: str) -> Record:
    with ledger.read() as tx:
        return jobs.get(tx, name)


def finish(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        claimed = claims.claim(tx, "cpu", "worker-1")
        assert claimed is not None
        assert claims.finish(tx, claimed, [result()])


def test_a_page_says_once_that_there_is_no_result_and_the_result_takes_its_place(desk: Desk, tmp_path: Path) -> None:
    with SinkPacs(tmp_path / "sink") as sink:
        desk.route(Destination("pacs", sink.aet, "127.0.0.1", sink.port))
        for _ in range(2):
            drain(desk)
            desk.settle("delivered")
        (there,) = sink.received
        with desk.ledger.begin() as tx:  # the same work is asked for again: it has been said
            notices.expect(tx, "j1", 0.0)
            notices.start(tx, desk.ledger.now())
        drain(desk)
        desk.work()
        assert len(sink.received) == 1
    assert there.path is not None
    page, source = pydicom.dcmread(there.path), pydicom.dcmread(tmp_path / "in" / "ct-0001.dcm")
    assert (page.StudyInstanceUID, page.PatientName) == (source.StudyInstanceUID, source.PatientName)
    assert page.SeriesDescription == "AI hyperdense no result - research use only"
    assert desk.events("notice") == [{"reason": "it has not begun yet"}]
    assert job(desk.ledger, "j1").supersedes == notice_id("j1")
    with desk.ledger.read() as tx:  # so does one of more images, whose job takes the place of this one
        assert generations.seen(tx, jobs.get(tx, "j1")) == notice_id("j1")
    finish(desk.ledger)
    assert job(desk.ledger, notice_id("j1")).superseded_by == "j1"


def waited() -> float:
    """How many deliveries count in what a radiologist waits for this app."""
    name = "radnode_last_image_to_delivered_seconds_count"
    return REGISTRY.get_sample_value(name, {"app": "hyperdense"}) or 0


def test_that_there_is_no_result_does_not_count_as_what_a_radiologist_waits_for(desk: Desk, tmp_path: Path) -> None:
    with SinkPacs(tmp_path / "sink") as sink:
        desk.route(Destination("pacs", sink.aet, "127.0.0.1", sink.port))
        before = waited()
        drain(desk)
        desk.settle("delivered")
        assert waited() == before
        desk.job("j0", [read_outgoing(tmp_path / "in" / "ct-0001.dcm")], ["pacs"], priority=0)
        until(lambda: desk.work() or desk.delivery(job="j0").state == "delivered", "the result is delivered")
        assert waited() == before + 1


def test_a_result_that_came_just_before_is_all_that_is_sent(desk: Desk) -> None:
    finish(desk.ledger)
    drain(desk)
    assert [each.job_id for each in rows(desk.ledger, schema.delivery)] == ["j1"]
    assert rows(desk.ledger, schema.notice) == []


def test_a_page_that_is_still_on_its_way_when_the_result_comes_is_withdrawn(desk: Desk) -> None:
    drain(desk)
    finish(desk.ledger)
    states = {each.job_id: each.state for each in rows(desk.ledger, schema.delivery)}
    assert states == {notice_id("j1"): "cancelled", "j1": "waiting"}


def test_a_result_that_comes_while_the_page_is_drawn_is_all_that_is_sent(desk: Desk) -> None:
    with desk.ledger.begin() as tx:
        assert notices.claim(tx, desk.ledger.now()) is not None
        assert notices.claim(tx, desk.ledger.now()) is None
    finish(desk.ledger)
    with desk.ledger.begin() as tx:
        assert not notices.send(tx, "j1", "it is still at work", [])
    assert [each.id for each in rows(desk.ledger, schema.job)] == ["j1"]


def test_one_of_two_workers_sends_it(ledger: Ledger) -> None:
    make_job(ledger, "j1")
    with ledger.begin() as tx:
        notices.expect(tx, "j1", 5.0)
        notices.expect(tx, "j1", 9.0)
        assert notices.any_new(tx)
        notices.start(tx, 100.0)
        assert notices.claim(tx, 104.0) is None
        assert notices.claim(tx, 105.0) is not None
        assert notices.claim(tx, 105.0) is None
        assert notices.claim(tx, 116.0) is not None
        assert [notices.send(tx, "j1", "it failed", [result(7)]) for _ in range(2)] == [True, False]
    assert [(each.job_id, each.state) for each in rows(ledger, schema.delivery)] == [(notice_id("j1"), "waiting")]


def test_a_worker_that_dies_at_it_leaves_it_to_another_which_sends_the_same_page(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(notices, "send", die)
        drain(desk)
    (made,) = desk.settings.spool.glob("results/*/*.dcm")
    before = made.read_bytes()
    with desk.ledger.begin() as tx:
        assert notices.runnable(tx, desk.ledger.now()) == 0
        assert notices.runnable(tx, desk.ledger.now() + 11) == 1
        tx.execute(schema.notice.update().values(until=0.0))
    drain(desk)
    assert [each.path for each in rows(desk.ledger, schema.result)] == [str(made.relative_to(desk.settings.spool))]
    assert made.read_bytes() == before


def test_a_restart_of_the_host_lets_it_wait_its_time_again_and_no_longer(desk: Desk) -> None:
    with desk.ledger.begin() as tx:
        tx.execute(schema.notice.update().values(until=1e9, seconds=600.0))
        notices.after_restart(tx, 5.0)
    assert rows(desk.ledger, schema.notice)[0].until == 605.0
