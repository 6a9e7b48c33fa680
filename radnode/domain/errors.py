"""Every error radnode raises on purpose: one tree, each with what went wrong, where, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class RadnodeError(Exception):
    """Base of all errors a user, a peer or an app can cause.

    Args:
        message: what is wrong, naming the file, line, setting or peer.
        remedy: what the reader can do about it.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.remedy}" if self.remedy else self.message


class SettingsError(RadnodeError):
    """A setting in `.env` or the environment cannot be used."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file: `line` counts from 1, 0 where no line can be named."""

    source: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.message}" if self.line else f"{self.source}: {self.message}"


class RoutingError(RadnodeError):
    """`routing.yaml` was refused as a whole; `problems` lists every reason with its line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), remedy="correct the lines above, then `radnode check`")


class AppUnknownError(RadnodeError):
    """No app of that name is installed, or it is broken."""


class OptionsError(RadnodeError):
    """Options an app does not take, or not with that value.

    Args:
        faults: option -> what is wrong with it, where the options at fault are known.
    """

    def __init__(self, message: str, *, remedy: str = "", faults: Mapping[str, str] | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.faults = dict(faults or {})


class NotDicomError(RadnodeError):
    """A file is not a DICOM Part 10 file, or is cut short."""


class GeometryError(RadnodeError):
    """The images of a series do not make one volume."""


class PixelsError(RadnodeError):
    """Pixel data that no decoder here can read."""


class ModelError(RadnodeError):
    """A model that is not there, does not answer in time, or is not what the app was made for."""


class ResultError(RadnodeError):
    """A result that must not be sent: it is invalid, or belongs to another patient or study."""


class PeerError(RadnodeError):
    """A DICOM peer could not be reached, refused, or broke off.

    Args:
        permanent: True where trying again cannot help (rejected-permanent, no presentation context accepted).
    """

    def __init__(self, message: str, *, remedy: str = "", permanent: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.permanent = permanent


class SpoolError(RadnodeError):
    """The spool cannot be written or read."""


class LedgerError(RadnodeError):
    """The ledger cannot be opened, or has a schema this version does not know."""


class NewerLedgerError(LedgerError):
    """The ledger was made by a newer radnode: starting again cannot help."""


class BrokerError(RadnodeError):
    """Redis/Valkey cannot be reached or started."""


class NotFoundError(RadnodeError):
    """No study, job or delivery goes by that name."""


class Declined(RadnodeError):  # noqa: N818 - the word app authors use: an outcome, not a fault
    """Raised by an app whose input does not suit it: no retry, no alarm, the reason on the timeline."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean x?` for the end of a message; empty where nothing known is close."""
    if len(given) > _LONGEST_NAME:
        return ""
    folded = {each.casefold(): each for each in known}
    close = get_close_matches(given.casefold(), folded, 1)
    return f"; did you mean {folded[close[0]]}?" if close else ""


_LONGEST_NAME = 64
