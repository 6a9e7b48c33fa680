"""Tells others what became of a job by webhook and mail: retried, each once or again under the same id."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from datetime import datetime
from typing import Any

import httpx

from radnode import metrics
from radnode.domain.errors import RadnodeError
from radnode.run.mail import mail, send
from radnode.run.substitutes import Substitutes
from radnode.settings import Settings
from radnode.state import jobs, notifications
from radnode.state.crash import point
from radnode.state.ledger import Ledger, Record
from radnode.telemetry import log

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_SIGNATURE, _ID = "X-Radnode-Signature", "X-Radnode-Id"
_TRANSIENT = {408, 425, 429}


class Notifier:
    """Part of what a `deliver` ticket starts."""

    def __init__(self, settings: Settings, ledger: Ledger, owner: str, stopping: threading.Event) -> None:
        self._settings, self._ledger, self._stopping = settings, ledger, stopping
        self._substitutes = Substitutes(settings, ledger, owner)

    def drain(self) -> None:
        """Until there is nothing to tell now."""
        while not self._stopping.is_set():
            with self._ledger.begin("claim notification") as tx:
                row = notifications.claim(tx, self._ledger.now())
            if row is None:
                return
            self._tell(row)

    def _tell(self, row: Record) -> None:
        with self._ledger.read() as tx:
            job, study = jobs.get(tx, row.job_id), jobs.study_of(tx, row.job_id)
        if row.channel == notifications.WEBHOOK and job.mail_to and not self._settings.webhook_url:
            with self._ledger.begin("nobody to notify") as tx:
                notifications.drop(tx, row)
            return
        said = message(row, job, study, self._settings)
        tell = self._mail if row.channel == notifications.MAIL else self._post
        fault, permanent = tell(row, job, said)
        point("notified")
        if not fault:
            with self._ledger.begin("notification sent") as tx:
                notifications.sent(tx, row)
            metrics.notifications.labels(row.event, "sent").inc()
            return
        with self._ledger.begin("notification failed") as tx:
            state = notifications.failed(tx, row, fault, self._ledger.now(), permanent=permanent)
        metrics.notifications.labels(row.event, "parked" if state == notifications.PARKED else "retried").inc()
        log().warning(
            "notification not taken",
            job=row.job_id[:12],
            about=row.event,
            channel=row.channel,
            error=fault,
            attempts=row.attempt,
        )

    def _mail(self, row: Record, job: Record, said: dict[str, Any]) -> tuple[str, bool]:
        if not self._settings.smtp_host:
            return "RADNODE_SMTP_HOST is not set", True
        page = b""
        if row.event == "delivered":
            try:
                page = self._substitutes.page_of(job.id, with_identity=self._settings.notify_identity)
            except RadnodeError as error:
                said["attachment"] = f"none: {error}"
        return send(mail(said, job.mail_to, row.created_at, page, self._settings), self._settings)

    def _post(self, row: Record, job: Record, said: dict[str, Any]) -> tuple[str, bool]:
        """What went wrong, and whether trying again is of no use; empty where it was taken."""
        if not self._settings.webhook_url:
            return "WEBHOOK_URL is not set", True
        body = json.dumps(said, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", _ID: f"{row.job_id}-{row.id}"}
        if self._settings.webhook_secret:
            signature = hmac.new(self._settings.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
            headers[_SIGNATURE] = f"sha256={signature}"
        try:
            answer = httpx.post(self._settings.webhook_url, content=body, headers=headers, timeout=_TIMEOUT)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"webhook: {type(error).__name__}", False
        code = answer.status_code
        return ("", False) if answer.is_success else (f"webhook answered {code}", code < 500 and code not in _TRANSIENT)


def message(row: Record, job: Record, study: Record, settings: Settings) -> dict[str, Any]:
    """What is told: nothing that names the patient, unless the settings allow it."""
    said = {
        "id": f"{row.job_id}-{row.id}",
        "event": row.event,
        "at": datetime.fromtimestamp(row.created_at).astimezone(settings.zone).isoformat(timespec="seconds"),
        "job": job.id,
        "rule": job.rule,
        "app": job.app,
        "app_version": job.app_version,
        "StudyInstanceUID": study.study_instance_uid,
        "destination": row.detail if row.event == "delivered" else "",
        "reason": row.reason,
    }
    if settings.notify_identity:
        said |= {"AccessionNumber": study.accession_number, "PatientID": study.patient_id}
    return said
