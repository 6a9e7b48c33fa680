"""What is told about a job to the process that works on it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from radnode.domain.jobs import Assignment, SeriesLabel
from radnode.settings import Settings
from radnode.state.ledger import Ledger, Record, value


def assignment_of(
    job: Record, inputs: Mapping[str, Sequence[str]], settings: Settings, site: str, **more: Any
) -> Assignment:
    """Of a row of the ledger.

    Args:
        inputs: input name -> absolute paths.
        site: UID of the installation.
        more: what only some jobs have.
    """
    created = datetime.fromtimestamp(job.created_at, settings.zone).astimezone(settings.zone)
    return Assignment(
        job_id=job.id,
        app=job.app,
        app_version=job.app_version,
        level=job.level,
        options=job.options,
        inputs={name: list(paths) for name, paths in inputs.items()},
        created=created.isoformat(),
        label=SeriesLabel(**job.label),
        site_uid=site,
        station=settings.aet[0],
        models=settings.models,
        **more,
    )


def site_uid(ledger: Ledger) -> str:
    """Of this installation; made when it is first asked for."""
    with ledger.begin("site uid") as tx:
        return value(tx, "site_uid", f"2.25.{uuid.uuid4().int}")
