"""Tells the radiologist, by a page in the study, that there is no result where none came in time."""

from __future__ import annotations

import threading

from radnode import metrics
from radnode.domain.errors import RadnodeError
from radnode.domain.notice import lines_of, notice_id, reason_of
from radnode.run.remaking import NOTICE, Remaking
from radnode.settings import Settings
from radnode.state import jobs, notices
from radnode.state.ledger import Ledger, Record
from radnode.telemetry import log


class Notices:
    """Part of what a `deliver` ticket starts: apps that jam the other queues are a reason for it."""

    def __init__(self, settings: Settings, ledger: Ledger, owner: str, stopping: threading.Event) -> None:
        self._ledger, self._stopping = ledger, stopping
        self._remaking = Remaking(settings, ledger, owner)

    def drain(self) -> None:
        """Until none is due."""
        while not self._stopping.is_set():
            with self._ledger.begin("claim notice") as tx:
                row = notices.claim(tx, self._ledger.now())
                job = None if row is None else jobs.get(tx, row.job_id)
                if row is not None and job is not None and not notices.needed(job):
                    notices.end(tx, row.job_id)
            if row is None or job is None:
                return
            if notices.needed(job):
                self._tell(row, job)

    def _tell(self, row: Record, job: Record) -> None:
        reason = reason_of(job.state, job.error)
        lines = lines_of(job.app, job.app_version, row.seconds, reason)
        logger = log().bind(job=job.id[:12], study=job.study_id)
        try:
            made = self._remaking.made(notice_id(job.id), job, NOTICE, lines=lines, after=row.seconds)
        except RadnodeError as error:  # it is due again after its lease
            logger.error("notice cannot be made", error=str(error))
            return
        with self._ledger.begin("send notice") as tx:
            sent = notices.send(tx, job.id, reason, made)
        if sent:
            metrics.notices.labels(job.app).inc()
            logger.warning("notice sent: no result in time", reason=reason)
