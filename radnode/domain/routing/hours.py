"""Parts of the day in which jobs may start."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time


@dataclass(frozen=True)
class Hours:
    """A part of the day, over midnight where it starts later than it ends; in the node's time zone."""

    start: time
    end: time

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


def open_at(run_between: Hours | None, local_time: time) -> bool:
    """Whether jobs may start at this time of day: from the start on, up to but not at the end. None: always."""
    if run_between is None:
        return True
    after, before = local_time >= run_between.start, local_time < run_between.end
    return (after and before) if run_between.start < run_between.end else (after or before)
