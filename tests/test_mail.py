"""Who is told by mail: a real SMTP server gets each mail once, with its page, and again where it did not take it."""

from __future__ import annotations

import email
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import pydicom
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from radnode.domain.routing import Destination
from radnode.run import notifying
from radnode.run.notifying import Notifier
from radnode.settings import Settings
from radnode.state import notifications, schema
from tests.databases import rows
from tests.keys import Keys
from tests.peers import free_port
from tests.sending import Desk
from tests.test_fallback import desk, job

__all__ = ["desk"]
USER, PASSWORD = "radnode", "sesame"


class Box:
    """What the server has taken; `answers` are given to the next mails, then they are taken."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.answers: list[str] = []
        self.unknown = ""

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        if address == self.unknown:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.answers:
            return self.answers.pop(0)
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 OK"


@contextmanager
def server(port: int, context: ssl.SSLContext | None = None) -> Iterator[Box]:
    box = Box()

    def login(_server: SMTP, _session: Any, _envelope: Any, _mechanism: str, given: LoginPassword) -> AuthResult:
        known = given.login, given.password
        return AuthResult(success=known == (USER.encode(), PASSWORD.encode()), handled=False)

    how = {"auth_require_tls": False, "authenticator": login, "tls_context": context, "require_starttls": bool(context)}
    running = Controller(box, hostname="127.0.0.1", port=port, **how)
    running.start()
    try:
        yield box
    finally:
        running.stop()


def settings(desk: Desk, port: int, **more: Any) -> Settings:
    here = {"smtp_host": "localhost", "smtp_port": port, "smtp_tls": "none", "smtp_from": "radnode@hospital.org"}
    return replace(desk.settings, **{**here, **more})


def drain(desk: Desk, known: Settings) -> list[str]:
    """Tells what is to be told, and returns the states afterwards."""
    with desk.ledger.begin() as tx:
        notifications.wake_all(tx)
    Notifier(known, desk.ledger, "worker-1", threading.Event()).drain()
    return [each.state for each in rows(desk.ledger, schema.notification)]


def deliver(desk: Desk, folder: Path) -> dict[str, Path]:
    """A job whose rule mails is delivered."""
    place = folder / "pacs"
    place.mkdir()
    desk.route(Destination("pacs", folder=str(place)))
    made = job(desk, folder, notify=("delivered",), mail_to=("one@hospital.org", "two@hospital.org"))
    desk.settle("delivered")
    return made


def test_a_report_is_mailed_once_as_a_page_without_the_patient(desk: Desk, tmp_path: Path) -> None:
    made = deliver(desk, tmp_path)
    port = free_port()
    assert drain(desk, settings(desk, port)) == ["waiting"]  # no server; and no webhook, which nobody asked for
    assert "Connection" in rows(desk.ledger, schema.notification)[0].error
    with server(port) as box:
        box.answers = ["451 later"]
        assert drain(desk, settings(desk, port)) == ["waiting"]
        for _ in range(2):
            assert drain(desk, settings(desk, port)) == ["sent"]
    (mail,) = box.mails
    assert (mail["From"], mail["To"]) == ("radnode@hospital.org", "one@hospital.org, two@hospital.org")
    assert mail["Subject"] == "radnode: results are delivered (head)"
    text, page = mail.get_payload()
    assert page.get_payload(decode=True).startswith(b"%PDF-")  # type: ignore[union-attr]
    assert "StudyInstanceUID: " in text.get_payload()  # type: ignore[union-attr, operator]
    report = pydicom.dcmread(made["sr"])
    for each in (report.PatientID, str(report.PatientName).partition("^")[0], "AccessionNumber"):
        assert each not in mail.as_string()


def test_a_recipient_whom_the_server_does_not_take_is_in_the_log(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(desk, tmp_path)
    port = free_port()
    with server(port) as box:
        box.unknown = "two@hospital.org"
        assert drain(desk, settings(desk, port)) == ["sent"]
    assert len(box.mails) == 1
    said = capsys.readouterr()
    (line,) = [each for each in (said.out + said.err).splitlines() if "mail not taken" in each]
    assert "two@hospital.org" in line
    assert "550" in line
    assert "one@hospital.org" not in line


def test_a_login_is_tried_again_and_a_refused_mail_is_parked(desk: Desk, tmp_path: Path) -> None:
    deliver(desk, tmp_path)
    port = free_port()
    with server(port) as box:
        known = settings(desk, port, smtp_user=USER, smtp_password="wrong", notify_identity=True)
        assert drain(desk, known) == ["waiting"]
        assert rows(desk.ledger, schema.notification)[0].error == "mail server refused the login: 535"
        box.answers = ["550 no"]
        assert drain(desk, replace(known, smtp_password=PASSWORD)) == ["parked"]
        assert box.mails == []
    assert desk.events("notification parked") == [
        {"about": "delivered", "channel": "mail", "error": "mail server answered 550"}
    ]


def test_a_worker_that_dies_after_sending_sends_the_same_mail_again_over_tls(
    desk: Desk, tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(desk, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*keys.of("node"))
    port = free_port()
    known = settings(desk, port, smtp_tls="starttls", smtp_user=USER, smtp_password=PASSWORD)
    with server(port, context) as box:
        assert drain(desk, known) == ["waiting"]
        assert "certificate verify failed" in rows(desk.ledger, schema.notification)[0].error
        monkeypatch.setenv("SSL_CERT_FILE", keys.authority)

        def die(_label: str) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(notifying, "point", die)
            drain(desk, known)
        assert drain(desk, known) == ["sent"]
        first, second = box.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Date"] == second["Date"]
