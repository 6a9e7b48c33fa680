"""Retention: removes the files of studies that are finished, by age and when the disk gets full; says what it keeps.

One process at a time removes files: core, now and then, or `radnode purge`. It takes one study after the other, so
that nobody waits long for the ledger, and finishes first what an earlier purge has left half done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from radnode import metrics
from radnode.dicom.compare import fingerprint
from radnode.domain.errors import NotDicomError, NotFoundError, RadnodeError
from radnode.domain.notice import notice_id
from radnode.run.joblog import log_path
from radnode.run.look import ledger_of
from radnode.run.person import who
from radnode.settings import Settings, seconds
from radnode.state import purges
from radnode.state.ledger import Ledger, Record
from radnode.state.presence import Presence
from radnode.state.spool import Spool
from radnode.telemetry import log

RESTED = 3600.0
"""Seconds for which nothing may have happened to a study before it goes because the disk gets full."""
_GIB = 1 << 30
_PAUSE = 0.1


@dataclass(frozen=True)
class Choice:
    """A study that is old enough to go. `kept`: why it does not, all the same."""

    StudyInstanceUID: str
    AccessionNumber: str
    last_received: str
    instances: int
    bytes: int
    why: str
    kept: str = ""


class Retention:
    def __init__(self, settings: Settings, ledger: Ledger, spool: Spool) -> None:
        self._settings, self._ledger, self._spool = settings, ledger, spool

    # ---- what goes ----------------------------------------------------------------------------------------------

    def plan(self, keep: float) -> Iterator[tuple[Record, float, Choice]]:
        """Studies that are old enough, the oldest first, each with the moment since which it has to have rested.

        Args:
            keep: seconds; 0: for ever, unless the disk gets full.
        """
        now, freed, lacking = time.time(), 0, self._settings.keep_free * _GIB - self._spool.free_bytes()
        aged = now - keep if keep else float("-inf")
        for study in self._oldest(max(aged, now - RESTED)):
            by_age = study.last_received_at <= aged
            if not by_age and (not self._settings.keep_free or freed >= lacking):
                return
            rested = aged if by_age else now - RESTED
            choice = self._choice(study, rested, "age" if by_age else "free space")
            freed += 0 if choice.kept else choice.bytes
            yield study, rested, choice

    def named(self, wanted: Sequence[str]) -> Iterator[tuple[Record, float, Choice]]:
        """The same of studies that a person names. Raises NotFoundError."""
        for each in wanted:
            with self._ledger.read() as tx:
                found = purges.named(tx, each)
            if not found:
                raise NotFoundError(
                    f"no study {each!r} has files here", remedy="`radnode studies` lists the newest; were they purged?"
                )
            for study in found:
                yield study, time.time(), self._choice(study, time.time(), "named", decided=True)

    def _oldest(self, before: float) -> Iterator[Record]:
        last: Record | None = None
        while True:
            with self._ledger.read() as tx:
                page = purges.oldest(tx, before, last)
            yield from page
            if not page:
                return
            last = page[-1]

    def _choice(self, study: Record, rested: float, why: str, *, decided: bool = False) -> Choice:
        with self._ledger.read() as tx:
            kept = purges.why_kept(tx, study, decided=decided)
            if not kept and purges.rested_at(tx, study) > rested:
                kept = "it was worked on since"
            instances, size = purges.size(tx, study.id)
        last = datetime.fromtimestamp(study.last_received_at).astimezone(self._settings.zone)
        return Choice(
            study.study_instance_uid, study.accession_number, last.isoformat(timespec="seconds"),
            instances, size, why, kept,
        )  # fmt: skip

    # ---- how it goes --------------------------------------------------------------------------------------------

    def round(self) -> None:
        """What core does now and then."""
        self.finish()
        for study, rested, choice in self.plan(self._settings.keep):
            if not choice.kept and self.purge(study, rested, choice.why):
                metrics.purged_instances.inc(choice.instances)
                metrics.purged_bytes.inc(choice.bytes)
                log().info("purged", study=study.id, instances=choice.instances, bytes=choice.bytes, why=choice.why)

    def finish(self) -> None:
        """Finishes what a purge that died has left half done."""
        with self._ledger.read() as tx:
            left = purges.unfinished(tx)
        for study_id in left:
            with self._alone():
                self._remove(study_id)

    def purge(self, study: Record, rested: float, why: str, who: str = "") -> bool:
        """Removes a study's files; False where something has happened to it meanwhile."""
        with self._alone():
            self._remember(study.id)
            with self._ledger.begin("mark purged") as tx:
                marked = purges.mark(tx, study.id, rested, why=why, who=who)
            if marked:
                self._remove(study.id)
        return marked

    def _remember(self, study_id: int) -> None:
        """What its instances are, so that they are known when they come again."""
        while True:
            with self._ledger.read() as tx:
                paths = purges.without_fingerprint(tx, study_id)
            if not paths:
                return
            found = {each: self._fingerprint(path) for each, path in paths.items()}
            with self._ledger.begin("remember fingerprints") as tx:
                purges.remember(tx, found)

    def _fingerprint(self, path: str) -> str:
        try:
            return fingerprint(self._spool.root / path)
        except NotDicomError:
            return "unreadable"

    def _remove(self, study_id: int) -> None:
        """May be done again, and is, after a crash."""
        with self._ledger.read() as tx:
            if study_id not in purges.unfinished(tx):
                return
            paths, attempts = purges.paths(tx, study_id), purges.attempts(tx, study_id)
        self._spool.remove(paths)
        for name in self._spool.published({*attempts, *map(notice_id, attempts)}):
            self._spool.remove_result(name)
        for job_id, most in attempts.items():
            for attempt in range(1, most + 1):
                log_path(self._settings.home, job_id, attempt).unlink(missing_ok=True)
        self._spool.remove_empty_buckets()
        with self._ledger.begin("purged") as tx:
            purges.finish(tx, study_id)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        while True:
            try:
                presence = Presence(self._settings.run, "purge")
                break
            except BlockingIOError:
                time.sleep(_PAUSE)
        try:
            yield
        finally:
            presence.leave()


# ---- `radnode purge` -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What went or would go, what is kept though it is old enough, and how many studies are younger."""

    purged: tuple[Choice, ...]
    kept: tuple[Choice, ...]
    younger: int
    free_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "purged": [asdict(each) for each in self.purged],
            "kept": [asdict(each) for each in self.kept],
            "studies": len(self.purged),
            "instances": sum(each.instances for each in self.purged),
            "bytes": sum(each.bytes for each in self.purged),
            "younger": self.younger,
            "free_bytes": self.free_bytes,
        }


def purge(settings: Settings, wanted: Sequence[str] = (), older_than: str = "", *, dry_run: bool = False) -> Report:
    """Purges the studies named, or those that are old enough. Raises RadnodeError where nothing says which."""
    keep = _age(older_than) if older_than else settings.keep
    if not wanted and not keep and not settings.keep_free:
        raise RadnodeError(
            "nothing chosen", remedy="name studies, or say --older-than 30d; RADNODE_KEEP says it once and for all"
        )
    purged: list[Choice] = []
    kept: list[Choice] = []
    with ledger_of(settings) as ledger:
        spool = Spool(settings.spool)
        retention = Retention(settings, ledger, spool)
        if not dry_run:
            retention.finish()
        for study, rested, choice in retention.named(wanted) if wanted else retention.plan(keep):
            gone = not choice.kept and (dry_run or retention.purge(study, rested, choice.why, _who(wanted)))
            (purged if gone else kept).append(choice)
        with ledger.read() as tx:
            younger = purges.younger(tx, time.time() - (keep or RESTED))
    return Report(tuple(purged), tuple(kept), younger, spool.free_bytes())


def _who(wanted: Sequence[str]) -> str:
    """Only who names a study decides of what waits for a person."""
    return who() if wanted else ""


def _age(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as fault:
        raise RadnodeError(f"--older-than {text!r}: {fault}", remedy="write 12h, 30d or 8w") from None


def render(found: Report, *, dry_run: bool) -> RenderableType:
    said = found.to_json()
    lines = [
        Text(f"{each.AccessionNumber or '(none)'} {each.StudyInstanceUID}, last received {each.last_received}: {what}")
        for each, what in (
            *((each, f"{each.instances} instances, {each.bytes:,} bytes, by {each.why}") for each in found.purged),
            *((each, f"kept, {each.kept}") for each in found.kept),
        )
    ]
    total = f"{said['studies']} studies, {said['instances']} instances, {said['bytes']:,} bytes"
    lines.append(Text(f"{total} {'would be ' if dry_run else ''}purged; {len(found.kept)} kept though old enough; "
                      f"{found.younger} younger; {found.free_bytes:,} bytes free"))  # fmt: skip
    return Group(*lines)
