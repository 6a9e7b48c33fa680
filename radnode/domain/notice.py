"""A page in the study that says that there is no result, where none came in time."""

from __future__ import annotations

from collections.abc import Mapping

from radnode.domain.jobs import JobState, successor_id

TITLE = "No result"
_REASONS: Mapping[str, str] = {
    JobState.WAITING: "it has not begun yet",
    JobState.RUNNING: "it is still at work",
    JobState.FAILED: "it failed",
    JobState.DECLINED: "it declined",
    JobState.HELD: "it is held until a person has looked",
}


def notice_id(job_id: str) -> str:
    """Identity of the job that stands for the notice: one for each job."""
    return successor_id("notice", 0, job_id)


def reason_of(state: str, error: str) -> str:
    """Why there is no result; what an app says when it declines is meant for readers, what it fails with is not."""
    reason = _REASONS[state]
    return f"{reason}: {error}" if state == JobState.DECLINED and error else reason


def lines_of(app: str, version: str, seconds: float, reason: str) -> list[str]:
    return [
        f"{app} {version} has given no result within {seconds / 60:g} minutes: {reason}.",
        "",
        "This says nothing about the images.",
        "If a result comes later, it takes the place of this page.",
    ]
