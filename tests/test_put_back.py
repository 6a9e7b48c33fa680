"""Jobs that a ledger lost are put back from what lies beside their results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update

from radnode.dicom.rejection import KEY_OBJECT_SELECTION
from radnode.run import published
from radnode.run.published import ORIGIN, describe
from radnode.state import jobs, origins, schema
from radnode.state.origins import Ended, origin_of
from radnode.state.spool import Spool
from tests.databases import rows
from tests.desk import TEST_APP, Desk
from tests.road import small_ct

TIMES = {"first_received_at": 1.0, "last_received_at": 1.0}
OTHER = "{name: other, app: test, send_to: [b]}"


def ended(desk: Desk, job_id: str) -> Ended:
    """The job as it lies in the spool: what JSON keeps of it."""
    with desk.ledger.read() as tx:
        made = [jobs.ResultRow(**{name: getattr(each, name) for name in jobs.ResultRow.__dataclass_fields__})
                for each in jobs.results(tx, job_id)]  # fmt: skip
        return Ended(json.loads(json.dumps(origin_of(tx, job_id))), "done", "", made)


def forget_jobs(desk: Desk) -> None:
    """The ledger is a copy from before there were any."""
    with desk.ledger.begin() as tx:
        for table in (schema.sent, schema.delivery, schema.result, schema.asked, schema.job_input, schema.job):
            tx.execute(delete(table))


def put_back(desk: Desk, *some: Ended) -> int:
    with desk.ledger.begin() as tx:
        return origins.put_back(tx, some[0].origin["StudyInstanceUID"], some, KEY_OBJECT_SELECTION)


def told(desk: Desk) -> list[Any]:
    """All that matters of the jobs, who asked for them, and where to they go."""
    what = [
        [(each.id, each.state, each.rule, each.work, each.superseded_by, each.predecessor) for each in desk.jobs()],
        [(each.job_id, each.rule, each.series_id, each.send_to) for each in rows(desk.ledger, schema.asked)],
        [(each.job_id, each.sop_instance_uid, each.path) for each in rows(desk.ledger, schema.result)],
        [desk.inputs(each) for each in desk.jobs()],
    ]
    return [sorted(each) for each in what]


def test_a_job_is_put_back_as_it_was_for_all_who_asked_and_its_results_are_sent(desk: Desk, tmp_path: Path) -> None:
    desk.route(TEST_APP, OTHER)
    desk.push(small_ct(tmp_path / "study", 1))
    job = desk.run()
    before, kept, sent = told(desk), ended(desk, job.id), desk.sent()
    forget_jobs(desk)
    assert put_back(desk, kept) == 1
    assert (told(desk), sorted(desk.sent())) == (before, sorted(sent))
    assert put_back(desk, kept) == 0
    desk.push(small_ct(tmp_path / "again", 1))
    assert told(desk) == before


def test_what_took_another_jobs_place_does_so_again_and_only_what_stands_is_sent(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files[:-1])
    first = desk.run()
    desk.deliver()
    desk.push(files[-1:])
    second = desk.run()
    before, kept = told(desk), [ended(desk, each.id) for each in (first, second)]
    forget_jobs(desk)
    assert put_back(desk, *kept) == 2
    assert [each[1] for each in told(desk)[0]] == ["done", "done"]
    assert told(desk)[0] == before[0]
    assert desk.sent() == [("a", "waiting")]


def test_nothing_of_a_held_study_is_sent_until_it_is_released(desk: Desk, tmp_path: Path) -> None:
    desk.push(small_ct(tmp_path / "study", 1))
    kept = ended(desk, desk.run().id)
    forget_jobs(desk)
    with desk.ledger.begin() as tx:
        tx.execute(update(schema.study).values(held="the ledger was lost"))
    assert put_back(desk, kept) == 1
    assert desk.sent() == []


def test_results_that_had_come_back_are_no_images_of_others(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.push(files)
    kept = ended(desk, desk.run().id)
    with desk.ledger.begin() as tx:  # as if this image were what the job has made
        image = tx.execute(select(schema.instance.c.sop_instance_uid)).scalars().first()
        jobs.recognize(tx, [str(image)])
    assert [each.sop_instance_uid for each in rows(desk.ledger, schema.instance) if each.own] == [image]
    forget_jobs(desk)
    assert put_back(desk, kept) == 1
    with desk.ledger.read() as tx:
        assert jobs.made_here(tx, [kept.results[0].sop_instance_uid, "1.2.3"]) == {kept.results[0].sop_instance_uid}


def test_where_a_key_object_may_have_taken_the_images_back_a_person_decides(desk: Desk, tmp_path: Path) -> None:
    desk.push(small_ct(tmp_path / "study", 1))
    kept = ended(desk, desk.run().id)
    forget_jobs(desk)
    with desk.ledger.begin() as tx:  # as if one of the images were a key object that no core has looked at
        one = select(func.min(schema.instance.c.id)).scalar_subquery()
        new = {"sop_class_uid": KEY_OBJECT_SELECTION, "generation": 0}
        tx.execute(update(schema.instance).where(schema.instance.c.id == one).values(new))
    assert put_back(desk, kept) == 1
    assert desk.sent() == [("a", "held")]
    assert [each["state"] for each in desk.study()["deliveries"]] == ["held"]


def test_results_with_a_broken_origin_stop_nobody_and_a_sound_one_beside_them_is_put_back(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.push(small_ct(tmp_path / "study", 1))
    kept = ended(desk, desk.run().id)
    forget_jobs(desk)
    spool = Spool(desk.settings.spool)
    manifest = json.dumps({"state": "done", "reason": "", "objects": [], "files": []})
    good, bad = dict(kept.origin), {**kept.origin, "StudyInstanceUID": "1.2.3", "inputs": 7, "id": "j" * 32}
    with desk.ledger.begin() as tx:
        tx.execute(insert(schema.study).values(study_instance_uid="1.2.3", state="complete", seen=0.0, **TIMES))
    texts = {each["id"]: json.dumps(each) for each in (good, bad)} | {"a": "[]", "b": "{}", "c": "{"}
    for name, text in texts.items():
        (spool.results / name).mkdir()
        (spool.results / name / ORIGIN).write_text(text)
        (spool.results / name / "manifest.json").write_text(manifest)
    (spool.results / "d").mkdir()
    assert published.put_back(desk.ledger, spool) == 1
    assert [each.id for each in desk.jobs()] == [good["id"]]
    said = capsys.readouterr()
    assert "results cannot be put back" in said.out + said.err
    assert "say nothing of their job" in said.out + said.err


def test_a_job_whose_study_is_gone_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    desk.push(small_ct(tmp_path / "study", 1))
    kept = ended(desk, desk.run().id)
    forget_jobs(desk)
    with desk.ledger.begin() as tx:
        assert origins.put_back(tx, "1.2.3", [kept], KEY_OBJECT_SELECTION) == 0
    lost_images = Ended({**kept.origin, "inputs": {"1": ["instances/gone.dcm"]}}, "done", "", kept.results)
    assert put_back(desk, lost_images) == 0
    assert desk.jobs() == []


def test_what_an_app_left_in_the_place_of_the_origin_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for number, leave in enumerate((Path.mkdir, lambda path: path.symlink_to(precious), Path.touch)):
        out = tmp_path / str(number)
        out.mkdir()
        leave(out / ORIGIN)
        describe(out, {"id": "j"})
        assert json.loads((out / ORIGIN).read_text()) == {"id": "j"}
        assert not (out / ORIGIN).is_symlink()
    assert precious.read_text() == "mine"
