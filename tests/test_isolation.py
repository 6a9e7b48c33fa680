"""What an app's process sees, takes and leaves behind: walls, limits, and an end that nothing survives."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from radnode import settings as settings_module
from radnode.domain.jobs import Assignment
from radnode.run import apps as app_finder
from radnode.run.capacity import Capacity, Share
from radnode.run.child import OUT, write_assignment
from radnode.run.joblog import JobLog
from radnode.run.runner import Ending, Runner, no_walls
from radnode.run.walls import Walls, enclose, part
from radnode.settings import Settings
from radnode.state.presence import Presence
from radnode.testing.phantom import head_ct
from tests.peers import until

APPS = {
    "snoop": """
import os, pathlib, socket, radnode

class Snoop(radnode.App):
    name, version = "snoop", "1"

    def process(self, series, options):
        place = pathlib.Path.cwd().parent
        home = place.parents[2]
        for path in sorted(home.rglob("*")):
            if path.is_file() and place not in path.parents:
                print("SEES", path)
        for path in (home / "ledger.sqlite", home.parent / ".env"):
            try:
                print(*(f"READS {line}" for line in path.read_text().splitlines()))
            except OSError as error:
                print("no", path.name)
        try:
            socket.create_connection(("127.0.0.1", int(pathlib.Path(place / "in" / "port").read_text())), 1)
            print("CONNECTS")
        except OSError as error:
            print("no network")
        try:
            with open(series.first.path, "ab") as file:
                file.write(b"x")
            print("WRITES")
        except OSError as error:
            print("read-only")
        pids = [int(each) for each in os.listdir("/proc") if each.isdigit()]
        print("processes:", len(pids))
        print("secrets:", sorted(each for each in os.environ if "PASS" in each or "_URL" in each))
        print("images:", len(series))
        return []
""",
    "behaves": """
import ctypes, os, signal, subprocess, sys, threading, time, radnode

class BehavesOptions(radnode.AppOptions):
    how: str = ""

class Behaves(radnode.App[BehavesOptions]):
    name, version = "behaves", "1"
    resources = radnode.Resources(memory=256, timeout=60)

    def process(self, series, options):
        getattr(self, options.how or "nothing")()
        return []

    def nothing(self):
        pass

    def raises(self):
        raise RuntimeError("no such luck")

    def raises_what_cannot_be_said(self):
        class Unsayable(Exception):
            def __str__(self):
                raise RuntimeError
        raise Unsayable

    def leaves(self):
        sys.exit()

    def has_no_output(self):
        sys.stdout = sys.stderr = None

    def computes_in_threads(self):
        sums = []
        threads = [threading.Thread(target=lambda: sums.append(sum(bytearray(1000)))) for _ in range(16)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def closes_all_its_files(self):
        os.closerange(3, 256)

    def aborts(self):
        os.abort()

    def kills_itself(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def segfaults(self):
        ctypes.string_at(0)

    def exits(self):
        os._exit(3)

    def allocates(self):
        bytearray(1 << 30)

    def grows_elsewhere(self):
        subprocess.run([sys.executable, "-c", "x = b'x' * (600 << 20); import time; time.sleep(60)"])

    def prints_much(self):
        print("first words", flush=True)
        line = "x" * 1023
        for _ in range(20_000):
            print(line)
        print("last words", flush=True)

    def leaves_processes(self):
        subprocess.Popen(["sleep", "12345"], start_new_session=True)
        time.sleep(0.2)

    def sleeps(self):
        subprocess.Popen(["sleep", "12345"], start_new_session=True)
        print("asleep", flush=True)
        time.sleep(600)

    def reports(self):
        self.progress("half", 0.5)
        time.sleep(600)
""",
    "loads": """
import os, radnode

class LoadsOptions(radnode.AppOptions):
    how: str = ""

class Loads(radnode.App[LoadsOptions]):
    name, version = "loads", "1"
    loads = 0

    def load(self):
        type(self).loads += 1
        print("loading", flush=True)

    def process(self, series, options):
        print(f"loads {self.loads}, process {os.getpid()}, gpu {os.environ['CUDA_VISIBLE_DEVICES']!r}")
        print("sees", sorted(os.listdir("..")), len(series))
        open("../left-behind", "w").write("x")
        if options.how == "crash":
            os.abort()
        if options.how == "raise":
            raise RuntimeError("no")
        return []
""",
}
WALLED = pytest.param(True, id="walled")
OPEN = pytest.param(False, id="open")


def own_apps(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, text in APPS.items():
        (folder / f"{name}.py").write_text(text)
    return folder


class Bench:
    """A worker's runner without a worker: runs apps of a folder on phantoms."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, walled: bool = True, apps: Path | None = None
    ) -> None:
        self.folder, self.home = folder, folder / "home"
        apps = apps or own_apps(folder / "apps")
        (folder / ".env").write_text("SMTP_PASSWORD=hidden\n")
        monkeypatch.setenv("DATABASE_PASSWORD", "hidden")
        monkeypatch.setenv("RADNODE_SMTP_PASSWORD", "hidden")
        monkeypatch.setenv("PGPASSFILE", "hidden")
        values = {"RADNODE_HOME": str(self.home), "RADNODE_APPS": str(apps)}
        self.settings: Settings = settings_module.load(values)
        (self.home / "spool" / "instances").mkdir(parents=True)
        (self.home / "spool" / "instances" / "other.dcm").write_text("another patient")
        (self.home / "ledger.sqlite").write_text("ledger")
        self.images = head_ct(folder / "study", slices=2, size=16)
        self.catalog = app_finder.find(apps)
        self.places = self.home / "spool" / "work"
        self.presence = Presence(self.settings.run, "worker-bench")
        if not walled:
            monkeypatch.setattr("radnode.run.runner.no_walls", lambda _: "the test wants none")
        self.runner = Runner(self.settings, "worker-bench", self.places, self.presence.fd)
        self.runner.start()
        monkeypatch.undo()
        self.places_seen: list[Path] = []

    def run(
        self,
        app: str,
        *,
        timeout: float = 60,
        share: Share | None = None,
        still_ours: Callable[[], bool] = lambda: True,
        told: Callable[[str], None] = lambda text: None,
        files: dict[str, str] | None = None,
        **options: Any,
    ) -> tuple[Ending, str]:
        """How a job of the app ended, and its log."""
        found = self.catalog.get(app)
        log = self.home / "log" / "jobs" / f"{time.monotonic_ns()}.log"
        with self.runner.child(found, share or Share(1), network=found.resources.network) as child:
            self.places_seen.append(child.place)
            folder = child.place / "job.1"
            (folder / OUT).mkdir(parents=True)
            (child.place / "in" / "0").mkdir()
            for name, text in (files or {}).items():
                (child.place / "in" / name).write_text(text)
            images = [child.place / "in" / "0" / each.name for each in self.images]
            for source, target in zip(self.images, images, strict=True):
                target.hardlink_to(source)
            parsed = found.parse_options(options).model_dump(mode="json")
            inputs = {"a": [str(each) for each in images]}
            write_assignment(folder, Assignment("ab" * 16, app, "1", "series", parsed, inputs, "2026-03-01T22:10:05Z"))
            ending = child.run(folder, log, timeout, still_ours, told)
        return ending, log.read_text() if log.exists() else ""

    def stop(self) -> None:
        self.runner.stop()
        self.presence.leave()


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool], Bench]]:
    """One with walls and one without, made when first wanted."""
    made: dict[bool, Bench] = {}
    with pytest.MonkeyPatch.context() as patch:

        def bench(walled: bool) -> Bench:
            if walled not in made:
                made[walled] = Bench(tmp_path_factory.mktemp("bench"), patch, walled=walled)
            return made[walled]

        yield bench
        for each in made.values():
            each.stop()
            assert list(each.places.glob("worker-*")) == []


@pytest.fixture
def bench(
    request: pytest.FixtureRequest, benches: Callable[[bool], Bench], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    walled = getattr(request, "param", True)
    if walled and (reason := no_walls(settings_module.load({}, Path("nowhere")))):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(f"no namespaces here: {reason}")
    found = benches(walled)
    monkeypatch.chdir(found.folder)  # where .env lies
    found.runner.end_idle(0.0)
    found.places_seen.clear()
    return found


both = pytest.mark.parametrize("bench", [WALLED, OPEN], indirect=True)


@contextmanager
def listening() -> Iterator[int]:
    """A port of this host on which something listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def alive(word: str) -> list[int]:
    """Processes with this word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (path / "cmdline").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


# ---- walls -----------------------------------------------------------------------------------------------------------


def test_an_app_sees_its_own_images_read_only_and_nothing_else_of_the_node(bench: Bench) -> None:
    with listening() as port:
        ending, log = bench.run("snoop", files={"port": str(port)})
    assert ending == Ending("done")
    assert "SEES" not in log and "READS" not in log and "CONNECTS" not in log and "WRITES" not in log
    assert "no ledger.sqlite\n" in log and "read-only\n" in log and "no network\n" in log
    assert "secrets: []\n" in log
    assert "images: 2\n" in log
    assert "processes: 2\n" in log  # its own, and the first one of its namespace
    assert (bench.home / "spool" / "instances" / "other.dcm").read_text() == "another patient"


def test_without_walls_an_app_works_and_the_node_says_that_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path, monkeypatch, walled=False)
    assert bench.run("behaves")[0] == Ending("done")
    bench.stop()
    assert "apps are not walled in" in capfd.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_rights_has_the_same_walls(tmp_path: Path) -> None:
    """As nobody, in a user namespace of its own."""
    place = tmp_path / "home" / "spool" / "work" / "p.1"
    image = place / "in" / "image"
    image.parent.mkdir(parents=True)
    (tmp_path / "home" / "secret").write_text("secret")
    image.write_text("image")
    for path in (tmp_path, *tmp_path.parents[:3], *tmp_path.rglob("*")):
        path.chmod(path.stat().st_mode | 0o777)
    walls = Walls(str(place), (str(tmp_path / "home"),))
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as a process that was started by nobody has it
            part(walls)
            if os.fork() == 0:
                enclose(walls)
                seen = sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file())
                writable = os.access(place, os.W_OK), os.access(image, os.W_OK)
                os.write(writing, f"{seen} {writable} {os.getuid()}".encode())
                os._exit(0)
            os.wait()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    os.waitpid(pid, 0)
    if not said:
        pytest.skip("users without rights get no namespaces here")
    assert said == f"{[str(image.relative_to(tmp_path))]} (True, False) 65534"


# ---- how it ends -----------------------------------------------------------------------------------------------------


@both
def test_every_end_has_its_name(bench: Bench) -> None:
    for how, ending in {
        "nothing": Ending("done"),
        "raises": Ending("error", "RuntimeError: no such luck"),
        "raises_what_cannot_be_said": Ending("error", "Unsayable, which cannot say more"),
        "leaves": Ending("error", "SystemExit"),
        "has_no_output": Ending("done"),
        "computes_in_threads": Ending("done"),
        "closes_all_its_files": Ending("crashed", "exited with code 1"),
        "aborts": Ending("crashed", "killed by SIGABRT"),
        "kills_itself": Ending("crashed", "killed by SIGKILL"),
        "segfaults": Ending("crashed", "killed by SIGSEGV"),
        "exits": Ending("crashed", "exited with code 3"),
        "allocates": Ending("error", "out of memory: more than 256 MiB"),
        "grows_elsewhere": Ending("error", "out of memory: more than 256 MiB"),
    }.items():
        assert bench.run("behaves", how=how)[0] == ending, how
    assert "RuntimeError: no such luck" in bench.run("behaves", how="raises")[1]
    assert "the process of the app broke: OSError(9, " in bench.run("behaves", how="closes_all_its_files")[1]


@both
def test_what_an_app_leaves_running_ends_with_its_job(bench: Bench) -> None:
    assert bench.run("behaves", how="leaves_processes")[0] == Ending("done")
    assert alive("12345") == []


@both
def test_a_job_over_its_time_limit_is_killed_with_all_it_started(bench: Bench) -> None:
    bench.run("behaves")  # the first one may wait for the nursery
    ending, _ = bench.run("behaves", how="sleeps", timeout=2.0)
    assert ending == Ending("error", "over its time limit of 2 s")
    assert alive("12345") == []


@both
def test_a_job_that_is_no_longer_ours_is_killed_at_once(bench: Bench) -> None:
    cancelled = threading.Event()
    threading.Timer(2.0, cancelled.set).start()
    ending, _ = bench.run("behaves", how="sleeps", still_ours=lambda: not cancelled.is_set())
    assert ending.how == "stopped"
    assert alive("12345") == []


@pytest.mark.parametrize("who", ["nursery", "warden", "first process"])
@both
def test_whichever_process_around_an_app_is_killed_the_app_ends_too(bench: Bench, who: str) -> None:
    found: list[Ending] = []
    running = threading.Thread(target=lambda: found.append(bench.run("behaves", how="sleeps")[0]))
    running.start()
    sleeper = until(lambda: alive("12345"), "the app is at work")[0]
    child = parent_of(sleeper)
    first = parent_of(child)
    victim = {"first process": first, "warden": parent_of(first), "nursery": parent_of(parent_of(first))}[who]
    os.kill(victim, signal.SIGKILL)
    running.join()
    assert found[0].how == "lost"
    until(lambda: not Path(f"/proc/{child}").exists() and not alive("12345"), "the app and what it started have ended")
    assert bench.run("behaves")[0] == Ending("done")


# ---- limits and progress ---------------------------------------------------------------------------------------------


def test_an_app_that_prints_without_end_fills_no_disk(bench: Bench) -> None:
    ending, log = bench.run("behaves", how="prints_much")
    assert ending == Ending("done")
    assert log.startswith("first words\n") and log.endswith("last words\n")
    assert "are left out here" in log
    assert len(log) < 4 << 20


def test_a_full_disk_costs_lines_of_the_log_and_not_the_job(tmp_path: Path) -> None:
    log = JobLog(Path("/dev/full"))
    log.write(b"x" * 1000)
    assert log.last == b"x" * 1000
    log.close()


def test_what_an_app_says_of_its_progress_is_heard_while_it_runs(bench: Bench) -> None:
    heard: list[str] = []
    ending, log = bench.run("behaves", how="reports", still_ours=lambda: not heard, told=heard.append)
    assert (ending.how, heard, log) == ("stopped", ["half (50%)"], "half (50%)\n")


# ---- processes that stay ---------------------------------------------------------------------------------------------


@both
def test_an_app_that_loads_something_does_so_once_and_sees_one_job_at_a_time(bench: Bench) -> None:
    logs = [bench.run("loads")[1] for _ in range(3)]
    assert "loading\n" in logs[0] and "loading" not in logs[1] + logs[2]
    assert all("loads 1, " in each and "sees ['in', 'job.1'] 2\n" in each for each in logs)
    assert len(set(bench.places_seen)) == 1
    assert sorted(each.name for each in bench.places_seen[0].iterdir()) == ["in"]
    assert bench.run("loads", how="raise")[0] == Ending("error", "RuntimeError: no")
    assert bench.run("loads")[0] == Ending("done")
    assert len(set(bench.places_seen)) == 1


def test_a_process_that_crashed_is_replaced(bench: Bench) -> None:
    bench.run("loads")
    assert bench.run("loads", how="crash")[0] == Ending("crashed", "killed by SIGABRT")
    ending, log = bench.run("loads")
    assert (ending, "loading" in log) == (Ending("done"), True)
    assert len(set(bench.places_seen)) == 2


def test_a_process_that_dies_while_it_is_idle_is_replaced(bench: Bench) -> None:
    bench.run("loads")
    for pid in alive("loads"):
        os.kill(pid, signal.SIGKILL)
    until(lambda: bench.runner.end_idle(3600) or not bench.places_seen[-1].exists(), "that has been noticed")
    assert bench.run("loads")[0] == Ending("done")


def test_idle_processes_end_and_a_gpu_slot_is_taken_from_another_apps_model(bench: Bench, tmp_path: Path) -> None:
    capacity = Capacity(2, "0", tmp_path)
    share = Share(1, tuple(capacity.slots))
    assert "gpu '0'" in bench.run("loads", share=share)[1]
    assert bench.runner.holds(share.slots)
    assert len(alive("loads")) == 1
    bench.run("loads", share=Share(1))  # another place: another process
    assert len(alive("loads")) == 2
    assert bench.runner.end_idle(3600) == []
    assert bench.runner.end_idle(0) == list(share.slots)
    assert alive("loads") == []


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
