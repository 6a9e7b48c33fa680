"""Asks destinations whether they answer, and sends them nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from radnode.dicom.peer import Peer, echo
from radnode.dicom.scu import Sender
from radnode.dicom.stow import Service, WebClient
from radnode.dicom.transcode import TARGETS
from radnode.domain.errors import PeerError
from radnode.domain.routing import Destination
from radnode.settings import Settings

_CLASSES: dict[str, tuple[str, ...]] = {
    "sc": (SecondaryCaptureImageStorage,),
    "sr": (Comprehensive3DSRStorage, ComprehensiveSRStorage),
    "seg": (SegmentationStorage,),
    "ko": (KeyObjectSelectionDocumentStorage,),
    "pdf": (EncapsulatedPDFStorage,),
}
"""Kind of result -> the SOP classes it can be sent in: any of them will do."""


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


def refuses(place: Destination, settings: Settings) -> list[str]:
    """Kinds of results that a DICOM peer takes in no transfer syntax they could be sent in, and in no other form.

    Raises PeerError.
    """
    if not place.aet:
        return []
    kinds = {kind: classes for kind, classes in _CLASSES.items() if place.takes(kind) or kind in place.fallback}
    contexts = [(each, syntax) for classes in kinds.values() for each in classes for syntax in TARGETS]
    with Sender(Peer.of(place), calling_aet=settings.aet[0]) as sender:
        taken = {abstract for abstract, _ in sender.accepted(contexts)}
    refused = {kind for kind, classes in kinds.items() if taken.isdisjoint(classes)}
    return [kind for kind in kinds if kind in refused and place.fallback.get(kind, kind) in refused]


def _look(folder: Path) -> None:
    if not folder.is_dir():
        raise PeerError(f"{folder} is not there", remedy="is it mounted?")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PeerError(f"{folder} cannot be written", remedy=f"make it writable for user {os.geteuid()}")
