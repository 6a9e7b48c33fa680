"""What leads to the crash labels on a study's road through a node, each with what has to be true afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from radnode.state import schema
from radnode.state.ledger import Ledger
from tests.crash_stage import Stage
from tests.peers import until
from tests.receiving import Peer
from tests.road import delivery_in, job_in, settled, study, study_uid
from tests.test_life import assert_once, kill, pids_of


def whole(stage: Stage, label: str) -> None:
    """A study on its road from the modality to the sink."""
    arrived = len(stage.sink.received)
    stage.assert_as_if_nothing_had_happened(stage.push(), arrived)


def twice(stage: Stage, label: str) -> None:
    """The same study over two associations."""
    arrived = len(stage.sink.received)
    files = stage.push()
    stage.assert_as_if_nothing_had_happened(stage.push(files=files), arrived)


def ending(stage: Stage, label: str, *, calling_aet: str, state: str) -> None:
    """A job that ends otherwise than done."""
    arrived = len(stage.sink.received)
    files = stage.push(calling_aet)
    stage.hit(label)
    job_in(stage.node, study_uid(files), state)
    assert stage.sink.received[arrived:] == []
    stage.assert_tidy()


def late(stage: Stage, label: str) -> None:
    files = stage.push("LATE")
    delivery_in(stage.node, study_uid(files), "expired")


def partly(stage: Stage, label: str) -> None:
    """A destination wants some kinds of results only."""
    files = stage.push("PARTLY")
    delivery_in(stage.node, study_uid(files), "delivered", "reports")


def other_form(stage: Stage, label: str) -> None:
    """A destination that takes no reports gets them as pages, each once."""
    arrived = len(stage.sink.received)
    files = stage.push("PAGES")
    delivery_in(stage.node, study_uid(files), "delivered", "pages")
    assert_once(stage.sink, arrived, 2, again=True)
    stage.assert_tidy()


def noticed(stage: Stage, label: str) -> None:
    """No result comes in time, and a page says so."""
    arrived = len(stage.sink.received)
    stage.push("NOTICED")
    stage.sink.wait_for(arrived + 1, timeout=60)
    stage.hit(label)
    stage.assert_tidy()
    assert_once(stage.sink, arrived, 1, again=True)


def interrupted(stage: Stage, label: str) -> None:
    """The worker that delivers is told to stop in the middle of it."""
    arrived = len(stage.sink.received)
    stage.sink.pause()
    files = stage.push()
    until(lambda: "sending" in _states(stage, files), "it is being sent")
    for pid in pids_of(stage.node, "deliverer"):
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)  # it has heard of it when the sink goes on
    stage.sink.resume()
    stage.assert_as_if_nothing_had_happened(files, arrived)


def waited(stage: Stage, label: str) -> None:
    """A rule has waited long enough for an input that never came, and runs without."""
    files = stage.push("WAITS")
    stage.hit(label)
    job_in(stage.node, study_uid(files), "done")
    stage.assert_tidy()


def postponed(stage: Stage, label: str) -> None:
    """The sink is away for a while."""
    arrived = len(stage.sink.received)
    stage.sink.stop()
    files = stage.push()
    stage.hit(label)
    stage.sink.start()
    stage.assert_as_if_nothing_had_happened(files, arrived)


def parked(stage: Stage, label: str) -> None:
    """The sink refuses everything for good, until a person has spoken with it."""
    arrived = len(stage.sink.received)
    stage.sink.refuse = lambda uid: 0xA900
    files = stage.push()
    stage.hit(label)
    until(lambda: _states(stage, files) == ["parked", "parked"], "both deliveries are parked")
    stage.sink.refuse = lambda uid: None
    mine = [each["id"] for each in study(stage.node, study_uid(files))["jobs"]]
    stage.node.cli("retry", *mine, "--destination", "a")
    stage.assert_as_if_nothing_had_happened(files, arrived)


def _states(stage: Stage, files: list[Path]) -> list[str]:
    return [each["state"] for each in study(stage.node, study_uid(files))["deliveries"]]


def killed(stage: Stage, label: str, *, part: str) -> None:
    """A part is killed from outside; what it does as it is started anew leads to the label."""
    kill(stage.node, part)
    whole(stage, label)
    stage.hit(label)
    until(stage.node.ready, "every part is up")


def sealed(stage: Stage, label: str) -> None:
    """Nothing has changed in the spool for long when core starts anew."""
    whole(stage, label)
    then = time.time() - 3600
    for bucket in (stage.node.home / "spool" / "instances").glob("*/*"):
        os.utime(bucket, (then, then))
    kill(stage.node, "core")
    stage.hit(label)
    until(stage.node.ready, "every part is up")


def adopted(stage: Stage, label: str, *, dies_at: str) -> None:
    """A receiver dies with an instance that the ledger does not know, and core is killed as it adopts it."""
    stage.arm(dies_at)
    whole(stage, label)


def set_aside(stage: Stage, label: str) -> None:
    """The receiver dies as it sets aside what it refuses; that is no reason to refuse anything else."""
    with Peer(stage.node.port) as peer, pytest.raises(EOFError):
        peer.accepted().store("1.2.3", b"no data set")
    stage.hit(label)
    whole(stage, label)


def worker_stopped(stage: Stage, label: str) -> None:
    """A worker is told to stop while a job is at work, and is killed before it has given it back."""
    uid = study_uid(stage.push("SLOW"))
    job = job_in(stage.node, uid, "running")
    for pid in pids_of(stage.node, "worker"):
        os.kill(pid, signal.SIGTERM)
    until(lambda: study(stage.node, uid)["jobs"][0]["attempt"] > job["attempt"], "the job runs again")
    stage.node.cli("cancel", job["id"])
    stage.assert_tidy()


def lost(stage: Stage, label: str, *, part: str) -> None:
    """What has a job in hand is killed."""
    uid = study_uid(stage.push("SLOW"))
    job = job_in(stage.node, uid, "running")
    kill(stage.node, part)
    stage.hit(label)
    until(lambda: study(stage.node, uid)["jobs"][0]["attempt"] > job["attempt"], "the job runs again")
    stage.node.cli("cancel", job["id"])
    stage.assert_tidy()


def forgotten(stage: Stage, label: str) -> None:
    """A claim that no thread of its worker knows of, as a fault around a commit leaves it."""
    stage.node.cli("pause", "a")
    arrived = len(stage.sink.received)
    files = stage.push()
    uid = study_uid(files)
    until(lambda: _states(stage, files) == ["waiting", "waiting"], "both deliveries wait")
    owner = next(path.stem for path in (stage.node.home / "run").glob("worker-*.lock"))
    (series_job,) = [each["id"] for each in study(stage.node, uid)["jobs"] if each["rule"] == "results"]
    mine = schema.delivery.c.job_id == series_job
    _write(stage, update(schema.delivery).where(mine).values(state="sending", owner=owner, attempt=9))
    stage.hit(label)
    stage.node.cli("resume", "a")
    stage.assert_as_if_nothing_had_happened(files, arrived)


def empty(stage: Stage, label: str) -> None:
    """A series of which nothing sound is left."""
    uid = study_uid(stage.push("NOBODY"))
    settled(stage.node, uid)
    of_study = select(schema.study.c.id).where(schema.study.c.study_instance_uid == uid).scalar_subquery()
    times = {"first_received_at": time.time(), "last_received_at": time.time(), "seen": 0.0}
    row = {"study_id": of_study, "series_instance_uid": "1.2.3", "state": "receiving", **times}
    _write(stage, insert(schema.series).values(**row))
    _write(stage, update(schema.study).where(schema.study.c.id == of_study).values(state="receiving"))
    settled(stage.node, uid)


def _write(stage: Stage, statement: Any) -> None:
    ledger = Ledger(stage.node.home)
    with ledger.begin() as tx:
        tx.execute(statement)
    ledger.close()


def talker(stage: Stage, label: str) -> None:
    """The worker dies as it notes what an app says of its progress."""
    arrived = len(stage.sink.received)
    files = stage.push("TALKER")
    job = job_in(stage.node, study_uid(files), "done")
    stage.hit(label)
    assert job["attempt"] > 1
    delivery_in(stage.node, study_uid(files), "delivered")
    assert_once(stage.sink, arrived, 1)
    stage.assert_tidy()


def put_back(stage: Stage, label: str) -> None:
    """The ledger turns out to be older than the results in the spool."""
    arrived = len(stage.sink.received)
    files = stage.push()
    stage.assert_as_if_nothing_had_happened(files, arrived)
    (job,) = (each["id"] for each in study(stage.node, study_uid(files))["jobs"] if each["app"])
    kill(stage.node, "core")
    ledger = Ledger(stage.node.home)
    with ledger.begin() as tx:
        mine = select(schema.delivery.c.id).where(schema.delivery.c.job_id == job)
        tx.execute(delete(schema.sent).where(schema.sent.c.delivery_id.in_(mine)))
        for table in (schema.delivery, schema.result, schema.asked, schema.job_input):
            tx.execute(delete(table).where(table.c.job_id == job))
        tx.execute(delete(schema.job).where(schema.job.c.id == job))
    ledger.close()
    stage.hit(label)
    until(lambda: len(stage.sink.received) >= arrived + len(files) + 4, "its two results are sent again")
    stage.assert_as_if_nothing_had_happened(files, arrived)


ON_ROAD: dict[str, Callable[[Stage, str], None]] = {
    **dict.fromkeys(("keep", "arrival", "record arrivals"), whole),
    **dict.fromkeys(("complete series", "complete study"), whole),
    **dict.fromkeys(("claim job", "child ended", "publish", "finish job"), whole),
    **dict.fromkeys(("claim delivery", "sent one", "record sent", "delivered"), whole),
    "file copies": twice,
    "decline job": partial(ending, calling_aet="DECLINED", state="declined"),
    "fail job": partial(ending, calling_aet="FAILED", state="failed"),
    "job crashed": partial(ending, calling_aet="CRASHED", state="failed"),
    "expire delivery": late,
    "leave out": partly,
    "substitute": other_form,
    **dict.fromkeys(("start notices", "send notice"), noticed),
    "interrupt delivery": interrupted,
    "end wait": waited,
    "postpone delivery": postponed,
    "park delivery": parked,
    **dict.fromkeys(("recover", "loss", "heard again"), partial(killed, part="core")),
    "seal": sealed,
    "put back": put_back,
    "bury receiver": partial(killed, part="receivers"),
    "site uid": partial(killed, part="worker"),
    "adopt": partial(adopted, dies_at="record arrivals.before"),
    "adopt part": partial(adopted, dies_at="keep.synced"),
    "set aside": set_aside,
    "interrupt jobs": worker_stopped,
    "release lost": partial(lost, part="worker"),
    "lose job": partial(lost, part="nursery"),
    "give back": forgotten,
    "complete empty series": empty,
    "job progress": talker,
}
