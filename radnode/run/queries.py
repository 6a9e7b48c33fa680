"""What a destination has by now: asked by C-FIND, or by QIDO-RS where it is a DICOMweb service."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydicom.datadict import tag_for_keyword

from radnode.dicom import query
from radnode.dicom.peer import Peer
from radnode.dicom.stow import Service, WebClient
from radnode.domain.routing import Destination

_MOST_STUDIES = 10
"""Of one Accession Number that are looked into."""


def studies(place: Destination, study_uid: str, wanted: Collection[str], calling_aet: str) -> list[dict[str, str]]:
    """These attributes of the study, as the destination has it: more than once where it has one of that UID under
    several patients. Raises PeerError."""
    return _studies(place, {"StudyInstanceUID": study_uid}, wanted, calling_aet)


def moved(
    place: Destination, accession: str, series_uid: str, instance_uid: str, wanted: Collection[str], calling_aet: str
) -> dict[str, str] | None:
    """These attributes, and StudyInstanceUID, of another study of that Accession Number that has this very instance.

    None where there is none. Raises PeerError.
    """
    if not accession or set(accession) & set("*?\\"):
        return None
    for each in _studies(place, {"AccessionNumber": accession}, ("StudyInstanceUID", *wanted), calling_aet):
        uid = each["StudyInstanceUID"]
        if uid and instance_uid in instances(place, uid, series_uid, calling_aet):
            return each
    return None


def _studies(
    place: Destination, keys: dict[str, str], wanted: Collection[str], calling_aet: str
) -> list[dict[str, str]]:
    if place.url:
        answers = [{each: _text(study, each) for each in wanted} for study in _web(place, "studies", **keys)]
    else:
        answers = query.find(Peer.of(place), "STUDY", keys, wanted, calling_aet=calling_aet)
    return answers[:_MOST_STUDIES]


def instances(place: Destination, study_uid: str, series_uid: str, calling_aet: str) -> set[str]:
    """SOP Instance UIDs of a series, as the destination has it. Raises PeerError."""
    if place.url:
        found = _web(place, f"studies/{study_uid}/series/{series_uid}/instances")
        return {_text(each, "SOPInstanceUID") for each in found}
    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    answers = query.find(Peer.of(place), "IMAGE", keys, ("SOPInstanceUID",), calling_aet=calling_aet)
    return {each["SOPInstanceUID"] for each in answers}


def _web(place: Destination, path: str, **keys: str) -> list[dict[str, Any]]:
    client = WebClient(Service.of(place))
    try:
        return client.find(path, **keys)
    finally:
        client.close()


def _text(item: Mapping[str, Any], keyword: str) -> str:
    """A value of DICOM JSON (PS3.18 F.2); of a person's name the alphabetic representation."""
    value = ((item.get(f"{tag_for_keyword(keyword):08X}") or {}).get("Value") or [""])[0]
    return str(value.get("Alphabetic", "")) if isinstance(value, dict) else str(value or "")
