"""Logs (structlog), metrics (Prometheus, over all processes of the node) and the health page."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import Processor

from radnode.domain.errors import SettingsError
from radnode.settings import Settings
from radnode.state.presence import Presence

_MULTIPROC = "PROMETHEUS_MULTIPROC_DIR"
_KINDS = ("counter", "histogram", "gauge_livesum", "gauge_mostrecent")
_METRICS_ROOM = 128 * 1024
_SELDOM, _LINES_KEPT = 60.0, 1000


def set_up(settings: Settings, part: str) -> None:
    """Logs and metrics of this process. Call it before anything imports `radnode.metrics`.

    The counts of a process lie in files named for its part and the lowest number no living process of that part has:
    a restarted part goes on with the counts of the dead one, so that none go back to zero and no file is left over.
    """
    _set_up_logs(settings, part)
    folder = _folder(settings)
    name = _claim_name(folder, part)
    for stale in folder.glob(f"gauge_*_{name}.db"):
        stale.unlink(missing_ok=True)
    for kind in _KINDS:
        _reserve(folder / f"{kind}_{name}.db")
    os.environ[_MULTIPROC] = str(folder)
    from prometheus_client import values  # noqa: PLC0415 - it looks for the folder when it is imported

    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: name)  # type: ignore[no-untyped-call]


def _folder(settings: Settings) -> Path:
    return settings.run / "metrics"


def _reserve(file: Path) -> None:
    """Has the disk's room for a file of metrics. They are written through a map: a hole in it would be a SIGBUS, once
    the disk is full."""
    with file.open("ab") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, max(_METRICS_ROOM, os.fstat(opened.fileno()).st_size))


def _claim_name(folder: Path, part: str) -> str:
    """Locks a name for as long as this process lives."""
    for number in itertools.count():
        try:
            _claimed.append(Presence(folder, f"{part}-{number}"))
        except BlockingIOError:
            continue
        return f"{part}-{number}"
    raise AssertionError("unreachable")


_claimed: list[Presence] = []


def log(name: str = "radnode") -> Any:
    """A logger; bind `study=correlation(uid)` and never a name, an ID or a UID of a patient above DEBUG."""
    return structlog.get_logger(name)


def _set_up_logs(settings: Settings, part: str) -> None:
    human = settings.log_format == "human" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        lambda _logger, _method, event: {"part": part, **event},  # a context variable would not reach other threads
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if human else "iso", utc=not human),
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=28)]
        if human
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    _set_up_logs_of_others([*shared, structlog.stdlib.add_logger_name], last)


def _set_up_logs_of_others(shared: list[Processor], last: list[Processor]) -> None:
    """What libraries say, from ERROR on: in the same form as all other lines.

    pydicom's warnings hold values of patients. What pynetdicom calls an error, such as a peer that answers no queries,
    we judge, and say, ourselves.
    """
    handler = logging.StreamHandler(_Stderr())
    handler.setLevel(logging.ERROR)
    handler.addFilter(_Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.ERROR, force=True)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


class _Seldom(logging.Filter):
    """Of equal lines one a minute: Dramatiq says several times a second, for hours, that a server is away."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        line, now = (record.name, record.getMessage()), time.monotonic()
        if now < self._said.get(line, 0.0):
            return False
        if len(self._said) >= _LINES_KEPT:
            self._said.clear()
        self._said[line] = now + _SELDOM
        return True


class _Stderr:
    """Standard error, for logs. What it does not take, since the disk behind it is full or nobody reads it any more, is
    lost: no association and no job ends for that."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


class Health:
    """What `/healthz` and `/readyz` answer: the process lives; the node can do its work (name -> fault, or empty)."""

    def __init__(self, readiness: Callable[[], dict[str, str]]) -> None:
        self.readiness = readiness


def serve_http(settings: Settings, health: Health) -> ThreadingHTTPServer | None:
    """`/metrics`, `/healthz` and `/readyz` in a thread of their own. Raises SettingsError where the port is taken."""
    if settings.http_port == 0:
        return None
    handler = type("Handler", (_Handler,), {"health": health, "folder": _folder(settings)})
    try:
        server = ThreadingHTTPServer((settings.http_host, settings.http_port), handler)
    except OSError as error:
        where = f"{settings.http_host}:{settings.http_port}"
        raise SettingsError(
            f"cannot serve /metrics at {where}: {error.strerror}",
            remedy="set RADNODE_HTTP_PORT to a free port, or to 0",
        ) from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    health: Health
    folder: Path

    def do_HEAD(self) -> None:
        """As load balancers ask."""
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, "text/plain; version=0.0.4; charset=utf-8", _exposition(self.folder))
        elif path == "/healthz":
            self._answer(200, "application/json", b'{"state": "alive"}')
        elif path == "/readyz":
            faults = {name: fault for name, fault in self.health.readiness().items() if fault}
            body = {"state": "not ready" if faults else "ready", "faults": faults}
            self._answer(503 if faults else 200, "application/json", json.dumps(body).encode())
        else:
            self._answer(404, "text/plain", b"/metrics, /healthz, /readyz\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Probes every few seconds are no news."""


def _exposition(folder: Path) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess  # noqa: PLC0415 - see set_up

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return bytes(generate_latest(registry))


def forget_metrics(settings: Settings) -> None:
    """At the start of the whole node: nothing runs, so every count starts at zero."""
    for path in _folder(settings).glob("*.db"):
        path.unlink(missing_ok=True)
