"""Asking a peer what it has, and for what is missing here: C-FIND, C-MOVE and C-GET as SCU, Study Root (PS3.4 annex C).

Whatever the peer does, an answer is bounded: in time, in number, and to what was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from radnode.dicom.negotiation import EXPLICIT_LE
from radnode.dicom.peer import IMPLICIT_VR_LITTLE_ENDIAN, MAX_CONTEXTS, Peer, Timeouts, associate, release
from radnode.domain.errors import PeerError

Level = Literal["STUDY", "SERIES", "IMAGE"]

IMPATIENT = Timeouts(connect=5.0, association=10.0, response=20.0)
MOST_ANSWERS = 100_000
_MAX_TEXT = 1024
_PENDING = (0xFF00, 0xFF01)  # PS3.4 C.4.1.1.4
_UNKNOWN_DESTINATION, _DOES_NOT_MATCH, _SOME_FAILED = 0xA801, 0xA900, 0xB000  # PS3.4 C.4.2.1.5
_FIND, _MOVE, _GET = (
    str(each)
    for each in (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelMove,
        StudyRootQueryRetrieveInformationModelGet,
    )
)


Ask = Callable[[], Iterator[tuple[Dataset, Dataset | None]]]


@dataclass(frozen=True)
class Fetched:
    """One instance that came by C-GET: its data set as it came, encoded in its transfer syntax."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: memoryview


@dataclass(frozen=True)
class Moved:
    """What a C-MOVE or C-GET came to, as the peer counts it."""

    completed: int
    failed: int


def find(
    peer: Peer,
    level: Level,
    keys: Mapping[str, str],
    wanted: Collection[str] = (),
    *,
    calling_aet: str = "RADNODE",
    timeouts: Timeouts = IMPATIENT,
    seconds: float = 60.0,
    most: int = MOST_ANSWERS,
) -> list[dict[str, str]]:
    """What the peer has: for each match the keys and what was wanted of it, as text; empty where it says nothing.

    Args:
        level: the query/retrieve level. Above it the keys name one study, or one series (PS3.4 C.4.1.2.2.1).
        keys: keyword -> what to match; several UIDs are joined by a backslash. An answer that names another UID than
            those asked for is passed over.
        wanted: further keywords to be answered.
        seconds: for all answers together; `timeouts.response` is for each.
        most: answers; a peer that gives more is not listened to.

    Raises PeerError.
    """
    ends = time.monotonic() + seconds
    answers: list[dict[str, str]] = []
    assoc = associate(peer, _contexts(_FIND), calling_aet=calling_aet, timeouts=timeouts)
    with _Open(peer, assoc, _FIND):
        request = _identifier(level, keys, wanted)
        for answer in _matches(peer, lambda: assoc.send_c_find(request, _FIND), ends):
            said = _read(peer, answer, (*keys, *wanted))
            if _asked_for(said, keys):
                answers.append(said)
            if len(answers) > most:
                raise PeerError(f"{peer} answered the C-FIND with more than {most} matches")
    return answers


def move(
    peer: Peer,
    level: Level,
    keys: Mapping[str, str],
    to: str,
    *,
    calling_aet: str = "RADNODE",
    timeouts: Timeouts = IMPATIENT,
    seconds: float = 600.0,
) -> Moved:
    """Has the peer send what the keys name to the AE title `to`, which it has to know. Raises PeerError."""
    assoc = associate(peer, _contexts(_MOVE), calling_aet=calling_aet, timeouts=timeouts)
    with _Open(peer, assoc, _MOVE):
        request = _identifier(level, keys)
        return _sub_operations(peer, lambda: assoc.send_c_move(request, to, _MOVE), time.monotonic() + seconds)


def get(
    peer: Peer,
    level: Level,
    keys: Mapping[str, str],
    contexts: Collection[tuple[str, str]],
    take: Callable[[Fetched], int],
    *,
    calling_aet: str = "RADNODE",
    timeouts: Timeouts = IMPATIENT,
    seconds: float = 600.0,
) -> Moved:
    """Has the peer send what the keys name on this same association.

    Args:
        contexts: (SOP class, transfer syntax) of what may come.
        take: keeps an instance and returns the status it is answered with.

    Raises PeerError.
    """
    proposed = [*_contexts(_GET), *contexts][:MAX_CONTEXTS]
    roles = [build_role(each, scp_role=True) for each in dict.fromkeys(sop_class for sop_class, _ in proposed[2:])]

    def store(event: evt.Event) -> int:
        return take(
            Fetched(
                str(event.request.AffectedSOPClassUID),
                str(event.request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
                event.request.DataSet.getbuffer(),
            )
        )

    assoc = associate(
        peer, proposed, calling_aet=calling_aet, timeouts=timeouts, ext_neg=roles, on=[(evt.EVT_C_STORE, store)]
    )
    with _Open(peer, assoc, _GET):
        request = _identifier(level, keys)
        return _sub_operations(peer, lambda: assoc.send_c_get(request, _GET), time.monotonic() + seconds)


class _Open:
    """An association on which a model may be asked; ended with the block, at once where that was left half-way."""

    def __init__(self, peer: Peer, assoc: Association, model: str) -> None:
        self._peer, self._assoc, self._model = peer, assoc, model

    def __enter__(self) -> None:
        if not any(each.abstract_syntax == self._model for each in self._assoc.accepted_contexts):
            release(self._assoc)
            raise PeerError(
                f"{self._peer} does not answer queries of this kind",
                remedy="does it allow us to query and retrieve? else take `query` and `fetch` from its destination",
                permanent=True,
            )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            release(self._assoc)
        elif self._assoc.is_established:
            self._assoc.abort()


def _contexts(model: str) -> list[tuple[str, str]]:
    return [(model, syntax) for syntax in (EXPLICIT_LE, IMPLICIT_VR_LITTLE_ENDIAN)]


def _identifier(level: Level, keys: Mapping[str, str], wanted: Collection[str] = ()) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword in wanted:
        setattr(ds, keyword, None)
    for keyword, value in keys.items():
        setattr(ds, keyword, value.split("\\") if "\\" in value else value)
    return ds


def _matches(peer: Peer, ask: Ask, ends: float) -> Iterator[Dataset]:
    """The identifiers of pending answers, until one says that it was the last. Raises PeerError."""
    for status, identifier in _exchange(peer, ask, ends):
        if status.Status not in _PENDING:
            if status.Status != 0x0000:
                raise _refusal(peer, status)
            return
        if identifier is None:
            raise PeerError(f"{peer} answered the C-FIND with what cannot be read")
        yield identifier


def _sub_operations(peer: Peer, ask: Ask, ends: float) -> Moved:
    """Waits for the last answer; that some sub-operations failed is a warning only (PS3.4 C.4.2.1.5)."""
    status = Dataset()
    for status, _ in _exchange(peer, ask, ends):
        if status.Status not in (*_PENDING, 0x0000, _SOME_FAILED):
            raise _refusal(peer, status)
    completed, failed = (status.get(f"NumberOf{each}Suboperations") for each in ("Completed", "Failed"))
    return Moved(int(completed or 0), int(failed or 0))


def _exchange(peer: Peer, ask: Ask, ends: float) -> Iterator[tuple[Dataset, Dataset | None]]:
    """(status, identifier) of each answer. Raises PeerError where one has no status, and where time is up."""
    try:
        for status, identifier in ask():
            if "Status" not in status:
                raise PeerError(f"{peer} did not answer in time, or not with what was asked for")
            yield status, identifier
            if time.monotonic() > ends:
                raise PeerError(f"{peer} took too long to answer")
    except RuntimeError:  # the association has ended meanwhile
        raise PeerError(f"{peer} broke off") from None


def _refusal(peer: Peer, status: Dataset) -> PeerError:
    remedies = {
        _UNKNOWN_DESTINATION: "it has to know our AE title, host and port, to send to us",
        _DOES_NOT_MATCH: "it does not answer queries of this kind",
    }
    comment = status.get("ErrorComment")
    said = f": {comment}" if comment else ""
    remedy = remedies.get(status.Status, "")
    return PeerError(f"{peer} answered with 0x{status.Status:04X}{said}", remedy=remedy, permanent=bool(remedy))


def _read(peer: Peer, answer: Dataset, keywords: Collection[str]) -> dict[str, str]:
    try:
        return {keyword: _text(answer.get(keyword))[:_MAX_TEXT] for keyword in keywords}
    except Exception as error:  # noqa: BLE001 - pydicom raises anything on broken bytes
        raise PeerError(f"{peer} answered the C-FIND with what cannot be read: {type(error).__name__}") from None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)


def _asked_for(said: Mapping[str, str], keys: Mapping[str, str]) -> bool:
    """Some peers answer with all they have; a UID they leave out is taken for the one that was asked for."""
    uids = (keyword for keyword in keys if keyword.endswith("UID"))
    return all(not said[each] or said[each] in keys[each].split("\\") for each in uids)
