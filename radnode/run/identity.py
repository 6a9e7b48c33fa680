"""Before results are sent: does the destination still know the study under the identity they carry?"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from radnode.dicom.headers import read_attributes
from radnode.domain.errors import NotDicomError, PeerError
from radnode.domain.identity import KNOWN, corrections, differing
from radnode.domain.routing import Destination
from radnode.run import queries
from radnode.settings import Settings

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_FORGET = 600.0  # seconds after which a destination that cannot be queried is tried again


@dataclass(frozen=True)
class Stale:
    """Why results are not those of the study as a destination knows it, and what they have to say instead; nothing
    where that cannot be told."""

    reason: str
    corrections: dict[str, str] = field(repr=False)


class Identities:
    """Looks studies up where they can be looked up."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._mute: dict[str, float] = {}  # as a destination describes itself -> until when it is not asked

    def stale(self, place: Destination, file: Path, source: Path) -> Stale | None:
        """Why `file` must not be sent as it is; None where nothing speaks against it. Raises PeerError.

        Args:
            source: an image that the results were made from: a study that is unknown there may have moved with it.
        """
        if place.identity == "ignore" or place.folder or self._mute.get(str(place), 0.0) > time.monotonic():
            return None
        ours = _read(file, KNOWN)
        if not ours.get("StudyInstanceUID"):  # an original with a broken header is forwarded as it came
            return None
        try:
            known = queries.studies(place, ours["StudyInstanceUID"], KNOWN, self._settings.aet[0])
        except PeerError as error:
            if not error.permanent:
                raise
            self._mute[str(place)] = time.monotonic() + _FORGET  # it answers no queries: nothing can be known
            return None
        if not known:
            return self._moved(place, ours, _read(source, ()))
        differs = [differing(ours, theirs) for theirs in known]
        if () in differs:
            return None
        reason = f"the study has another {' and '.join(differs[0])} there by now"
        if len(known) > 1:  # it cannot be told whose these results are
            return Stale(f"{reason}, and is there {len(known)} times", {})
        return Stale(reason, corrections(ours, known[0]))

    def _moved(self, place: Destination, ours: Mapping[str, str], source: Mapping[str, str]) -> Stale | None:
        if not (source.get("SeriesInstanceUID") and source.get("SOPInstanceUID")):
            return None
        image = source["SeriesInstanceUID"], source["SOPInstanceUID"]
        try:
            theirs = queries.moved(place, ours.get("AccessionNumber", ""), *image, KNOWN, self._settings.aet[0])
        except PeerError as error:
            if not error.permanent:
                raise
            return None  # it answers no such queries
        if theirs is None:
            return None
        better = {"StudyInstanceUID": theirs["StudyInstanceUID"], **corrections(ours, theirs)}
        return Stale("its images are in another study there by now", better)


def _read(file: Path, keywords: Collection[str]) -> dict[str, str]:
    """Attributes of a file, and its UIDs; none where it cannot be read."""
    try:
        read = read_attributes(file, frozenset((*keywords, *_UIDS)))
    except NotDicomError:
        return {}
    return {keyword: "\\".join(map(str, values)) for keyword, values in read.items()}
