"""What is finished goes by age and free space; what is not stays; and what comes again of it is known again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, update

from radnode.dicom.headers import summarize
from radnode.domain.errors import RadnodeError, SettingsError
from radnode.domain.notice import notice_id
from radnode.run import act, retention
from radnode.run.replay import run_again
from radnode.run.retention import Retention
from radnode.settings import load
from radnode.state import commitments, deliveries, generations, jobs, schema, substitutes
from radnode.state.scan import scan
from radnode.state.spool import Spool
from tests.databases import result, rows
from tests.desk import TEST_APP, Desk
from tests.road import small_ct, two_series
from tests.test_generations import edited

FORWARD = "{name: copies, send_to: [a]}"
BOTH = "{name: wiring, app: test, send_to: [a, b]}"
ALL = 4 + 3  # images; the result, what went instead, and by mail
OTHER = "{name: other, app: test, send_to: [a], when: {Modality: MR}}"


def files_of(desk: Desk) -> list[Path]:
    return sorted(each for each in desk.settings.spool.rglob("*") if each.is_file())


def finished(desk: Desk, files: list[Path]) -> None:
    """The study is received, its job is done, its result lies in the spool and is delivered."""
    desk.push(files)
    for job in [each for each in desk.jobs() if each.state == "waiting"]:
        desk.run()
        place = desk.settings.spool / "results" / job.id
        instead = place.with_name(f"{job.id}.substitute")
        for each in (place, instead, place.with_name(f"{job.id}.mail")):
            each.mkdir(parents=True)
            (each / "manifest.json").write_text("{}")
        log = desk.settings.home / "log" / "jobs" / f"{job.id}.1.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("done")
    while "waiting" in [state for _, state in desk.sent()]:
        _instead(desk, desk.deliver())


def _instead(desk: Desk, delivery: Row[Any]) -> None:
    """The delivery has sent another object than the job's, and that lies in the spool too."""
    path = f"results/{delivery.job_id}.substitute/manifest.json"
    if (desk.settings.spool / path).exists():
        with desk.ledger.begin() as tx:
            (made,) = tx.execute(substitutes.shipped(delivery)).all()
            substitutes.record(tx, delivery, [(made, replace(result(), path=path))])


def purge(desk: Desk, *named: str, older_than: str = "1s", **options: Any) -> retention.Report:
    """As a month later."""
    with desk.ledger.begin() as tx:
        for table in (schema.job, schema.delivery):
            tx.execute(update(table).where(table.c.finished_at.is_not(None)).values(finished_at=2.0))
    return retention.purge(desk.settings, named, "" if named else older_than, **options)


# ---- what goes -------------------------------------------------------------------------------------------------------


def test_files_of_a_finished_study_go_and_the_ledger_still_tells_what_became_of_it(desk: Desk, tmp_path: Path) -> None:
    finished(desk, small_ct(tmp_path / "study", 1))
    said = purge(desk, dry_run=True)
    assert len(files_of(desk)) == ALL
    assert desk.study()["purged"] is None
    done = purge(desk)
    assert done.to_json()["purged"] == said.to_json()["purged"] == [
        {
            "StudyInstanceUID": desk.study()["StudyInstanceUID"], "AccessionNumber": desk.study()["AccessionNumber"],
            "last_received": done.purged[0].last_received, "instances": 4, "bytes": done.purged[0].bytes,
            "why": "age", "kept": "",
        }
    ]  # fmt: skip
    assert files_of(desk) == []
    assert list((desk.settings.spool / "instances").iterdir()) == []  # nor the folders of the hour
    assert list((desk.settings.home / "log" / "jobs").iterdir()) == []
    study = desk.study()
    assert study["purged"]
    assert (study["state"], len(study["jobs"]), study["series"][0]["instances"]) == ("done", 1, 4)
    assert desk.sent() == [("a", "delivered")]
    (event,) = desk.events("purged")
    assert (event["instances"], event["bytes"], event["why"]) == (4, done.purged[0].bytes, "age")
    assert purge(desk).purged == ()


def test_what_was_made_to_be_sent_goes_also_where_something_else_was_sent_in_its_place(
    desk: Desk, tmp_path: Path
) -> None:
    finished(desk, small_ct(tmp_path / "study", 1))
    (job,) = desk.jobs()
    notice = notice_id(job.id)  # drawn, and then the result came
    for name in (f"{job.id}.0123456789ab", notice, "somebody", f"{'0' * 32}.substitute"):
        place = desk.settings.spool / "results" / name
        place.mkdir()
        (place / "manifest.json").write_text("{}")
    (delivery,) = rows(desk.ledger, schema.delivery)
    with desk.ledger.begin() as tx:
        (sent,) = tx.execute(substitutes.shipped(delivery)).all()
        again = replace(result(), path=f"results/{job.id}.0123456789ab/manifest.json")
        substitutes.record(tx, delivery, [(sent, again)])
    purge(desk)
    assert [each.parent.name for each in files_of(desk)] == ["0" * 32 + ".substitute", "somebody"]


def test_what_matched_nothing_goes_too(desk: Desk, tmp_path: Path) -> None:
    desk.route(OTHER)
    desk.push(small_ct(tmp_path / "study", 1))
    assert [each.instances for each in purge(desk).purged] == [4]


@pytest.mark.parametrize(
    "state", ["receiving", "waiting", "running", "failed", "held study", "unsent", "parked", "expired", "incomplete"]
)
def test_what_is_not_finished_is_kept_and_the_report_says_why(desk: Desk, tmp_path: Path, state: str) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.receive(files) if state == "receiving" else desk.push(files)
    _bring(desk, state)
    said = purge(desk)
    assert said.purged == ()
    (kept,) = said.kept
    words = {"held study": "it is held", "unsent": "delivery to a is waiting", "incomplete": "3 of its images"}
    assert words.get(state, state) in kept.kept
    assert len(files_of(desk)) == 4


def _bring(desk: Desk, state: str) -> None:
    """The study's only job, or its delivery, into a state."""
    if state in ("running", "failed"):
        desk.start()
    elif state not in ("receiving", "waiting"):
        desk.run()
        if state != "unsent":
            desk.deliver()
    with desk.ledger.begin() as tx:
        if state == "failed":
            tx.execute(update(schema.job).values(state="failed"))
        elif state in ("parked", "expired"):
            tx.execute(update(schema.delivery).values(state=state))
        elif state == "held study":
            tx.execute(update(schema.study).values(held="the ledger was lost"))
        elif state == "incomplete":
            tx.execute(update(schema.series).values(missing=3))


def test_a_person_who_names_a_study_decides_of_what_waits_for_one_and_of_nothing_else(
    desk: Desk, tmp_path: Path
) -> None:
    desk.push(small_ct(tmp_path / "study", 1))
    uid = desk.study()["StudyInstanceUID"]
    assert "is waiting" in purge(desk, uid).kept[0].kept
    _bring(desk, "failed")
    assert desk.study()["state"] == "attention"
    assert [each.why for each in purge(desk, uid).purged] == ["named"]
    assert (files_of(desk), desk.states(), desk.study()["state"]) == ([], ["cancelled"], "done")
    assert desk.events("purged")[0]["who"]
    with pytest.raises(RadnodeError, match="were they purged"):
        purge(desk, uid)


def test_what_is_young_or_was_worked_on_lately_is_kept(desk: Desk, tmp_path: Path) -> None:
    finished(desk, small_ct(tmp_path / "study", 1))
    said = retention.purge(desk.settings, (), "30d")
    assert [each.kept for each in said.kept] == ["it was worked on since"]
    desk.retire()
    assert retention.purge(desk.settings, (), "30d").purged == ()
    with desk.ledger.begin() as tx:
        tx.execute(update(schema.study).values(last_received_at=4e9))
    assert (purge(desk).kept, purge(desk).younger) == ((), 1)


def test_when_the_disk_gets_full_the_oldest_go_until_there_is_room(desk: Desk, tmp_path: Path) -> None:
    for seed in (1, 2):
        finished(desk, small_ct(tmp_path / str(seed), seed))
    with desk.ledger.begin() as tx:
        tx.execute(update(schema.study).where(schema.study.c.id == 2).values(last_received_at=1.0))
        tx.execute(update(schema.job).values(finished_at=2.0))
        tx.execute(update(schema.delivery).values(finished_at=2.0))
    spool = Spool(desk.settings.spool)
    free = (spool.free_bytes() >> 30) + 1
    of_age = Retention(replace(desk.settings, keep_free=1), desk.ledger, spool)
    assert list(of_age.plan(0.0)) == []
    lacking = Retention(replace(desk.settings, keep_free=free), desk.ledger, spool)
    assert [study.id for study, _, _ in lacking.plan(0.0)] == [2, 1]
    spool.free_bytes = lambda: (free << 30) - 1  # type: ignore[method-assign]
    assert [(study.id, choice.why) for study, _, choice in lacking.plan(0.0)] == [(2, "free space")]
    lacking.round()
    assert [each.purge for each in rows(desk.ledger, schema.study)] == ["", "gone"]


def test_nothing_goes_unless_somebody_has_said_so(desk: Desk, tmp_path: Path) -> None:
    finished(desk, small_ct(tmp_path / "study", 1))
    desk.retire()
    with pytest.raises(RadnodeError, match="nothing chosen"):
        retention.purge(desk.settings)
    Retention(desk.settings, desk.ledger, Spool(desk.settings.spool)).round()
    assert len(files_of(desk)) == ALL


def test_a_study_that_stirs_while_it_is_chosen_is_not_purged(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    finished(desk, files[:3])
    purge(desk, dry_run=True)
    spool = Spool(desk.settings.spool)
    keeper = Retention(desk.settings, desk.ledger, spool)
    ((study, rested, choice),) = keeper.plan(1.0)
    assert not choice.kept
    desk.receive(files[3:])
    assert not keeper.purge(study, rested, "age")
    assert len(files_of(desk)) == ALL


# ---- a crash ---------------------------------------------------------------------------------------------------------


def test_what_a_crash_left_half_done_is_finished_and_never_adopted(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(desk, small_ct(tmp_path / "study", 1))
    with monkeypatch.context() as crash, pytest.raises(KeyboardInterrupt):
        crash.setattr(Spool, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        purge(desk)
    assert len(files_of(desk)) == ALL
    assert _adopted(desk) == []
    assert desk.study()["purged"]
    Retention(desk.settings, desk.ledger, Spool(desk.settings.spool)).finish()
    assert files_of(desk) == []
    assert [each.purge for each in rows(desk.ledger, schema.study)] == ["gone"]


def _adopted(desk: Desk) -> list[str]:
    def known(bucket: str) -> set[str]:
        return {each.path for each in rows(desk.ledger, schema.instance)}

    return [each.path for each in scan(Spool(desk.settings.spool), known, lambda _: False, summarize)]


def test_what_comes_while_a_study_is_being_purged_is_judged_when_that_is_done(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    finished(desk, files)
    purge(desk)
    with desk.ledger.begin() as tx:
        tx.execute(update(schema.study).values(purge="going"))
    desk.receive(files)
    desk.judge()
    assert desk.study()["state"] == "receiving"
    Retention(desk.settings, desk.ledger, Spool(desk.settings.spool)).finish()
    desk.judge()
    assert desk.study()["state"] == "done"
    assert (desk.study()["purged"], len(files_of(desk))) == (None, 4)


def test_a_bucket_that_was_removed_under_a_receiver_is_made_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.open(b"").discard()
    (bucket,) = spool.buckets()
    spool.remove_empty_buckets()
    assert spool.buckets() == [bucket]  # it is this hour's
    (spool.instances / bucket).rmdir()
    spool.open(b"").discard()
    old = spool.instances / "20200101" / "10"
    old.mkdir(parents=True)
    spool.remove_empty_buckets()
    assert spool.buckets() == [bucket]
    assert not old.parent.exists()


# ---- what comes again ------------------------------------------------------------------------------------------------


@pytest.fixture
def gone(desk: Desk, tmp_path: Path) -> list[Path]:
    """A study that was finished and purged; what it was made of."""
    files = small_ct(tmp_path / "study", 1)
    finished(desk, files)
    assert purge(desk).purged
    return files


def test_the_same_study_again_is_received_and_neither_computed_nor_sent_again(desk: Desk, gone: list[Path]) -> None:
    desk.push(gone)
    assert (desk.states(), desk.sent(), len(files_of(desk))) == (["done"], [("a", "delivered")], 4)
    assert (desk.study()["state"], desk.study()["purged"]) == ("done", None)
    assert len(rows(desk.ledger, schema.instance)) == 4
    desk.push(gone)  # and once more
    assert (desk.states(), len(files_of(desk))) == (["done"], 4)
    assert purge(desk).purged[0].instances == 4
    assert files_of(desk) == []


def test_a_destination_that_has_had_nothing_of_it_gets_the_same_results_made_again(
    desk: Desk, gone: list[Path]
) -> None:
    desk.route(BOTH)
    desk.push(gone)
    (job,) = desk.jobs()
    assert (job.state, job.purged, desk.sent()) == ("waiting", False, [("a", "delivered")])
    assert len(desk.inputs(job)) == 4
    assert all((desk.settings.spool / each).exists() for each in desk.inputs(job))
    desk.run()
    assert desk.sent() == [("a", "delivered"), ("b", "waiting")]


def test_late_images_of_a_purged_study_make_nothing_of_a_part_of_it(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    finished(desk, files[:3])
    purge(desk)
    desk.push(files[3:])
    assert (desk.states(), desk.study()["state"]) == (["done"], "incomplete")
    (said,) = desk.events("images were purged")
    assert (said["missing"], said["remedy"]) == (3, "push the whole study again")
    assert "3 of its images are missing" in purge(desk).kept[0].kept
    desk.push(files[:3])
    assert desk.states() == ["done", "waiting"]
    assert desk.study()["series"][0]["state"] == "complete"
    assert len(desk.inputs(desk.jobs()[1])) == 4


def test_corrected_pixels_of_a_purged_study_are_computed_again(desk: Desk, gone: list[Path], tmp_path: Path) -> None:
    desk.push(edited(gone, tmp_path / "edited", RescaleIntercept=-1000))
    first, second = desk.jobs()
    assert (second.state, second.supersedes, first.superseded_by) == ("waiting", first.id, second.id)
    assert len(desk.inputs(second)) == 4


def test_a_series_of_a_purged_study_alone_makes_nothing_for_a_study_rule(desk: Desk, tmp_path: Path) -> None:
    axial, localizer = two_series(tmp_path / "study", 1)
    desk.route("{name: wiring, app: test, level: study, send_to: [a]}")
    finished(desk, axial + localizer)
    purge(desk)
    desk.push(axial)
    assert desk.states() == ["done"]
    assert desk.study()["state"] == "incomplete"
    desk.push(localizer)
    assert desk.states() == ["done"]
    assert desk.study()["state"] == "done"


def test_a_forwarding_rule_sends_only_what_its_destination_has_not_had(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route(FORWARD)
    finished(desk, files)
    purge(desk)
    desk.push(files)
    assert desk.sent() == [("a", "delivered")]
    desk.route("{name: copies, send_to: [a, b]}")
    desk.push(files)
    assert desk.sent() == [("a", "delivered"), ("b", "waiting")]
    with desk.ledger.begin() as tx:
        delivery = deliveries.claim(tx, "worker-2", desk.ledger.now())
        assert delivery is not None
        pending = deliveries.pending(tx, delivery)
    assert len(pending) == 4
    assert all((desk.settings.spool / each.path).exists() for each in pending)


def test_commands_say_that_its_images_are_gone(desk: Desk, gone: list[Path]) -> None:
    (job,) = desk.jobs()
    named = act.Filter((job.id[:12],))
    for command in (act.rerun, act.resend, act.retry):
        with pytest.raises(RadnodeError, match=r"were purged \(RADNODE_KEEP\)\n  -> push the study again"):
            command(desk.settings, named)
        assert command(desk.settings, act.Filter(app="test")) == []
    with pytest.raises(RadnodeError, match="4 of 4 originals are no longer in the spool"):
        run_again(desk.settings, job.id)
    with desk.ledger.read() as tx:
        assert commitments.copies(tx, [each.sop_instance_uid for each in rows(desk.ledger, schema.instance)]) == {}
        assert jobs.kept_results(tx, job.id) == []
    desk.push(gone)
    assert act.rerun(desk.settings, named) == [f"job {job.id}"]


def test_shadow_results_go_like_others_and_cannot_be_promoted_then(desk: Desk, tmp_path: Path) -> None:
    files = small_ct(tmp_path / "study", 1)
    desk.route("{name: wiring, app: test, send_to: [a], mode: shadow}")
    finished(desk, files)
    purge(desk)
    assert act.promote(desk.settings, "wiring") == []
    desk.route(TEST_APP)
    desk.push(files)
    assert desk.states() == ["waiting"]  # promoted by its rule: made again, to be sent
    desk.run()
    assert desk.sent() == [("a", "waiting")]


def test_own_results_that_come_back_after_a_purge_are_known_still(desk: Desk, gone: list[Path]) -> None:
    with desk.ledger.begin() as tx:
        (made,) = jobs.results(tx, desk.jobs()[0].id)
    assert made.kind != "original"
    with desk.ledger.read() as tx:
        assert generations.seen(tx, desk.jobs()[0]) == desk.jobs()[0].id


# ---- the settings ----------------------------------------------------------------------------------------------------


def test_durations_of_the_settings_need_a_unit(tmp_path: Path) -> None:
    assert load({"RADNODE_KEEP": "8w"}, tmp_path / "no.env").keep == 8 * 7 * 86400
    for wrong in ("30", "a month", "-1d"):
        with pytest.raises(SettingsError, match="RADNODE_KEEP"):
            load({"RADNODE_KEEP": wrong}, tmp_path / "no.env")
