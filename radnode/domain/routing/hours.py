"""Parts of the day in which jobs may start."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, tzinfo


@dataclass(frozen=True)
class Hours:
    """A part of the day, over midnight where it starts later than it ends."""

    start: time
    end: time

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"

    @classmethod
    def of(cls, text: str) -> Hours:
        """From what `str` makes of them."""
        return cls(*map(time.fromisoformat, text.split("-")))

    def open_at(self, local: time) -> bool:
        """Whether jobs may start at this time of day: from the start on, up to but not at the end."""
        after, before = local >= self.start, local < self.end
        return (after and before) if self.start < self.end else (after or before)

    def open_when(self, at: float, zone: tzinfo | None) -> bool:
        """The same for a moment, in seconds since the epoch; zone None: the system's."""
        return self.open_at(datetime.fromtimestamp(at, zone).time())
