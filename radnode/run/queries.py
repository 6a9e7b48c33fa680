"""What a destination has by now: asked by C-FIND, or by QIDO-RS where it is a DICOMweb service."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from radnode.dicom import query
from radnode.dicom.peer import Peer
from radnode.dicom.stow import Service, WebClient
from radnode.domain.routing import Destination

_TAGS = {
    "PatientID": "00100020",
    "PatientName": "00100010",
    "AccessionNumber": "00080050",
    "SOPInstanceUID": "00080018",
}


def study(place: Destination, study_uid: str, wanted: Collection[str], calling_aet: str) -> dict[str, str] | None:
    """These attributes of the study, as the destination has it; None where it has none. Raises PeerError."""
    if place.url:
        found = _web(place, "studies", StudyInstanceUID=study_uid)
        answers = [{each: _text(study, each) for each in wanted} for study in found]
    else:
        keys = {"StudyInstanceUID": study_uid}
        answers = query.find(Peer.of(place), "STUDY", keys, wanted, calling_aet=calling_aet)
    return answers[0] if answers else None


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
    value = ((item.get(_TAGS[keyword]) or {}).get("Value") or [""])[0]
    return str(value.get("Alphabetic", "")) if isinstance(value, dict) else str(value or "")
