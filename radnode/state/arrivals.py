"""What a receiver tells the ledger: instances that arrived, and associations that ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """One acknowledged instance.

    Attributes:
        path: of the Part 10 file, relative to the spool.
        received_at: seconds since the epoch, for people.
        seen: seconds on the host's boot-time clock, for quiet times.
        flaw: why it cannot be filed under a study (`no SeriesInstanceUID`, …); empty for a sound one.
        association: id of the association it came by; empty where a scan adopted the file.
        user_identity: the user name of user identity negotiation, where the peer sent one.
    """

    path: str
    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    study_uid: str
    transfer_syntax_uid: str
    size: int
    received_at: float
    seen: float
    calling_aet: str
    called_aet: str
    peer: str
    association: str
    flaw: str = ""
    user_identity: str = ""


@dataclass(frozen=True, slots=True)
class AssociationEnd:
    """How an association ended: `released`, `aborted` (by either side) or `lost` (time-out, connection gone).

    Attributes:
        seen: when, in seconds on the host's boot-time clock.
    """

    association: str
    how: str
    calling_aet: str
    called_aet: str
    peer: str
    instances: int
    opened_at: float
    closed_at: float
    seen: float = 0.0
