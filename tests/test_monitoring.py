"""Metrics, alerts and the board agree with one another, and a real Prometheus understands them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import prometheus_client
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REPO = Path(__file__).parent.parent
PROMETHEUS = REPO / "deploy/prometheus"
GRAFANA = REPO / "deploy/grafana"
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool: apt install prometheus")
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus: apt install prometheus")


KINDS = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


class Described(NamedTuple):
    kind: str
    labels: tuple[str, ...]


def documented() -> dict[str, Described]:
    """The tables of docs/metrics.md: metric -> its type and labels."""
    rows = re.findall(r"^\| `(radnode_\w+)` \| (\w+) \|([^|]*)\|", (REPO / "docs/metrics.md").read_text(), re.MULTILINE)
    return {name: Described(kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows}


def alerts() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    return rules


def board() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GRAFANA / "dashboards/radnode.json").read_text())
    return loaded


def queries() -> list[tuple[str, str, str]]:
    """(panel, query, legend) of everything the board asks."""
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "1m"), target["legendFormat"])
        for panel in board()["panels"]
        for target in panel.get("targets", [])
    ]


def named_in(expression: str) -> set[str]:
    return {re.sub("_bucket$", "", name) for name in re.findall(r"\bradnode_\w+", expression)}


def test_the_documented_metrics_are_those_the_node_has() -> None:
    code = (
        "import json, prometheus_client.metrics as kinds, radnode.metrics as m\n"
        "found = [each for each in vars(m).values() if isinstance(each, kinds.MetricWrapperBase)]\n"
        "print(json.dumps([[each._name, each._type, each._labelnames] for each in found]))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PROMETHEUS_MULTIPROC_DIR"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert shown.returncode == 0, shown.stderr
    found = {
        name + ("_total" if kind == "counter" else ""): Described(kind, tuple(labels))
        for name, kind, labels in json.loads(shown.stdout)
    }
    assert documented() == found


def test_alerts_and_board_name_only_documented_metrics_and_the_board_shows_them_all() -> None:
    alerted = set().union(*(named_in(alert["expr"]) for alert in alerts()))
    shown = set().union(*(named_in(query) for _, query, _ in queries()))
    assert alerted <= set(documented())
    assert shown == set(documented())


def test_every_alert_is_documented_with_its_severity_and_says_what_to_do() -> None:
    text = (REPO / "docs/metrics.md").read_text()
    rows = dict(re.findall(r"^\| `(Radnode\w+)` \|[^|]*\| (\w+) \|", text, re.MULTILINE))
    assert rows == {alert["alert"]: alert["labels"]["severity"] for alert in alerts()}
    assert all(set(alert["annotations"]) == {"summary", "description"} for alert in alerts())


@needs_promtool
def test_prometheus_accepts_its_configuration() -> None:
    found = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert found.returncode == 0, found.stderr


@needs_promtool
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    cases = PROMETHEUS / "alerts.test.yml"
    found = promtool("test", "rules", cases)
    assert found.returncode == 0, found.stdout
    expected = [each for test in yaml.safe_load(cases.read_text())["tests"] for each in test["alert_rule_test"]]
    fired = {each["alertname"] for each in expected if each["exp_alerts"]}
    kept_quiet = {each["alertname"] for each in expected if not each["exp_alerts"]}
    assert fired == kept_quiet == {alert["alert"] for alert in alerts()}


def test_grafana_finds_the_board_and_its_source() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/radnode.yml").read_text())["providers"]
    services = yaml.safe_load((REPO / "docker-compose.yml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    asked = [target["datasource"]["uid"] for panel in board()["panels"] for target in panel.get("targets", [])]
    assert set(asked) == {source["uid"]}
    assert len({panel["id"] for panel in board()["panels"]}) == len(board()["panels"])


class Played:
    """Every documented metric with every label, moving."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for name, (kind, labels) in documented().items():
            metric = KINDS[kind](name, name, labels, registry=None)
            for value in self.values(name, labels):
                self.move(metric.labels(*value) if labels else metric)
            self.registry.register(metric)

    @staticmethod
    def values(name: str, labels: tuple[str, ...]) -> list[tuple[str, ...]]:
        if "event" in labels:
            return [("rejected", "calling AE title"), ("aborted", "by the sender")]
        states = ["waiting", "sending", "parked"] if name == "radnode_deliveries" else ["waiting", "failed"]
        return [tuple(state if label == "state" else f"a {label}" for label in labels) for state in states]

    @staticmethod
    def move(metric: Counter | Gauge | Histogram) -> None:
        if isinstance(metric, Histogram):
            metric.observe(0.3)
        else:
            metric.inc()


class Server:
    """A real Prometheus that scrapes the played node."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> list[dict[str, str]]:
        """The label sets a query answers with."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return [each["metric"] for each in json.load(answer)["data"]["result"]]

    def wait_for(self, query: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if self.ask(query):
                    return
            except OSError:
                pass    # not yet listening
            time.sleep(0.2)
        pytest.fail(f"Prometheus has no answer to {query}")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prometheus")
    exporter, thread = prometheus_client.start_http_server(0, "127.0.0.1", Played().registry)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{exporter.server_port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    # The alerts as shipped, without their delays.
    (folder / "alerts.yml").write_text(re.sub(r"\n +for: \w+", "", (PROMETHEUS / "alerts.yml").read_text()))
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
               f"--web.listen-address={address}", "--log.level=warn"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server = Server(f"http://{address}")
        server.wait_for("count_over_time(radnode_info[1m]) > 2")
        yield server
    finally:
        process.kill()
        process.wait()
        exporter.shutdown()
        exporter.server_close()
        thread.join()


@needs_prometheus
def test_every_line_of_the_board_has_an_answer_that_fills_its_legend(prometheus: Server) -> None:
    prometheus.wait_for("ALERTS")
    for panel, query, legend in queries():
        answer = prometheus.ask(query)
        assert answer, f"{panel}: {query}"
        for label in re.findall(r"{{(\w+)}}", legend):
            assert all(label in series for series in answer), f"{panel}: {query} has no {label}"


@needs_prometheus
def test_a_failed_job_and_a_parked_delivery_reach_prometheus_as_alerts(prometheus: Server) -> None:
    prometheus.wait_for('ALERTS{alertname="RadnodeJobsFailed", alertstate="firing"}')
    prometheus.wait_for('ALERTS{alertname="RadnodeDeliveriesParked", alertstate="firing", destination="a destination"}')
