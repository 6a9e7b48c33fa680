"""Mistakes of those who run the node: each ends in one clear message with its remedy, and the fitting exit code."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from radnode.domain.errors import PeerError
from radnode.run.receiving import AllowedSenders
from radnode.state.ledger import Ledger
from radnode.testing.sink import SinkPacs
from tests.peers import Node, free_port, until
from tests.road import (
    QUICK,
    apply,
    apps_folder,
    delivery_in,
    destinations,
    push,
    settled,
    small_ct,
    study,
    uids,
    verdicts,
)

CONFIG = 78
FORWARD = "rules: [{name: everything, send_to: [a]}]\n"
pytestmark = pytest.mark.timeout(400)  # several starts of a node; on a busy machine each takes its time

_seeds = count(5000)


@pytest.fixture
def seed() -> int:
    return next(_seeds)


@dataclass(frozen=True)
class Ended:
    code: int
    said: str

    def refused(self, *words: str, code: int = CONFIG) -> None:
        """It ended so, with one error that says all of this and what to do, and without a traceback."""
        assert self.code == code, self.said
        assert "Traceback" not in self.said, self.said
        assert self.said.count("error:") == 1, self.said
        assert "->" in self.said, self.said
        for each in words:
            assert each in self.said, self.said


def radnode(node: Node, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    """A command that is to end by itself, with the settings of `node`, which does not have to run."""
    command = [sys.executable, "-m", "radnode.cli", *arguments]
    settings = node.env | dict(env or {})
    done = subprocess.run(  # noqa: PLW1510 - the exit code is what it is about
        command, cwd=node.folder, env=settings, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90
    )
    until(lambda: not node.pids(), "nothing is left of it")
    said = (done.stdout + done.stderr).replace("\n", " ")
    return Ended(done.returncode, re.sub(r"\s+", " ", said))


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Node]:
    """A node that is not started."""
    with Node(tmp_path / "node", "rules: []\n", start=False) as node:
        yield node


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"RADNODE_AET=\xff\xfe\n", [".env cannot be read"]),
        (b"RADNODE PORT 11112\n", [".env:1: not understood"]),
        (b"# mine\nRADNODE_PROT=11112\n", [".env:2: unknown setting RADNODE_PROT", "did you mean RADNODE_PORT?"]),
        (b"RADNODE_MAX_PDU=much\n", [".env:1: RADNODE_MAX_PDU='much'"]),
        (b"RADNODE_TZ=Europe/Atlantis\n", ["RADNODE_TZ", "no time zone of that name"]),
        (b"RADNODE_AET=A_TITLE_OF_TOO_MANY_CHARACTERS\n", [".env:1: RADNODE_AET", "no AE title"]),
    ],
)
def test_a_bad_env_file_is_refused_with_the_line(idle: Node, content: bytes, words: list[str]) -> None:
    (idle.folder / ".env").write_bytes(content)
    radnode(idle, "up").refused(*words)


def test_an_env_file_that_is_a_folder_is_refused(idle: Node) -> None:
    (idle.folder / ".env").mkdir()
    radnode(idle, "up").refused(".env cannot be read")


def test_a_home_that_cannot_be_written_is_refused(idle: Node) -> None:
    idle.home.write_text("a file where a folder has to be")
    radnode(idle, "up").refused(f"RADNODE_HOME={idle.home} cannot be written")
    checked = radnode(idle, "check")
    assert checked.code == 1
    assert f"{idle.home} is no folder that can be written" in checked.said


def test_the_commands_that_look_say_where_there_is_no_node(idle: Node) -> None:
    for command in ("studies", "jobs"):
        radnode(idle, command).refused(f"no ledger in RADNODE_HOME={idle.home}", code=1)


@pytest.mark.parametrize("part", ["receive", "core", "work"])
def test_a_part_started_alone_needs_a_broker(idle: Node, part: str) -> None:
    radnode(idle, part).refused("REDIS_URL is not set", "radnode up")


def test_a_worker_for_an_unknown_queue_is_refused(idle: Node) -> None:
    env = {"REDIS_URL": "redis://127.0.0.1:1"}
    radnode(idle, "work", "--queues", "cpu,fast", env=env).refused("unknown queue", "fast", "cpu,gpu,deliver")
    radnode(idle, "work", "--queues", "", env=env).refused("queue", "cpu,gpu,deliver")


@pytest.mark.parametrize("variable", ["RADNODE_PORT", "RADNODE_HTTP_PORT"])
def test_a_port_in_use_ends_the_start(idle: Node, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        radnode(idle, "up", env={variable: str(port)}).refused(f"127.0.0.1:{port}", variable)


# ---- routing.yaml ----------------------------------------------------------------------------------------------------


def test_a_first_start_with_a_bad_routing_file_is_refused_with_the_line(idle: Node) -> None:
    idle.route("rules:\n  - name: one\n    whem: {Modality: CT}\n    send_to: []\n")
    radnode(idle, "up").refused("routing.yaml:3:", "did you mean when?", "radnode check")


def test_a_first_start_without_a_routing_file_is_refused(idle: Node) -> None:
    idle.routing.unlink()
    radnode(idle, "up").refused("routing.yaml", "RADNODE_ROUTING")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SinkPacs]:
    with SinkPacs(tmp_path_factory.mktemp("pacs")) as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pacs: SinkPacs) -> Iterator[Node]:
    """A node with an app that cannot be imported."""
    folder = tmp_path_factory.mktemp("bad")
    apps = apps_folder(folder / "apps", torn="import no_such_module\n", empty="")
    rules = "rules: [{name: everything, send_to: [a]}, {name: torn, app: torn, send_to: [a]}]\n"
    with Node(folder / "node", destinations(a=pacs) + QUICK + rules, apps=apps) as running:
        yield running
        print(running.output()[-20_000:])


BAD_EDITS = {
    "an unknown key": ("rules: [{name: one, send_to: [a], when_: {}}]", "when_"),
    "an unknown keyword": ("rules: [{name: one, send_to: [a], when: {Modalty: CT}}]", "did you mean Modality?"),
    "an unknown app": ("rules: [{name: one, send_to: [a], app: tset}]", "did you mean test?"),
    "an unknown option": ("rules: [{name: one, send_to: [a], app: test, options: {greting: x}}]", "greting"),
    "a bad option": ("rules: [{name: one, send_to: [a], app: test, options: {sleep: -1}}]", "sleep"),
    "an unknown destination": ("rules: [{name: one, send_to: [b]}]", "b"),
    "no YAML": ("rules: [{name: one", ""),
}


@pytest.mark.parametrize("edit", BAD_EDITS)
def test_a_bad_edit_is_refused_as_a_whole_and_the_routing_before_goes_on(
    node: Node, pacs: SinkPacs, tmp_path: Path, seed: int, edit: str
) -> None:
    good = destinations(a=pacs) + QUICK + FORWARD + f"# {edit}\n"
    apply(node, good)
    said = len(node.output())
    text, word = BAD_EDITS[edit]
    node.route(destinations(a=pacs) + QUICK + text + "\n")
    until(lambda: "routing file refused" in node.output()[said:], "the edit is refused")
    assert re.search(rf"routing\.yaml:\d+: .*{re.escape(word)}", node.output()[said:])
    until(lambda: metric(node, "radnode_routing_last_reload_successful") == 0, "the metric says so")
    settled(node, push(node, small_ct(tmp_path / "study", seed)))
    assert set(uids((tmp_path / "study").iterdir())) <= set(pacs.uids)
    assert word in node.cli("check", code=1)
    apply(node, good + "# mended\n")
    until(lambda: metric(node, "radnode_routing_last_reload_successful") == 1, "the metric says so")


def metric(node: Node, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", node.get("/metrics")[1], re.MULTILINE)
    assert found, name
    return float(found[1])


def test_a_node_whose_file_has_become_bad_starts_with_the_last_good_one(
    start_node: object, sink: SinkPacs, tmp_path: Path, seed: int
) -> None:
    node: Node = start_node(destinations(a=sink) + QUICK + FORWARD)  # type: ignore[operator]
    node.stop()
    node.route("rules: [{name: one, sendto: []}]\n")
    node.start()
    assert "routing file refused, the last good one stays in force" in node.output()
    assert "did you mean send_to?" in node.output()
    files = small_ct(tmp_path / "study", seed)
    settled(node, push(node, files))
    assert sorted(sink.uids) == uids(files)


# ---- apps and destinations -------------------------------------------------------------------------------------------


def test_the_node_starts_without_a_broken_app_and_says_so(
    node: Node, pacs: SinkPacs, tmp_path: Path, seed: int
) -> None:
    assert re.search(r'"app": "torn", "error": "ModuleNotFoundError: .*"event": "app broken"', node.output())
    broken = {each["name"]: each["broken"] for each in node.json("apps") if each["broken"]}
    assert set(broken) == {"torn", "empty"}
    assert "no_such_module" in broken["torn"]
    assert "no_such_module" in node.cli("check", code=1)
    rules = "rules: [{name: wiring, app: test, send_to: [a]}, {name: torn, app: torn, send_to: [a]}]\n"
    apply(node, destinations(a=pacs) + QUICK + rules)
    found = settled(node, push(node, small_ct(tmp_path / "study", seed)))
    assert [each["app"] for each in found["jobs"]] == ["test"]
    (reason,) = [why for (_, rule), (matched, why) in verdicts(found).items() if rule == "torn" and not matched]
    assert "no_such_module" in reason


def test_running_an_app_that_is_not_there_names_those_that_are(node: Node, tmp_path: Path) -> None:
    said = failed(node, "run", "tset", str(node.folder))
    assert "no app 'tset'" in said
    assert "hyperdense, test" in said
    assert "no_such_module" in failed(node, "run", "torn", str(node.folder))


def test_a_destination_that_does_not_answer_is_named_by_check_echo_and_the_delivery(
    node: Node, tmp_path: Path, seed: int
) -> None:
    port = free_port()
    nobody = f"destinations: {{nobody: {{aet: NOBODY, host: 127.0.0.1, port: {port}}}}}\n"
    apply(node, nobody + QUICK + "rules: [{name: away, send_to: [nobody]}]\n")
    reason = f"NOBODY at 127.0.0.1:{port} cannot be reached"
    assert reason in node.cli("check", "--echo", code=1)
    assert reason in failed(node, "echo", "nobody")
    assert reason in failed(node, "echo", f"NOBODY@127.0.0.1:{port}")
    uid = push(node, small_ct(tmp_path / "study", seed))
    assert reason in failed(node, "send", str(tmp_path / "study"), "--to", "nobody")
    waiting = until(lambda: _tried(node, uid), "it was tried")
    assert reason in waiting["error"]
    assert reason in node.cli("studies", uid)
    delivery_in(node, uid, "waiting", "nobody")


def failed(node: Node, *arguments: str) -> str:
    """What a command says on stderr that ends with exit code 1, on one line."""
    done = subprocess.run(  # noqa: PLW1510 - the exit code is looked at below
        [sys.executable, "-m", "radnode.cli", *arguments], cwd=node.folder, env=node.env, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def _tried(node: Node, uid: str) -> dict[str, str] | None:
    return next((each for each in study(node, uid)["deliveries"] if each["error"]), None)


# ---- closed by default -----------------------------------------------------------------------------------------------


def test_the_node_listens_for_dicom_and_on_this_machine_for_http_and_nowhere_else(node: Node) -> None:
    expected = {("127.0.0.1", node.port), ("127.0.0.1", node.http_port)}  # the tests set RADNODE_HOST
    assert listening(node.pids()) == expected
    assert "RADNODE_HTTP_HOST" not in node.env


def test_only_listed_senders_may_push(node: Node, pacs: SinkPacs, tmp_path: Path, seed: int) -> None:
    files = small_ct(tmp_path / "study", seed)
    listed = "senders: [{aet: CT1, host: 127.0.0.1}, {host: 192.0.2.0/24}]\n"
    apply(node, destinations(a=pacs) + listed + QUICK + "rules: []\n")
    until(lambda: _rejected(node, files, "CT2"), "the list is in force in the receivers")
    push(node, files, calling_aet="CT1")
    assert "association rejected" in node.output()
    apply(node, destinations(a=pacs) + QUICK + "rules: []\n")
    until(lambda: not _rejected(node, files, "CT2"), "this machine may push again")


def test_without_senders_only_this_machine_may_push(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.migrate()
    allowed = AllowedSenders(ledger)
    assert allowed("ANY", "127.0.0.1")
    assert allowed("ANY", "::1")
    for foreign in ("192.0.2.7", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.7", "no address"):
        assert not allowed("ANY", foreign), foreign


def _rejected(node: Node, files: list[Path], calling_aet: str) -> bool:
    try:
        return any(answer.status != 0 for answer in node.send(files, calling_aet=calling_aet))
    except PeerError as error:
        return "rejected" in str(error)


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket that these processes listen on."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(fd.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    found = set()
    for table, width in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                found.add((_address(address, width), int(port, 16)))
    return found


def _address(text: str, width: int) -> str:
    if width == 8:
        return socket.inet_ntop(socket.AF_INET, bytes.fromhex(text)[::-1])
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, width, 8)]
    return socket.inet_ntop(socket.AF_INET6, b"".join(words))
