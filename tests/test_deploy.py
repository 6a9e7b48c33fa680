"""The image, the Compose file and the systemd unit: linted, and run as far as that goes without a container engine."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from radnode import settings as settings_module
from radnode.telemetry import Health, serve_http

REPO = Path(__file__).parent.parent
DOCKERFILE = REPO / "Dockerfile"
COMPOSE = REPO / "docker-compose.yml"
ENV_EXAMPLE = REPO / "deploy/.env.example"
TOOLS = Path(sys.executable).parent
PARTS = ["receiver", "core", "worker", "deliverer"]


def run(*command: str | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, **kwargs)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, argument) pairs."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip().partition(" ") for line in text.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in lines]


def copied() -> list[str]:
    """What the Dockerfile takes from the clone."""
    sources = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    return [name for each in sources for name in each]


def compose() -> dict[str, Any]:
    """The Compose file, its variables replaced by their defaults."""
    loaded: dict[str, Any] = _filled_in(yaml.safe_load(COMPOSE.read_text()))
    return loaded


def _filled_in(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled_in(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled_in(each) for each in value]
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) if isinstance(value, str) else value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_dockerfile_has_no_lint() -> None:
    found = run(TOOLS / "hadolint", "--failure-threshold", "style", DOCKERFILE)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_is_built_in_two_stages_and_runs_as_nobody_special() -> None:
    words = [word for word, _ in instructions()]
    assert words.count("FROM") == 2
    assert [rest for word, rest in instructions() if word == "USER"] == ["10001:10001"]
    assert words.index("USER") < words.index("ENTRYPOINT")


def test_the_image_installs_the_way_scripts_setup_does() -> None:
    (install,) = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    steps = (REPO / "scripts/setup").read_text()
    arguments = shlex.split(install.partition("pip install")[2])
    assert arguments == ["--no-cache-dir", "--constraint", "requirements.lock", "."]
    assert "pip install" in steps and "--constraint requirements.lock" in steps
    assert "-m venv" in steps and any(word == "RUN" and "-m venv" in rest for word, rest in instructions())


def test_what_the_image_copies_is_let_in_and_makes_the_whole_package(tmp_path: Path) -> None:
    let_in = {line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied()) == let_in
    source = tmp_path / "source"
    source.mkdir()
    for name in copied():
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO / name, source / name)
    built = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    expected = {str(path.relative_to(source)) for path in (source / "radnode").rglob("*") if path.is_file()}
    assert expected <= set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture
def core_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of core's own health page."""
    port = free_port()
    server = serve_http(settings_module.load({"RADNODE_HTTP_PORT": str(port)}, Path("absent")), Health(dict))
    assert server is not None
    yield port
    server.shutdown()
    server.server_close()


def probe(command: list[str], **environment: str) -> int:
    """Runs a health check as the engine does; 0 is healthy."""
    assert command[0] == "python"
    proxies = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    return run(sys.executable, *command[1:], env={**os.environ, **proxies, **environment}).returncode


def test_the_image_is_healthy_while_core_answers_whatever_proxy_is_set(core_port: int) -> None:
    (check,) = [rest for word, rest in instructions() if word == "HEALTHCHECK"]
    command = json.loads(check.partition("CMD ")[2])
    assert probe(command, RADNODE_HTTP_PORT=str(core_port)) == 0
    assert probe(command, RADNODE_HTTP_PORT=str(free_port())) != 0


def test_a_load_balancer_may_ask_for_the_head_of_a_page_and_add_a_query(core_port: int) -> None:
    said = {}
    for method, path in [("GET", "/readyz"), ("HEAD", "/readyz"), ("HEAD", "/healthz?node=1"), ("HEAD", "/nothing")]:
        line = http.client.HTTPConnection("127.0.0.1", core_port, timeout=10)
        line.request(method, path)
        answer = line.getresponse()
        said[method, path] = answer.status, answer.getheader("Content-Length"), answer.read()
        line.close()
    _, length, body = said["GET", "/readyz"]
    assert said["HEAD", "/readyz"] == (200, length, b"") and length == str(len(body))
    assert [said["HEAD", path][0] for path in ("/healthz?node=1", "/nothing")] == [200, 404]


def test_the_receiver_is_healthy_while_its_port_answers() -> None:
    command = compose()["services"]["receiver"]["healthcheck"]["test"]
    with socket.create_server(("127.0.0.1", 0)) as door:
        assert probe(command[1:], RADNODE_PORT=str(door.getsockname()[1])) == 0
    assert probe(command[1:], RADNODE_PORT=str(free_port())) != 0


def test_the_compose_file_follows_the_compose_specification() -> None:
    found = run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert found.returncode == 0, found.stdout


@pytest.mark.skipif(not shutil.which("docker"), reason="no docker client: apt install docker.io")
def test_the_compose_file_is_a_stack_as_well() -> None:
    found = run("docker", "stack", "config", "--compose-file", COMPOSE)
    assert found.returncode == 0, found.stderr
    assert set(yaml.safe_load(found.stdout)["services"]) == set(compose()["services"])
    (warning,) = found.stderr.strip().splitlines()
    assert "ignoring IP-address (127.0.0.1:3000:3000/tcp)" in warning    # docs/deployment.md says so


def test_the_compose_file_keeps_to_what_a_stack_understands() -> None:
    loaded = compose()
    assert "name" not in loaded
    for service in loaded["services"].values():
        assert isinstance(service.get("depends_on", []), list)
        assert not {"restart", "container_name", "network_mode", "security_opt", "privileged"} & set(service)
        assert service["deploy"]["restart_policy"]["condition"] == "any"


def test_senders_reach_the_receiver_with_their_own_address() -> None:
    (port,) = compose()["services"]["receiver"]["ports"]
    assert (port["target"], port["mode"]) == (11112, "host")


def test_whoever_holds_a_volume_stays_on_one_host() -> None:
    loaded = compose()
    for service in loaded["services"].values():
        if any(mount.partition(":")[0] in loaded["volumes"] for mount in service.get("volumes", [])):
            assert service["deploy"]["placement"]["constraints"] == ["node.labels.radnode == true"]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_never_the_first_process_of_its_container_and_writes_nowhere_but_its_volume(part: str) -> None:
    service = compose()["services"][part]
    assert service["init"] and service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["volumes"] == ["spool:/var/lib/radnode", "./deploy/site:/etc/radnode:ro"]


def test_nothing_but_the_dicom_port_and_the_board_is_published() -> None:
    published = {name for name, service in compose()["services"].items() if "ports" in service}
    assert published == {"receiver", "grafana"}


def test_the_ledger_and_the_tickets_are_on_a_network_without_a_way_out() -> None:
    loaded = compose()
    assert loaded["networks"]["state"] == {"internal": True}
    assert [loaded["services"][name]["networks"] for name in ("postgres", "valkey")] == [["state"], ["state"]]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_accepts_the_settings_it_is_given(part: str, tmp_path: Path) -> None:
    image = dict(pair.split("=", 1) for word, rest in instructions() if word == "ENV" for pair in rest.split())
    given = {**image, **compose()["services"][part]["environment"]}
    secret = tmp_path / "database_url"
    secret.write_text("postgresql://radnode:secret@postgres:5432/radnode\n")
    given["DATABASE_URL_FILE"] = str(secret)
    loaded = settings_module.load(given, Path("absent"))
    assert (loaded.database_url, loaded.redis_url) == (secret.read_text().strip(), "redis://valkey:6379/0")
    assert (loaded.home, loaded.routing) == (Path("/var/lib/radnode"), Path("/etc/radnode/routing.yaml"))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_started_by_a_command_that_exists(part: str) -> None:
    command, *options = compose()["services"][part]["command"]
    shown = run(TOOLS / "radnode", command, "--help", env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.returncode == 0, shown.stderr
    assert all(option in shown.stdout for option in options if option.startswith("--"))


def test_every_variable_is_explained_in_the_example_or_a_setting() -> None:
    used = set(re.findall(r"\$\{(\w+):-", COMPOSE.read_text()))
    assert not re.findall(r"\$\{\w+\}", COMPOSE.read_text()), "a variable without a default"
    explained = set(re.findall(r"^(\w+)=", ENV_EXAMPLE.read_text(), flags=re.MULTILINE))
    known = {settings_module.variable(name) for name in settings_module.Settings.__dataclass_fields__}
    assert explained <= used
    assert used <= explained | known
    assert settings_module.load({}, ENV_EXAMPLE).tz == "Europe/Berlin"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze: apt install systemd")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    unit = (REPO / "deploy/systemd/radnode.service").read_text()
    unit = unit.replace("/opt/radnode/.venv/bin/radnode up", "/bin/true").replace("/opt/radnode", "/")
    (tmp_path / "radnode.service").write_text(unit)
    found = run("systemd-analyze", "verify", "--man=no", tmp_path / "radnode.service")
    assert (found.returncode, found.stderr) == (0, "")
