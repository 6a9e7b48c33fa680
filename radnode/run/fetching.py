"""Fetches what a peer has and the node lacks: by C-MOVE to the node's own port, or by C-GET into the spool."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from radnode.dicom.headers import FileMeta, Head, examine
from radnode.dicom.negotiation import EXPLICIT_LE
from radnode.dicom.peer import IMPLICIT_VR_LITTLE_ENDIAN, Peer
from radnode.dicom.query import Fetched, get, move
from radnode.dicom.services import CANNOT_UNDERSTAND, DOES_NOT_MATCH, OUT_OF_RESOURCES
from radnode.domain.errors import NotDicomError, PeerError
from radnode.domain.routing import Destination
from radnode.state import intake
from radnode.state.arrivals import Arrival, AssociationEnd
from radnode.state.ledger import Ledger, note
from radnode.state.spool import Spool
from radnode.telemetry import log

_BATCH = 64
"""Instances asked for at once: a list of UIDs has to fit one request of any peer."""


@dataclass(frozen=True)
class Wanted:
    """Instances of one series that a peer has.

    Attributes:
        series_id: None where nothing of the series is here.
        called: the AE title of ours that they are to be sent to.
        kinds: (SOP class, transfer syntax) in which they may come by C-GET.
    """

    study_id: int
    series_id: int | None
    study_uid: str
    series_uid: str
    called: str
    kinds: Sequence[tuple[str, str]]
    uids: frozenset[str]


class Fetcher:
    """For one thread per peer."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger, self._spool = ledger, spool

    def fetch(self, destination: Destination, want: Wanted) -> int:
        """Has the peer send instances of a series; returns how many it has sent. It never raises PeerError."""
        peer = Peer.of(destination)
        completed, error = 0, ""
        try:
            wanted = sorted(want.uids)
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                keys = {
                    "StudyInstanceUID": want.study_uid,
                    "SeriesInstanceUID": want.series_uid,
                    "SOPInstanceUID": "\\".join(batch),
                }
                completed += self._batch(destination, peer, want, keys, frozenset(batch))
        except PeerError as fault:
            error = str(fault)
            log().warning("cannot fetch", destination=destination.name, study=want.study_id, error=error)
        with self._ledger.begin("fetched") as tx:
            note(
                tx,
                "fetched",
                study_id=want.study_id,
                series_id=want.series_id,
                destination=destination.name,
                by=destination.fetch,
                asked=len(want.uids),
                sent=completed,
                error=error,
            )
        return completed

    def _batch(
        self, destination: Destination, peer: Peer, want: Wanted, keys: dict[str, str], uids: frozenset[str]
    ) -> int:
        title = want.called
        if destination.fetch == "move":
            return move(peer, "IMAGE", keys, title, calling_aet=title).completed
        syntaxes = (EXPLICIT_LE, IMPLICIT_VR_LITTLE_ENDIAN)
        plain = ((sop_class, each) for sop_class, _ in want.kinds for each in syntaxes)
        contexts = dict.fromkeys([*want.kinds, *plain])
        taking = _Taking(self._spool, self._ledger.now, peer, title, uids)
        try:
            return get(peer, "IMAGE", keys, contexts, taking.take, calling_aet=title).completed
        finally:  # what is not recorded, because the process died, is found in the spool by the next one
            with self._ledger.begin("record fetched") as tx:
                intake.record(tx, taking.arrivals, [taking.end()])


@dataclass
class _Taking:
    """What comes by one C-GET, on its way into the spool; only what was asked for is taken."""

    spool: Spool
    clock: Callable[[], float]
    peer: Peer
    called: str
    uids: frozenset[str]
    association: str = field(default_factory=lambda: uuid.uuid4().hex)
    opened_at: float = field(default_factory=time.time)
    arrivals: list[Arrival] = field(default_factory=list)

    def take(self, each: Fetched) -> int:
        """Makes an instance durable; returns the status for it."""
        if each.sop_instance_uid not in self.uids:
            return DOES_NOT_MATCH
        meta = FileMeta(each.sop_class_uid, each.transfer_syntax_uid, self.peer.aet, self.called)
        start = meta.encode(each.sop_instance_uid)
        try:
            incoming = self.spool.open(start)
            try:
                incoming.write(each.data)
                head = examine(incoming.fd, len(start), incoming.size - len(start), each.transfer_syntax_uid)
                if head.sop_instance_uid != each.sop_instance_uid:
                    return DOES_NOT_MATCH
                self.arrivals.append(self._arrival(each, incoming.size, incoming.keep(), head))
            finally:
                incoming.discard()
        except NotDicomError:
            return CANNOT_UNDERSTAND
        except OSError:
            return OUT_OF_RESOURCES
        return 0x0000

    def end(self) -> AssociationEnd:
        return AssociationEnd(
            self.association, "released", self.peer.aet, self.called, self.peer.host,
            len(self.arrivals), self.opened_at, time.time(), self.clock(),
        )  # fmt: skip

    def _arrival(self, each: Fetched, size: int, path: str, head: Head) -> Arrival:
        return Arrival(
            path=path,
            sop_instance_uid=each.sop_instance_uid,
            sop_class_uid=each.sop_class_uid,
            series_uid=head.series_uid,
            study_uid=head.study_uid,
            transfer_syntax_uid=each.transfer_syntax_uid,
            size=size,
            received_at=time.time(),
            seen=self.clock(),
            calling_aet=self.peer.aet,
            called_aet=self.called,
            peer=self.peer.host,
            association=self.association,
            flaw=head.flaw,
        )
