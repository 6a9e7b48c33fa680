"""What became of a job, as a mail with its report as a page: SMTP, plain or by TLS (RFC 5321, RFC 3207)."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any

from radnode.settings import Settings
from radnode.telemetry import log

_TIMEOUT = 30.0
_TEXTS = {
    "delivered": "results are delivered",
    "failed": "job failed",
    "declined": "app declined",
    "late": "images came late",
}


def mail(
    said: Mapping[str, Any], to: Sequence[str], created_at: float, page: bytes, settings: Settings
) -> EmailMessage:
    """The mail for one event: the same whenever it is made, so that a second copy is known by its Message-ID.

    Args:
        said: what a webhook would be told.
        page: a PDF; empty: there is none.
    """
    made = EmailMessage()
    made["Subject"] = f"radnode: {_TEXTS[said['event']]} ({said['rule']})"
    made["From"], made["To"] = settings.smtp_from, ", ".join(to)
    made["Date"], made["Message-ID"] = formatdate(created_at), f"<{said['id']}@radnode>"
    made["Auto-Submitted"] = "auto-generated"
    made.set_content("\n".join(f"{key}: {value}" for key, value in said.items() if value) + "\n")
    if page:
        made.add_attachment(page, maintype="application", subtype="pdf", filename="report.pdf")
    return made


def send(made: EmailMessage, settings: Settings) -> tuple[str, bool]:
    """What went wrong, and whether trying again is of no use; empty where the server has taken it for somebody."""
    try:
        with _connect(settings) as server:
            if settings.smtp_tls == "starttls":
                server.starttls(context=ssl.create_default_context())
            if settings.smtp_user:
                server.login(settings.smtp_user, settings.smtp_password)
            if refused := server.send_message(made):
                left_out = {address: code for address, (code, _) in refused.items()}
                log().warning("mail not taken for every recipient", refused=left_out, remedy="mend the rule's mail_to")
    except smtplib.SMTPAuthenticationError as error:  # a person will mend the setting
        return f"mail server refused the login: {error.smtp_code}", False
    except smtplib.SMTPRecipientsRefused as error:
        codes = sorted({code for code, _ in error.recipients.values()})
        return f"mail server refused every recipient: {codes}", min(codes) >= 500
    except smtplib.SMTPResponseException as error:
        return f"mail server answered {error.smtp_code}", error.smtp_code >= 500
    except (smtplib.SMTPException, OSError) as error:
        return f"mail: {type(error).__name__}: {error}"[:200], False
    return "", False


def _connect(settings: Settings) -> smtplib.SMTP:
    if settings.smtp_tls == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(settings.smtp_host, settings.smtp_port, timeout=_TIMEOUT, context=context)
    return smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=_TIMEOUT)
