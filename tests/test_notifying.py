"""Who is told of a job's end: a real web server gets each message once, signed, and again where it did not take it."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from radnode.run.notifying import Notifier
from radnode.settings import Settings, load
from radnode.state import claims, notifications, schema
from radnode.state.ledger import Ledger
from tests.databases import make_job, rows


class Hook:
    """A webhook that answers with the statuses it is told, the last one for ever."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        hook, left = self, list(statuses)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/told"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def hook(request: pytest.FixtureRequest) -> Iterator[Hook]:
    opened = Hook(*getattr(request, "param", (204,)))
    yield opened
    opened.close()


def settings(home: Path, hook: Hook | None, **more: Any) -> Settings:
    known = load({"RADNODE_HOME": str(home)}, home / "none")
    return replace(known, webhook_url=hook.url if hook else "", webhook_secret="key", **more)


def fail(ledger: Ledger, name: str, *, notify: tuple[str, ...] = ("failed",), shadow: bool = False) -> None:
    make_job(ledger, name, notify=notify, shadow=shadow)
    with ledger.begin() as tx:
        job = claims.claim(tx, "cpu", "worker-1")
        assert job is not None
        assert claims.fail(tx, job, "it broke")


def drain(ledger: Ledger, known: Settings) -> None:
    with ledger.begin() as tx:
        notifications.wake_all(tx)
    Notifier(known, ledger, "worker-1", threading.Event()).drain()


def test_a_failure_is_told_once_signed_and_without_the_patient(ledger: Ledger, tmp_path: Path, hook: Hook) -> None:
    fail(ledger, "j1")
    fail(ledger, "j2", notify=("delivered",))
    fail(ledger, "j3", shadow=True)
    for _ in range(2):
        drain(ledger, settings(tmp_path, hook))
    ((headers, body),) = hook.got
    said = json.loads(body)
    assert (said["event"], said["job"], said["reason"], said["rule"]) == ("failed", "j1", "it broke", "head")
    assert {"PatientID", "AccessionNumber"}.isdisjoint(said)
    assert headers["X-Radnode-Signature"] == f"sha256={hmac.new(b'key', body, hashlib.sha256).hexdigest()}"
    assert headers["X-Radnode-Id"] == said["id"]


@pytest.mark.parametrize("hook", [(503, 429, 200)], indirect=True)
def test_what_is_not_taken_is_told_again_under_the_same_id(ledger: Ledger, tmp_path: Path, hook: Hook) -> None:
    fail(ledger, "j1")
    for _ in range(4):
        drain(ledger, settings(tmp_path, hook, notify_identity=True))
    assert len({each["id"] for each in hook.messages()}) == 1
    assert len(hook.got) == 3
    assert "PatientID" in hook.messages()[0]
    assert [each.state for each in rows(ledger, schema.notification)] == ["sent"]


@pytest.mark.parametrize("hook", [(404,)], indirect=True)
def test_what_will_never_be_taken_is_parked_on_the_timeline(ledger: Ledger, tmp_path: Path, hook: Hook) -> None:
    fail(ledger, "j1")
    drain(ledger, settings(tmp_path, hook))
    assert [each.state for each in rows(ledger, schema.notification)] == ["parked"]
    (noted,) = (each.data for each in rows(ledger, schema.event) if each.kind == "notification parked")
    assert noted == {"about": "failed", "channel": "webhook", "error": "webhook answered 404"}


def test_a_claim_of_a_worker_that_died_is_taken_over_after_its_lease(ledger: Ledger) -> None:
    fail(ledger, "j1")
    now = ledger.now()
    with ledger.begin() as tx:
        dead = notifications.claim(tx, now)
        assert dead is not None
        assert notifications.claim(tx, now + 60) is None
        again = notifications.claim(tx, now + 121)
        assert again is not None
        assert not notifications.sent(tx, dead)
        assert notifications.sent(tx, again)
