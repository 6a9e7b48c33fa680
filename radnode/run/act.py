"""What a person can do about jobs and deliveries: retry, resend, cancel, pause. Who did it stands on the timeline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from radnode.domain.errors import NotFoundError, RadnodeError
from radnode.run import apps as app_finder
from radnode.run.look import ledger_of
from radnode.run.person import who
from radnode.settings import Settings, seconds
from radnode.state import deliveries, generations, holds, intake, jobs, pauses, views
from radnode.state.ledger import Transaction, take_turns

T = TypeVar("T")

_RETRYABLE_JOBS = ("failed", "cancelled", "held")
_ENDED = ("done", "declined", "failed", "cancelled")
_UNSENT = ("parked", "held", "expired", "waiting")


@dataclass(frozen=True)
class Filter:
    """Which jobs and deliveries are meant: by ID, or by all the filters given."""

    ids: tuple[str, ...] = ()
    app: str = ""
    rule: str = ""
    state: str = ""
    since: str = ""
    destination: str = ""

    def checked(self) -> Filter:
        if not any(vars(self).values()):
            raise RadnodeError(
                "nothing chosen", remedy="name job IDs, or filter by --app, --rule, --state, --since, --destination"
            )
        return self

    @property
    def after(self) -> float | None:
        """Seconds since the epoch. Raises RadnodeError for a duration that is none."""
        if not self.since:
            return None
        try:
            return time.time() - seconds(self.since.strip())
        except ValueError:
            raise RadnodeError(f"--since {self.since!r} is no duration", remedy="write 30m, 12h, 7d or 2w") from None


def retry(settings: Settings, chosen: Filter, *, dry_run: bool = False) -> list[str]:
    """Sets failed, cancelled and held jobs, and parked, expired and waiting deliveries, on their way; says which."""
    chosen.checked()

    def act(tx: Transaction) -> list[str]:
        _refuse_purged(tx, chosen, "push the study again")
        done = [] if chosen.destination else _jobs(tx, chosen, _RETRYABLE_JOBS, generations.again, dry_run)
        return done + _deliveries(tx, chosen, _and_cancelled(chosen, _UNSENT), deliveries.retry, dry_run)

    return _acting(settings, act)


def resend(settings: Settings, chosen: Filter, *, dry_run: bool = False) -> list[str]:
    """Sends the kept results again, also what was delivered: the same objects, byte for byte."""
    chosen.checked()
    finished = _and_cancelled(chosen, ("delivered", *_UNSENT))

    def act(tx: Transaction) -> list[str]:
        _refuse_purged(tx, chosen, "push the study again, then `radnode rerun` it")
        return _deliveries(tx, chosen, finished, deliveries.resend, dry_run)

    return _acting(settings, act)


def rerun(settings: Settings, chosen: Filter, *, dry_run: bool = False) -> list[str]:
    """Computes again what has ended, by the apps as they are installed now; the results supersede those before."""
    chosen.checked()
    catalog = app_finder.find(settings.apps)

    def again(tx: Transaction, job_id: str, by: str) -> bool:
        app = jobs.get(tx, job_id).app
        if app and (fault := catalog.broken(app)) is not None:
            raise RadnodeError(f"app {app} cannot run: {fault}", remedy="`radnode apps` lists those that can")
        return bool(app) and bool(generations.rerun(tx, job_id, by, catalog.version(app)))

    def act(tx: Transaction) -> list[str]:
        _refuse_purged(tx, chosen, "push the study again", images=True)
        return _jobs(tx, chosen, _ENDED, again, dry_run)

    return _acting(settings, act)


def release(settings: Settings, chosen: Filter, *, dry_run: bool = False) -> list[str]:
    """Lets held jobs and studies go, and takes the flag off results whose images were rejected; says which."""
    chosen.checked()

    def act(tx: Transaction) -> list[str]:
        me = who()
        found = _jobs(tx, chosen, ("held",), generations.again, dry_run)
        if chosen.ids:
            found += [f"job {each}" for each in holds.flagged(tx, chosen.ids) if dry_run or holds.unflag(tx, each, me)]
        if chosen.ids or chosen.state == "held":
            held = holds.studies(tx, chosen.ids)
            found += [f"study {uid}" for uid in held if dry_run or holds.release(tx, uid, me)]
        return found

    return _acting(settings, act)


def cancel(settings: Settings, chosen: Filter, *, dry_run: bool = False) -> tuple[list[str], list[str]]:
    """Stops waiting, running and held jobs, settles failed ones, and drops what is not sent yet of those that are done.

    Returns what that is, and the deliveries that are being sent just now: half of a result in a PACS is worse than
    all of it, so these are left to end.
    """
    chosen.checked()

    def act(tx: Transaction) -> tuple[list[str], list[str]]:
        stopped = [] if chosen.destination else _cancel_jobs(tx, chosen, dry_run)
        stopped += _deliveries(tx, chosen, _UNSENT, deliveries.cancel, dry_run)
        return stopped, _deliveries(tx, chosen, ("sending",), deliveries.cancel, dry_run=True)

    return _acting(settings, act)


def _cancel_jobs(tx: Transaction, chosen: Filter, dry_run: bool) -> list[str]:
    stopped = _jobs(tx, chosen, ("waiting", "running", "held"), jobs.cancel, dry_run)
    return stopped + _jobs(tx, chosen, ("failed",), holds.settle, dry_run)


def promote(settings: Settings, rule: str, since: str = "", *, dry_run: bool = False) -> list[str]:
    """Sends what the shadow jobs of a rule have made, or will have made; says which."""
    chosen = Filter(rule=rule, since=since).checked()

    def act(tx: Transaction) -> list[str]:
        found = jobs.shadows(tx, chosen.rule, chosen.after)
        return [f"job {each}" for each in found if dry_run or jobs.promote(tx, each, who())]

    return _acting(settings, act)


def pause(settings: Settings, name: str) -> str:
    """Lets the jobs of an app, or the deliveries to a destination, wait; returns which of the two `name` is."""
    with ledger_of(settings) as ledger, ledger.begin("pause") as tx:
        kind = _kind(settings, tx, name)
        pauses.pause(tx, kind, name, who())
    return kind


def resume(settings: Settings, name: str) -> str:
    with ledger_of(settings) as ledger, ledger.begin("resume") as tx:
        kind = pauses.resume(tx, name)
    if kind is None:
        raise NotFoundError(f"{name!r} is not paused", remedy="`radnode pause NAME` pauses an app or a destination")
    return kind


def backup(settings: Settings, target: Path, *, force: bool = False) -> Path:
    """Copies the ledger, also while the node runs; `target` may be a folder.

    Raises LedgerError on PostgreSQL, and unless forced where the file is there already: it may be the last good copy.
    """
    if target.is_dir():
        target /= time.strftime("ledger-%Y%m%dT%H%M%S.sqlite")
    with ledger_of(settings) as ledger:
        ledger.copy_to(target, overwrite=force)
    return target


def _kind(settings: Settings, tx: Transaction, name: str) -> str:
    routing = intake.routing_in_force(tx)
    if routing is not None and name in routing.peers["destinations"]:
        return "destination"
    if name in app_finder.find(settings.apps).names():
        return "app"
    raise NotFoundError(
        f"no destination and no app is called {name!r}", remedy="`radnode apps`, or `destinations` in routing.yaml"
    )


def _acting(settings: Settings, act: Callable[[Transaction], T]) -> T:
    with ledger_of(settings) as ledger, ledger.begin("act") as tx:
        for each in ("intake", "jobs"):  # nothing is purged meanwhile
            take_turns(tx, each)
        return act(tx)


def _refuse_purged(tx: Transaction, chosen: Filter, remedy: str, *, images: bool = False) -> None:
    """Raises RadnodeError where a job that was named has lost what it takes; filters pass by those that have."""
    gone = views.purged_jobs(tx, chosen.ids, images=images) if chosen.ids else []
    if gone:
        what = "the images it takes" if images else "what it made, or the images it takes,"
        raise RadnodeError(f"job {gone[0][:12]}: {what} were purged (RADNODE_KEEP)", remedy=remedy)


def _and_cancelled(chosen: Filter, states: tuple[str, ...]) -> tuple[str, ...]:
    """What a person has cancelled comes back only by its job's name or by that state: no bulk retry brings it along."""
    return (*states, "cancelled") if chosen.ids or chosen.state else states


def _jobs(
    tx: Transaction,
    chosen: Filter,
    states: tuple[str, ...],
    act: Callable[[Transaction, str, str], bool],
    dry_run: bool,
) -> list[str]:
    found = views.select_jobs(
        tx,
        chosen.ids,
        states=states,
        app=chosen.app,
        rule=chosen.rule,
        state=chosen.state,
        since=chosen.after,
        destination=chosen.destination,
    )
    return [f"job {each}" for each in found if dry_run or act(tx, each, who())]


def _deliveries(
    tx: Transaction,
    chosen: Filter,
    states: tuple[str, ...],
    act: Callable[[Transaction, int, str], bool],
    dry_run: bool,
) -> list[str]:
    wanted = tuple(each for each in states if chosen.state in ("", each))
    found = views.select_deliveries(
        tx,
        chosen.ids,
        states=wanted,
        destination=chosen.destination,
        app=chosen.app,
        rule=chosen.rule,
        since=chosen.after,
    )
    return [f"delivery {each}" for each in found if dry_run or act(tx, each, who())]
