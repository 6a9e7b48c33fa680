"""Real peers for tests: DCMTK's storescp, Orthanc, and the node itself as its users start it. All on loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from radnode.dicom.scu import Answer, Peer, read_outgoing, send

REPO = Path(__file__).resolve().parents[1]
DATA = REPO.parent / "shared" / "data"
_PLACES = {  # where Debian keeps what is not on everybody's PATH
    "Orthanc": "/usr/sbin/Orthanc",
    "initdb": "/usr/lib/postgresql/*/bin/initdb",
    "postgres": "/usr/lib/postgresql/*/bin/postgres",
    "pg_ctl": "/usr/lib/postgresql/*/bin/pg_ctl",
    "libfaketime.so.1": "/usr/lib/*/faketime/libfaketime.so.1",
    "libOrthancDicomWeb.so": "/usr/share/orthanc/plugins/libOrthancDicomWeb.so",
}


def tool(name: str) -> str:
    """Path of an installed tool. Without it the test is skipped, and fails under CI=true."""
    path = shutil.which(name)
    if path is None and name in _PLACES:
        path = next((str(each) for each in sorted(Path("/").glob(_PLACES[name].lstrip("/")))), None)
    if path is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed: scripts/test installs it")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def real_data(name: str) -> list[Path]:
    """The .dcm files of one folder of the real data beside the clone; skips where there is none."""
    files = sorted((DATA / name).rglob("*.dcm"))
    if not files:
        pytest.skip(f"the real data set {name} is not here")
    return files


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
    """Waits for `condition` to hold and returns what it gave; fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"{timeout:.0f} s passed without: {what}")
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A child with its output in a file; ended with the `with` block."""

    def __init__(self, arguments: list[str], log: Path, *, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=dict(env) if env else None
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Waits for `condition`; fails with the output if the child ends before."""

        def holds() -> Any:
            if self.popen.poll() is not None:
                pytest.fail(f"{self.popen.args} ended with {self.popen.returncode}:\n{self.output()}")
            return condition()

        until(holds, what, timeout=115)

    def end(self, number: int = signal.SIGTERM, timeout: float = 30.0) -> int:
        """Signals the child and returns its exit code; kills it where the signal does not help."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


class Storescp:
    """DCMTK's storescp, writing what it gets into `folder`, bit for bit."""

    def __init__(self, folder: Path, *arguments: str, aet: str = "STORESCP") -> None:
        self.folder, self.aet, self.port = folder, aet, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        command = [tool("storescp"), "--aetitle", aet, "--bit-preserving", "--output-directory", str(folder)]
        self.process = Process([*command, *arguments, str(self.port)], folder.with_suffix(".log"), cwd=folder)
        self.process.wait_until(lambda: listens(self.port), "storescp listens")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.end()

    @property
    def peer(self) -> Peer:
        return Peer(self.aet, "127.0.0.1", self.port)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())


class Orthanc:
    """Debian's Orthanc: a real PACS that pushes studies and takes results. HTTP without password, on loopback."""

    def __init__(self, folder: Path, *, aet: str = "ORTHANC", settings: Mapping[str, Any] | None = None) -> None:
        self.aet, self.port, self.http_port = aet, free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "orthanc.json"
        config.write_text(json.dumps(self._config(folder) | dict(settings or {})))
        self.process = Process([tool("Orthanc"), str(config)], folder / "orthanc.log", cwd=folder)
        self.process.wait_until(self._ready, "Orthanc is ready")

    def _config(self, folder: Path) -> dict[str, Any]:
        return {
            "Name": self.aet,
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": self.aet,
            "DicomPort": self.port,
            "DicomAlwaysAllowFind": True,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": False,
            "StableAge": 1,
            "DicomModalities": {},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.end()

    @property
    def peer(self) -> Peer:
        return Peer(self.aet, "127.0.0.1", self.port)

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """One call of the REST API; `body` is bytes, or turned into JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        status, answer = _http(self.http_port, method, path, data)
        if status >= 300:
            raise AssertionError(f"Orthanc: {method} {path}: {status} {answer[:300]!r}")
        return answer

    def knows(self, name: str, aet: str, port: int) -> None:
        """Registers a modality on this host, to which it can then push."""
        self.request("PUT", f"/modalities/{name}", {"AET": aet, "Host": "127.0.0.1", "Port": port, "Timeout": 60})

    def upload(self, *files: Path) -> None:
        for each in files:
            self.request("POST", "/instances", each.read_bytes())

    def find(self, level: str, keyword: str, value: str) -> list[str]:
        """Orthanc's own identifiers of what matches."""
        found = json.loads(self.request("POST", "/tools/find", {"Level": level, "Query": {keyword: value}}))
        return [str(each) for each in found]

    def store_to(self, modality: str, study_uid: str) -> None:
        """Pushes a study over one association, and returns when it is through."""
        resources = self.find("Study", "StudyInstanceUID", study_uid)
        self.request("POST", f"/modalities/{modality}/store", {"Resources": resources, "Synchronous": True})

    def instances(self) -> list[str]:
        """SOP Instance UIDs of all it holds."""
        found = json.loads(self.request("GET", "/instances?expand"))
        return sorted(str(each["MainDicomTags"]["SOPInstanceUID"]) for each in found)

    def changes(self, kind: str) -> list[str]:
        """Orthanc's own identifiers of what has changed so, in the order of that, as often as it has."""
        found = json.loads(self.request("GET", "/changes?limit=10000"))
        return [str(each["ID"]) for each in found["Changes"] if each["ChangeType"] == kind]

    def download(self, sop_instance_uid: str) -> bytes:
        """The Part 10 file."""
        (found,) = self.find("Instance", "SOPInstanceUID", sop_instance_uid)
        return self.request("GET", f"/instances/{found}/file")

    def delete_study(self, study_uid: str) -> None:
        for each in self.find("Study", "StudyInstanceUID", study_uid):
            self.request("DELETE", f"/studies/{each}")

    def _ready(self) -> bool:
        try:
            return _http(self.http_port, "GET", "/system")[0] == 200 and listens(self.port)
        except OSError:
            return False


class Node:
    """The whole node as a user starts it: `radnode up`, with its own home, ports and routing file.

    `routing` is the text of routing.yaml, `env` adds variables. SIGINT ends it with the `with` block, and nothing of it
    may be left behind.
    """

    def __init__(
        self,
        folder: Path,
        routing: str,
        *,
        apps: Path = REPO / "apps",
        env: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.home, self.routing = folder, folder / "home", folder / "routing.yaml"
        self.log = folder / "node.log"
        self.aet, self.port, self.http_port = "RADNODE", free_port(), free_port()
        self.route(routing)
        own = {
            "RADNODE_HOME": str(self.home),
            "RADNODE_HOST": "127.0.0.1",
            "RADNODE_PORT": str(self.port),
            "RADNODE_HTTP_PORT": str(self.http_port),
            "RADNODE_ROUTING": str(self.routing),
            "RADNODE_APPS": str(apps),
            "RADNODE_RECEIVERS": "2",
            "RADNODE_WORKERS": "2",
        }
        self.env = _clean_environment() | own | dict(env or {})
        self.process: Process | None = None
        if start:
            self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def peer(self) -> Peer:
        return Peer(self.aet, "127.0.0.1", self.port)

    def route(self, text: str) -> None:
        """Replaces routing.yaml, as an editor does."""
        written = self.routing.with_suffix(".new")
        written.write_text(text)
        written.replace(self.routing)

    def start(self) -> None:
        self.process = Process([sys.executable, "-m", "radnode.cli", "up"], self.log, cwd=self.folder, env=self.env)
        self.process.wait_until(self.ready, "the node is ready")

    def ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of one of core's pages."""
        status, answer = _http(self.http_port, "GET", path)
        return status, answer.decode()

    def send(self, files: Iterable[Path], *, calling_aet: str = "MODALITY") -> list[Answer]:
        """Pushes files at the node over one association."""
        return list(send([read_outgoing(each) for each in files], self.peer, calling_aet=calling_aet))

    def cli(self, *arguments: str, code: int = 0) -> str:
        """Output of a radnode command, run beside the node with its settings; fails unless it exits with `code`."""
        command = [sys.executable, "-m", "radnode.cli", *arguments]
        done = subprocess.run(  # noqa: PLW1510 - the exit code is looked at below
            command, cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != code:
            said = done.stdout + done.stderr
            pytest.fail(f"radnode {' '.join(arguments)}: exit {done.returncode}, not {code}:\n{said}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.cli(*arguments, "--json"))

    def output(self) -> str:
        """All that the node has said, over its restarts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def pids(self) -> list[int]:
        """Processes of this node: all that were started with its home, whoever their parent is now."""
        marker = str(self.home).encode()
        return [pid for pid in _pids() if marker in _proc(pid, "environ") + _proc(pid, "cmdline")]

    def stop(self) -> None:
        """Ctrl-C. Fails if the node does not end cleanly, or leaves a process behind."""
        if self.process is None:
            return
        running = self.process.popen.poll() is None
        code = self.process.end(signal.SIGINT, timeout=90)  # receivers alone give their associations 30
        self.process = None
        try:
            until(lambda: not self.pids(), "no process of the node is left", timeout=10)
        except pytest.fail.Exception:
            left = [_proc(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace") for pid in self.pids()]
            pytest.fail(f"left of the node: {left}\n{self.output()[-3000:]}")
        finally:
            self._kill_all()
        if running and code != 0:
            pytest.fail(f"the node ended with {code} on SIGINT:\n{self.output()}")

    def kill(self) -> None:
        """SIGKILL to every process of the node, as a power cut would; to those also that were born meanwhile."""
        self._kill_all()
        if self.process:
            self.process.popen.wait()
        self.process = None
        until(lambda: self._kill_all() == 0, "the killed processes are gone", timeout=60)

    def _kill_all(self) -> int:
        pids = self.pids()
        kill_at_once(pids)
        return len(pids)


def _clean_environment() -> dict[str, str]:
    """This process' environment without settings of a node that runs beside the tests."""
    foreign = ("RADNODE_", "REDIS_URL", "DATABASE_URL")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}


def _http(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _pids() -> list[int]:
    return [int(each.name) for each in Path("/proc").glob("[0-9]*")]


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # gone, a zombie, or not ours
        return b""


def kill_at_once(pids: Iterable[int]) -> None:
    """SIGKILL to all of them, before one can see that another has died."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
