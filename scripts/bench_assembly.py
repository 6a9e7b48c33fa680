"""What many open series cost core: a look at one that has news, a turn without any, and memory, with few and with many
instances in each. Nothing runs but core's part that assembles, on SQLite; the headers it reads are of small files."""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

from radnode.domain.routing import Routing, parse_routing
from radnode.run.assembling import Assembling
from radnode.run.completion import Completion
from radnode.run.fetching import Fetcher
from radnode.run.inquiry import Peers, SeriesInquiry
from radnode.run.study_inquiry import StudyInquiry
from radnode.run.study_watch import StudyWatch
from radnode.settings import load
from radnode.state import intake
from radnode.state.arrivals import Arrival
from radnode.state.ledger import Ledger
from radnode.state.presence import Barrier, Presence
from radnode.state.spool import Spool
from radnode.testing.phantom import head_ct
from tests.judging import Apps, Tickets

TURNS = 20
BATCH = 500
ROUTING = "complete: {series: 30m, study: 1h}\nrules: [{name: all, send_to: []}]\n"


def arrivals(series: int, first: int, count: int, seen: float) -> list[Arrival]:
    syntax = "1.2.840.10008.1.2.1"
    return [
        Arrival(f"instances/20260101/10/b-{series}-{number}.dcm", f"1.{series}.{number}", "1.2.840.10008.5.1.4.1.1.2",
                f"1.{series}", f"2.{series}", syntax, 1000, 1.7e9, seen, "CT", "RADNODE", "10.0.0.1", "a")
        for number in range(first, first + count)
    ]  # fmt: skip


def measure(assembling: Assembling, routing: Routing) -> tuple[float, float, float]:
    """ms of CPU for the longest turn, which looks at all that is new; the median of all; peak memory in MiB."""
    taken = []
    for _ in range(TURNS):
        time.sleep(0.2)  # the next turn looks again
        begun = time.thread_time()
        assembling.advance(routing)
        taken.append((time.thread_time() - begun) * 1000)
    return max(taken), statistics.median(taken), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench assembly", description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = load({"RADNODE_HOME": str(home)}, home / "no.env")
        ledger = Ledger(home)
        ledger.migrate()
        routing = parse_routing(ROUTING, catalog=Apps())
        completion = Completion(settings, ledger, Apps(), Tickets())  # type: ignore[arg-type]
        asking = settings, ledger, Peers(ledger), Fetcher(ledger, Spool(settings.spool))
        studies = StudyWatch(settings, ledger, completion, StudyInquiry(*asking))
        barrier = Barrier(settings.run)
        assembling = Assembling(settings, ledger, barrier, completion, SeriesInquiry(*asking), studies)
        receiver = Presence(settings.run, "receiver-0-bench")
        image = head_ct(home / "image", slices=1, size=16)[0]
        print("| open series | instances in each | a look at one with news | a turn without | peak memory |")
        print("|---|---|---|---|---|")
        for first, count in ((0, 1), (1, 9)):
            for start in range(0, given.series, BATCH):
                batch = range(start, min(start + BATCH, given.series))
                came = [each for series in batch for each in arrivals(series, first, count, ledger.now())]
                for each in came[count - 1 :: count]:  # the newest of each series, whose header is read
                    place = settings.spool / each.path
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.hardlink_to(image)
                with ledger.begin("bench") as tx:
                    intake.record(tx, came, [])
            news, turn, memory = measure(assembling, routing)
            shown = f"{news / given.series:.2f} ms | {turn:.1f} ms | {memory:.0f} MiB"
            print(f"| {given.series} | {first + count} | {shown} |", flush=True)
        receiver.leave()


if __name__ == "__main__":
    main()
