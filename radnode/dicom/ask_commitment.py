"""Storage Commitment as SCU: an N-ACTION, and the report where it comes on the same association (PS3.4 J.3)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from pydicom import Dataset
from pynetdicom import evt

from radnode.dicom.commitment import PROCESSING_FAILURE, Reference, Report
from radnode.dicom.negotiation import EXPLICIT_LE, STORAGE_COMMITMENT
from radnode.dicom.peer import IMPLICIT_VR_LITTLE_ENDIAN, Peer, Timeouts, associate, release
from radnode.dicom.services import COMMITMENT_INSTANCE, REQUEST_COMMITMENT
from radnode.domain.errors import PeerError

_CONTEXTS = [(STORAGE_COMMITMENT, syntax) for syntax in (EXPLICIT_LE, IMPLICIT_VR_LITTLE_ENDIAN)]
_TIMEOUTS = Timeouts(connect=10.0, association=15.0, response=60.0)
_PATIENCE = 1.0  # seconds for a report on this association: many peers use one of their own, later


def ask(
    peer: Peer,
    transaction_uid: str,
    references: Sequence[Reference],
    take: Callable[[Report], object],
    *,
    calling_aet: str,
) -> None:
    """Asks the peer to commit; returns when it has said that it will report.

    Args:
        take: keeps a report that comes at once; called by another thread.

    Raises PeerError.
    """
    reported = threading.Event()

    def report(event: evt.Event) -> tuple[int, None]:
        try:
            take(_report(event.event_information))
        except Exception:  # noqa: BLE001 - the ledger, or a broken data set: the peer reports again, or is asked again
            return PROCESSING_FAILURE, None
        reported.set()
        return 0x0000, None

    assoc = associate(
        peer, _CONTEXTS, calling_aet=calling_aet, timeouts=_TIMEOUTS, on=[(evt.EVT_N_EVENT_REPORT, report)]
    )
    try:
        if not assoc.accepted_contexts:
            remedy = "take `receipt: commitment` from its destination"
            raise PeerError(f"{peer} does not commit to storage", remedy=remedy, permanent=True)
        status, _ = assoc.send_n_action(
            _request(transaction_uid, references), REQUEST_COMMITMENT, STORAGE_COMMITMENT, COMMITMENT_INSTANCE
        )
        if status.get("Status") == 0x0000:
            reported.wait(_PATIENCE)
    except RuntimeError:  # the association has ended meanwhile
        raise PeerError(f"{peer} broke off") from None
    finally:
        release(assoc)
    if status.get("Status") != 0x0000:
        said = f"with 0x{status.Status:04X}" if "Status" in status else "nothing"
        raise PeerError(f"{peer} answered {said} when it was asked to commit to what it stored")


def _request(transaction_uid: str, references: Sequence[Reference]) -> Dataset:
    """Action information (PS3.4 table J.3-1)."""
    return Report(transaction_uid, tuple(references), ()).dataset()


def _report(ds: Any) -> Report:
    def pairs(keyword: str) -> list[Any]:
        return list(ds.get(keyword) or ())

    return Report(
        str(ds.TransactionUID),
        tuple((str(each.ReferencedSOPClassUID), str(each.ReferencedSOPInstanceUID)) for each in
              pairs("ReferencedSOPSequence")),
        tuple((str(each.ReferencedSOPClassUID), str(each.ReferencedSOPInstanceUID),
               int(each.get("FailureReason") or PROCESSING_FAILURE)) for each in pairs("FailedSOPSequence")),
    )  # fmt: skip
