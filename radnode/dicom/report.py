"""Storage Commitment: an N-EVENT-REPORT on an association of our own, as the SCP of it (PS3.4 J.3.3)."""

from __future__ import annotations

from pynetdicom import build_role

from radnode.dicom.commitment import Report
from radnode.dicom.negotiation import EXPLICIT_LE, STORAGE_COMMITMENT
from radnode.dicom.peer import IMPLICIT_VR_LITTLE_ENDIAN, Peer, Timeouts, associate, release
from radnode.dicom.services import COMMITMENT_INSTANCE
from radnode.domain.errors import PeerError

_CONTEXTS = [(STORAGE_COMMITMENT, syntax) for syntax in (EXPLICIT_LE, IMPLICIT_VR_LITTLE_ENDIAN)]
_TIMEOUTS = Timeouts(connect=10.0, association=15.0, response=60.0)


def send_report(report: Report, peer: Peer, *, calling_aet: str) -> None:
    """Returns when the peer has answered with 0x0000. Raises PeerError."""
    role = build_role(STORAGE_COMMITMENT, scp_role=True)
    assoc = associate(peer, _CONTEXTS, calling_aet=calling_aet, timeouts=_TIMEOUTS, ext_neg=[role])
    try:
        if not any(each.as_scp for each in assoc.accepted_contexts):
            raise PeerError(
                f"{peer} does not take reports of Storage Commitment", remedy="has it another port for them?"
            )
        status, _ = assoc.send_n_event_report(
            report.dataset(), report.event_type, STORAGE_COMMITMENT, COMMITMENT_INSTANCE
        )
    except RuntimeError:  # the association has ended meanwhile
        raise PeerError(f"{peer} broke off") from None
    finally:
        release(assoc)
    if "Status" not in status:
        raise PeerError(f"{peer} did not answer the N-EVENT-REPORT")
    if status.Status != 0x0000:
        raise PeerError(f"{peer} answered the N-EVENT-REPORT with 0x{status.Status:04X}")
