"""The spool: what is kept is there whatever happens, and what is found at the next start is put right."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radnode.dicom.headers import FileMeta, summarize
from radnode.domain.errors import SpoolError
from radnode.run.receiver import receiver_alive
from radnode.state import spool as spools
from radnode.state.arrivals import Arrival
from radnode.state.presence import Presence
from radnode.state.scan import scan
from radnode.state.spool import Incoming, Spool, Watermark
from tests.receiving import CT, EXPLICIT, data_set


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def write(spool: Spool, uid: str, cut: int = 0, **changes: object) -> Incoming:
    """An instance written in pieces, not yet kept."""
    incoming = spool.open(FileMeta(CT, EXPLICIT, "PACS", "RADNODE").encode(uid))
    data = memoryview(data_set(uid, **changes))
    data = data[: len(data) - cut]
    for at in range(0, len(data), 10_000):
        incoming.write(data[at : at + 10_000])
    return incoming


def adopted(
    spool: Spool, known: Collection[str] = (), alive: bool = False, sealed: dict[str, int] | None = None
) -> list[Arrival]:
    return list(scan(spool, lambda _: set(known), lambda _: alive, summarize, sealed=sealed))


def aged(spool: Spool, seconds: float = 3600.0) -> None:
    """Nothing has changed in the buckets for a while."""
    for bucket in spool.buckets():
        then = time.time() - seconds
        os.utime(spool.instances / bucket, (then, then))


def files(spool: Spool) -> list[str]:
    return sorted(path.name for path in spool.root.rglob("*") if path.is_file())


def test_a_kept_instance_is_a_part_10_file_under_a_name_of_ours(spool: Spool) -> None:
    path = spool.root / write(spool, "1.2.3").keep()
    assert path.suffix == ".dcm"
    assert path.name.startswith(spool.incarnation)
    assert path.relative_to(spool.instances).parts[:2] == tuple(spool.buckets()[0].split("/"))
    assert pydicom.dcmread(path).SOPInstanceUID == "1.2.3"


def test_an_instance_is_synced_before_it_gets_its_name(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    rename = os.rename
    monkeypatch.setattr(spools, "_sync_data", lambda fd: order.append("sync"))
    monkeypatch.setattr(os, "rename", lambda a, b: (order.append("rename"), rename(a, b)))
    write(spool, "1.2.3").keep()
    assert order == ["sync", "rename"]
    Spool(spool.root, "flush")
    write(Spool(spool.root, "flush"), "1.2.4").keep()
    assert order == ["sync", "rename", "rename"]


def test_a_discarded_instance_leaves_nothing_and_a_kept_one_stays(spool: Spool) -> None:
    write(spool, "1.2.3").discard()
    assert files(spool) == []
    incoming = write(spool, "1.2.4")
    incoming.keep()
    incoming.discard()
    assert len(files(spool)) == 1


@settings(max_examples=30, deadline=None)
@given(
    head=st.binary(min_size=128, max_size=170),
    pieces=st.lists(st.binary(max_size=50), max_size=5),
    short=st.integers(1, 7),
)
def test_writes_that_the_disk_takes_in_parts_are_completed(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, pieces: list[bytes], short: int
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"), "flush")
    write, writev = os.write, os.writev
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: write(fd, data[:short]))
        patched.setattr(os, "writev", lambda fd, parts: writev(fd, [b"".join(parts)[:short]]))
        incoming = spool.open(head)
        for piece in pieces:
            incoming.write(memoryview(piece))
    kept = (spool.root / incoming.keep()).read_bytes()
    whole = head + b"".join(pieces) if pieces else bytes(128)
    assert (kept[:120], kept[128:]) == (whole[:120], whole[128:])
    assert int.from_bytes(kept[120:128], "little") == incoming.size


# ---- scan -----------------------------------------------------------------------------------------------------------


def test_a_whole_part_of_a_dead_receiver_is_adopted_and_gets_its_name(spool: Spool) -> None:
    kept = spool.root / write(spool, "1.2.3").keep()
    kept.rename(kept.with_suffix(".part"))  # as the power leaves it that fails after the sync
    (arrival,) = adopted(spool)
    ds = pydicom.dcmread(spool.root / arrival.path)
    assert arrival.path.endswith(".dcm")
    assert (arrival.sop_instance_uid, arrival.sop_class_uid) == ("1.2.3", CT)
    assert (arrival.study_uid, arrival.series_uid) == (ds.StudyInstanceUID, ds.SeriesInstanceUID)
    assert (arrival.calling_aet, arrival.called_aet, arrival.association) == ("PACS", "RADNODE", "")
    assert arrival.size == (spool.root / arrival.path).stat().st_size
    assert arrival.transfer_syntax_uid == EXPLICIT


def test_a_part_cut_short_is_removed(spool: Spool) -> None:
    os.close(write(spool, "1.2.3", cut=10).fd)
    assert adopted(spool) == []
    assert files(spool) == []


def test_files_of_a_living_receiver_are_left_to_it(spool: Spool) -> None:
    write(spool, "1.2.3").keep()
    incoming = write(spool, "1.2.4", cut=10)
    assert adopted(spool, alive=True) == []
    assert len(files(spool)) == 2
    incoming.discard()


def test_a_kept_file_the_ledger_knows_is_passed_over(spool: Spool) -> None:
    known, new = write(spool, "1.2.3").keep(), write(spool, "1.2.4").keep()
    assert [each.path for each in adopted(spool, {known})] == [new]


def test_copies_are_adopted_in_the_order_in_which_they_came_whichever_receiver_wrote_them(spool: Spool) -> None:
    """The later copy is the correction: taken for the earlier, it would give results the name it had put right."""
    first = write(Spool(spool.root, incarnation="f" * 16), "1.2.3").keep()
    later = write(Spool(spool.root, incarnation="0" * 16), "1.2.3").keep()
    for path, seconds in (first, 1e9), (later, 1e9 + 1):
        os.utime(spool.root / path, (seconds, seconds))
    assert [each.path for each in adopted(spool)] == [first, later]


def test_a_bucket_that_has_not_changed_since_it_was_sealed_is_not_listed(spool: Spool) -> None:
    sealed: dict[str, int] = {}
    write(spool, "1.2.3").keep()
    aged(spool)
    assert len(adopted(spool, sealed=sealed)) == 1
    assert list(sealed) == spool.buckets()
    assert adopted(spool, sealed=sealed) == []


@pytest.mark.parametrize("hours", [-2, 2])
def test_what_comes_into_a_sealed_bucket_is_found_whatever_the_clock_says(spool: Spool, hours: int) -> None:
    sealed: dict[str, int] = {}
    known = write(spool, "1.2.3").keep()
    aged(spool)
    adopted(spool, {known}, sealed=sealed)
    new = write(spool, "1.2.4").keep()
    aged(spool, 3600.0 * (1 - hours))
    assert [each.path for each in adopted(spool, {known}, sealed=sealed)] == [new]


def test_a_bucket_is_not_sealed_while_its_files_are_somebodys_or_new(spool: Spool) -> None:
    sealed: dict[str, int] = {}
    known = write(spool, "1.2.3").keep()
    adopted(spool, {known}, sealed=sealed)
    assert sealed == {}
    write(spool, "1.2.4").keep()
    aged(spool)
    adopted(spool, {known}, alive=True, sealed=sealed)
    assert sealed == {}
    assert [each.sop_instance_uid for each in adopted(spool, {known}, sealed=sealed)] == ["1.2.4"]
    assert list(sealed) == spool.buckets()


def test_a_kept_file_that_is_broken_is_set_aside_with_the_reason(spool: Spool) -> None:
    path = spool.root / write(spool, "1.2.3").keep()
    os.truncate(path, 3000)
    assert adopted(spool) == []
    assert "bytes are missing" in (spool.quarantine / f"{path.stem}.txt").read_text()
    assert (spool.quarantine / path.name).stat().st_size == 3000


def test_a_flawed_instance_is_adopted_with_its_flaw(spool: Spool) -> None:
    write(spool, "1.2.3", SeriesInstanceUID=None).keep()
    assert [each.flaw for each in adopted(spool)] == ["no SeriesInstanceUID"]


def test_strange_files_in_a_bucket_are_left_alone(spool: Spool) -> None:
    path = spool.root / write(spool, "1.2.3").keep()
    (path.parent / "notes.txt").write_text("by hand")
    (path.parent / "by-hand.dcm").write_text("no DICOM")
    assert [each.path for each in adopted(spool, {str(path.relative_to(spool.root))})] == []
    assert (path.parent / "notes.txt").exists()
    assert not (path.parent / "by-hand.dcm").exists()
    assert (spool.quarantine / "by-hand.dcm").exists()


def test_a_receiver_is_alive_as_long_as_it_holds_its_lock(tmp_path: Path) -> None:
    presence = Presence(tmp_path, "receiver-0-abc")
    assert receiver_alive(tmp_path, "abc")
    assert not receiver_alive(tmp_path, "bc")
    os.close(presence.fd)
    assert not receiver_alive(tmp_path, "abc")


def test_files_of_a_receiver_that_starts_during_the_scan_are_left_to_it(spool: Spool, tmp_path: Path) -> None:
    run, started = tmp_path / "run", []

    def known(bucket: str) -> set[str]:
        started.append(Presence(run, f"receiver-1-{spool.incarnation}"))
        started.append(write(spool, "1.2.4", cut=10))
        return set()

    write(Spool(spool.root), "1.2.3").keep()
    found = list(scan(spool, known, lambda incarnation: receiver_alive(run, incarnation), summarize))
    assert [each.sop_instance_uid for each in found] == ["1.2.3"]
    presence, incoming = started
    assert incoming.size > 0
    incoming.keep()
    presence.leave()


def test_power_lost_at_any_moment_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything not covered by a completed sync may be gone, names given since the sync too."""
    synced: dict[str, int] = {}

    def sync(fd: int) -> None:
        synced[str(Path(f"/proc/self/fd/{fd}").readlink())] = os.fstat(fd).st_size

    monkeypatch.setattr(spools, "_sync_data", sync)
    for moment in range(12):
        spool = Spool(tmp_path / str(moment))
        acknowledged = []
        for number in range(moment // 2):
            incoming = write(spool, f"1.2.{number + 1}")
            incoming.keep()
            acknowledged.append(f"1.2.{number + 1}")
        if moment % 2:
            os.close(write(spool, "9.9", cut=moment).fd)
        _lose_power(spool, synced)
        found = {each.sop_instance_uid for each in adopted(Spool(spool.root))}
        assert found == set(acknowledged)


def _lose_power(spool: Spool, synced: dict[str, int]) -> None:
    """Undoes the renames (no folder was synced) and cuts every file back to its last sync."""
    for path in list(spool.instances.rglob("*.*")):
        part = path.with_suffix(".part")
        path.rename(part)
        size = synced.get(str(part), 0)
        os.truncate(part, size)


# ---- publishing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    work = tmp_path / "work"
    (work / "objects").mkdir(parents=True)
    (work / "manifest.json").write_text("{}")
    (work / "objects" / "1.dcm").write_bytes(b"object")
    yield work


def test_results_are_published_whole(spool: Spool, work: Path) -> None:
    place = spool.publish(work, "job1")
    assert place == spool.results / "job1"
    assert (place / "objects" / "1.dcm").read_bytes() == b"object"
    assert not work.exists()


def test_the_first_to_publish_wins(spool: Spool, work: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "manifest.json").write_text("second")
    first = spool.publish(work, "job1")
    assert spool.publish(second, "job1") == first
    assert (first / "manifest.json").read_text() == "{}"
    assert second.exists()


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), lambda path: path.symlink_to("nowhere")])
def test_links_are_not_published(spool: Spool, work: Path, make: object) -> None:
    make(work / "link")  # type: ignore[operator]
    with pytest.raises(SpoolError, match="job1"):
        spool.publish(work, "job1")
    assert not (spool.results / "job1").exists()


def test_publishing_what_is_not_there_says_so(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="cannot be published"):
        spool.publish(tmp_path / "absent", "job1")


# ---- quarantine, space ----------------------------------------------------------------------------------------------


def test_quarantine_keeps_the_newest(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "_QUARANTINED_MOST", 3)
    names = []
    for number in range(5):
        incoming = write(spool, f"1.2.{number}")
        names.append(Path(incoming._part).stem)
        incoming.quarantine(f"reason {number}")
        os.utime(spool.quarantine / f"{names[-1]}.dcm", (number, number))
        spool.prune_quarantine()
    assert files(spool) == sorted(f"{name}{suffix}" for name in names[2:] for suffix in (".dcm", ".txt"))


def test_quarantine_is_bounded_in_bytes_and_keeps_at_least_the_newest(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "_QUARANTINED_BYTES", 10)
    for number in range(3):
        write(spool, f"1.2.{number}").quarantine("reason")
    assert len(list(spool.quarantine.glob("*.dcm"))) == 1


def test_the_watermark_has_hysteresis(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 0.0

    class Disk:
        f_blocks, f_frsize, f_files, f_favail = 1 << 20, 4096, 0, 0

        @property
        def f_bavail(self) -> int:
            return int(self.f_blocks * free)

    watermark = Watermark(spool)
    monkeypatch.setattr(os, "statvfs", lambda _: Disk())
    seen = []
    for free in (0.5, 0.06, 0.04, 0.06, 0.09, 0.11, 0.06):  # noqa: B007 - the disk reads it
        seen.append(watermark.look())
    assert seen == [True, True, False, False, False, True, True]


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SpoolError, match="cannot be used"):
        Spool(tmp_path / "file")
