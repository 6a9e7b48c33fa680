"""Nothing lost, nothing twice, whatever dies: a real node under a steady push, and a killer that strikes at random.

At the end, when everything has come to rest, what was acknowledged is compared with what lies in the spool and what
arrived at two sinks. Every difference is printed; any makes the exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from radnode import settings as settings_module
from radnode.dicom.headers import summarize
from radnode.run import look
from scripts.chaos_killer import Killer
from scripts.chaos_peers import SLICES, Senders, Sink, Study, digest
from tests.clock import Clock
from tests.databases import Postgres
from tests.peers import Node
from tests.small_disk import SmallDisk, small_disk

QUIET = 2.0
ROUTING = """
destinations:
  results: {{aet: RESULTS, host: 127.0.0.1, port: {results.port}}}
  copies: {{aet: COPIES, host: 127.0.0.1, port: {copies.port}}}
complete: {{series: {quiet}s, study: 4s}}
rules:
  - {{name: results, app: test, send_to: [results], when: {{Modality: CT}}}}
  - {{name: copies, level: study, send_to: [copies], when: {{Modality: CT}}}}
"""
DISK_MIB, DISK_MIB_A_MINUTE = 256, 192
"""What the node keeps grows with the time; the disk is to be full only when it is filled."""
SETTLE = 120.0
"""Seconds without any change."""
SHOWN = 50


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="the ledger on a PostgreSQL server of its own")
    parser.add_argument("--senders", type=int, default=3)
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between two strikes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        faults = run(Path(name), given)
    for each in faults[:SHOWN]:
        print("DIFFERENCE", each)
    print(f"{len(faults)} differences")
    sys.exit(1 if faults else 0)


def run(folder: Path, given: argparse.Namespace) -> list[str]:
    with ExitStack() as stack:
        results, copies = (Sink(name.upper(), folder / name) for name in ("results", "copies"))
        stack.callback(results.kill)
        stack.callback(copies.kill)
        mib = int(DISK_MIB + DISK_MIB_A_MINUTE * given.minutes)
        clock, disk = Clock(folder / "clock"), _disk(stack, folder / "disk", mib)
        env = dict(clock.env)
        if given.postgres:
            server = Postgres()
            stack.callback(server.remove)
            env["DATABASE_URL"] = server.create()
        routing = ROUTING.format(results=results, copies=copies, quiet=QUIET)
        node = Node((disk.root if disk else folder) / "node", routing, env=env, start=False)
        stack.callback(node.kill)
        node.start()
        senders = Senders(node.peer, folder, given.senders)
        stack.callback(senders.stopping.set)
        killer = Killer(node, [results, copies], clock, disk, given.seed)
        _strike(killer, senders, given)
        faults = reconcile(node, settle(node), senders, results, copies)
        _tell(killer, senders, [results, copies], node, faults)
        return faults


def _disk(stack: ExitStack, folder: Path, mib: int) -> SmallDisk | None:
    try:
        return stack.enter_context(small_disk(folder, mib))
    except PermissionError as fault:
        print(f"the disk is never filled: {fault}")
        return None


def _strike(killer: Killer, senders: Senders, given: argparse.Namespace) -> None:
    senders.start()
    deadline = time.monotonic() + 60 * given.minutes
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(killer.random.expovariate(1 / given.pause))
        killer.strike()
        print(f"{left / 60:.1f} minutes left, {killer.kills} kills, {len(senders.studies)} studies", file=sys.stderr)
    killer.rest()
    senders.stop()


def settle(node: Node) -> list[dict[str, Any]]:
    """Waits until nothing is under way, or nothing changes any more, and returns all studies as they are then."""
    before, since = Counter[str](), time.monotonic()
    while True:
        studies = look.studies(settings_of(node), limit=10**6)
        states = Counter(each["state"] for each in studies)
        if states != before:
            before, since = states, time.monotonic()
            print(f"settling: {dict(states)}", file=sys.stderr)
        if set(states) <= {"done", "attention"} or time.monotonic() > since + SETTLE:
            return studies
        time.sleep(1)


def settings_of(node: Node) -> settings_module.Settings:
    return settings_module.load(node.env, node.folder / "no.env")


def reconcile(
    node: Node, known: list[dict[str, Any]], senders: Senders, results: Sink, copies: Sink
) -> list[str]:
    """Stops the node; then every difference between what was acknowledged, what is kept, and what arrived."""
    node.stop()  # fails where a process is left
    spool = node.home / "spool"
    kept = {(summarize(path).sop_instance_uid, digest(path)) for path in spool.glob("instances/**/*.dcm")}
    lying = [*spool.glob("instances/**/*.part"), *spool.glob("work/*")]
    faults = [f"left over: {each}" for each in lying]
    by_uid = {each["StudyInstanceUID"]: each for each in known}
    made, copied = results.arrived(), copies.arrived()
    for study in senders.studies:
        for uid in study.acknowledged:
            if (uid, study.digests[uid]) not in kept:
                faults.append(f"acknowledged and not kept: {uid}")
            if copied.get(uid) != {study.digests[uid]}:
                faults.append(f"copy of {uid}: {len(copied.get(uid, ()))} different versions")
        faults += _results(node, study, by_uid.get(study.uid), made)
    manifested = {summarize(path).sop_instance_uid: digest(path) for path in spool.glob("results/*/*.dcm")}
    faults += [f"result {uid} arrived with other bytes" for uid in made if made[uid] != {manifested.get(uid)}]
    return faults


def _results(node: Node, study: Study, known: dict[str, Any] | None, made: dict[str, set[str]]) -> Iterator[str]:
    """What is wrong with one study's results. More than one job is right only if its sender was away for long."""
    if known is None or known["state"] != "done":
        yield f"study {study.uid} is {known and known['state']}: {known and [each['error'] for each in known['jobs']]}"
        return
    jobs = [look.job(settings_of(node), each["id"]) for each in known["jobs"] if each["rule"] == "results"]
    if [each["inputs"] for each in jobs].count(SLICES) != 1:
        yield f"study {study.uid}: jobs took {[each['inputs'] for each in jobs]} instances, pushed {study.pushes} times"
    if len(jobs) > 1 and study.longest_pause() < QUIET:
        yield f"study {study.uid}: {len(jobs)} jobs, though its sender never paused"
    for job in jobs:
        states = [each["state"] for each in job["deliveries"]]
        if states != ["delivered"] and not (job["inputs"] < SLICES and _is_superseded(job["state"], states)):
            yield f"job {job['id']} on {job['inputs']} instances is {job['state']}, its deliveries {states}"
        missing = [each["SOPInstanceUID"] for each in job["results"] if each["SOPInstanceUID"] not in made]
        if missing and states == ["delivered"]:
            yield f"job {job['id']}: delivered, and {len(missing)} results never arrived"


def _is_superseded(job: str, deliveries: list[str]) -> bool:
    """Whether more of its series came before it had run, or before its results had gone out."""
    return deliveries == ["cancelled"] or (job == "cancelled" and not deliveries)


def _tell(killer: Killer, senders: Senders, sinks: list[Sink], node: Node, faults: list[str]) -> None:
    if faults:
        print(node.output()[-15000:])
        print("\n".join(killer.log[-40:]))
    pushes = sum(each.pushes for each in senders.studies)
    instances = sum(len(each.acknowledged) for each in senders.studies)
    lives = sum(each.lives for each in sinks)
    print(f"{sum(killer.struck.values())} strikes, {killer.kills} of them kills: {dict(killer.struck.most_common())}")
    print(f"{len(senders.studies)} studies, {pushes} pushes, {instances} instances, {lives} lives of sinks")


if __name__ == "__main__":
    main()
