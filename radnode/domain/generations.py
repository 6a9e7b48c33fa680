"""What becomes of a rule's work when its images change: pure decisions, carried out by `run/making.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from radnode.domain.jobs import JobState

Late = Literal["rerun", "ignore", "hold"]
"""What a rule does when images come after its job was made."""

LATE_IMAGES = "late images"


class Step(StrEnum):
    RUN = "run"
    HOLD = "hold"
    REISSUE = "reissue"
    LEAVE = "leave"


@dataclass(frozen=True)
class Asked:
    """A rule's work on a series or study, as the last job had it, or as the next one would.

    Attributes:
        images: SOP Instance UIDs.
        work: the identity of what is computed.
        made_by: app version and options.
        state: of the job; None: there is none yet.
        has_results: whether it left objects that could get another patient's name.
    """

    images: frozenset[str]
    work: str
    made_by: tuple[str, Mapping[str, Any]]
    state: JobState | None = None
    has_results: bool = False


def next_step(last: Asked, new: Asked, late: Late) -> tuple[Step, str]:
    """What to do about work that differs from the last job's, and why, in words for the timeline."""
    if not new.images <= last.images:
        return (Step.HOLD if late == "hold" else Step.RUN), LATE_IMAGES
    if new.work == last.work:
        return _corrected(last), "patient or study attributes were corrected"
    step = Step.HOLD if last.state is JobState.HELD else Step.RUN
    if new.images != last.images:
        return step, "images were rejected"
    if new.made_by == last.made_by:
        return step, "pixels or geometry were corrected"
    return step, "the rule or its app has changed"


def _corrected(last: Asked) -> Step:
    """The same computation for a corrected patient or study: its results are enough, where there are any."""
    match last.state:
        case JobState.DONE:
            return Step.REISSUE if last.has_results else Step.LEAVE
        case JobState.DECLINED | JobState.CANCELLED:
            return Step.LEAVE
        case JobState.HELD:
            return Step.HOLD
    return Step.RUN
