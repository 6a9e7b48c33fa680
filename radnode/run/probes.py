"""Asks destinations whether they answer, and sends them nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

from radnode.dicom.peer import Peer, echo
from radnode.dicom.stow import Service, WebClient
from radnode.domain.errors import PeerError
from radnode.domain.routing import Destination
from radnode.settings import Settings


def probe(place: Destination, settings: Settings) -> str:
    """Says that it answered: a C-ECHO, a query, or a look at the folder. Raises PeerError."""
    begun = time.perf_counter()
    if place.folder:
        _look(Path(place.folder))
        return f"{place} can be written"
    if place.url:
        client = WebClient(Service.of(place))
        try:
            client.find("studies", limit="1")
        finally:
            client.close()
    else:
        echo(Peer.of(place), calling_aet=settings.aet[0])
    return f"{place} answered in {(time.perf_counter() - begun) * 1000:.0f} ms"


def _look(folder: Path) -> None:
    if not folder.is_dir():
        raise PeerError(f"{folder} is not there", remedy="is it mounted?")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PeerError(f"{folder} cannot be written", remedy=f"make it writable for user {os.geteuid()}")
