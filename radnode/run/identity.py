"""Before results are sent: does the destination still know the study under the identity they carry?"""

from __future__ import annotations

import time
from pathlib import Path

from radnode.dicom.headers import read_attributes
from radnode.domain.errors import NotDicomError, PeerError
from radnode.domain.identity import COMPARED, differing
from radnode.domain.routing import Destination
from radnode.run import queries
from radnode.settings import Settings

_FORGET = 600.0  # seconds after which a destination that cannot be queried is tried again


class Identities:
    """Looks studies up where they can be looked up."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._mute: dict[str, float] = {}  # as a destination describes itself -> until when it is not asked

    def stale(self, place: Destination, file: Path) -> str:
        """Why `file` must not be sent as it is; empty where nothing speaks against it. Raises PeerError."""
        if place.identity == "ignore" or place.folder or self._mute.get(str(place), 0.0) > time.monotonic():
            return ""
        try:
            read = read_attributes(file, frozenset({*COMPARED, "StudyInstanceUID"}))
        except NotDicomError:  # an original with a broken header is forwarded as it came
            return ""
        ours = {keyword: "\\".join(map(str, values)) for keyword, values in read.items()}
        if not ours.get("StudyInstanceUID"):
            return ""
        try:
            theirs = queries.study(place, ours["StudyInstanceUID"], COMPARED, self._settings.aet[0])
        except PeerError as error:
            if not error.permanent:
                raise
            self._mute[str(place)] = time.monotonic() + _FORGET  # it answers no queries: nothing can be known
            return ""
        differs = differing(ours, theirs or {})
        return f"the study has another {' and '.join(differs)} there by now" if differs else ""
