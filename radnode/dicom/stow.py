"""DICOMweb: STOW-RS and QIDO-RS as a client, bit exact (PS3.18 10.5, 10.6).

Files go out as they lie there, streamed; nothing is decoded. The server's answer is read as DICOM JSON.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from radnode.dicom.scu import Answer, OutgoingFile, read_outgoing
from radnode.dicom.tls import client_context
from radnode.domain.errors import PeerError, SpoolError
from radnode.domain.routing.destinations import Destination, Tls

_BATCH_FILES, _BATCH_BYTES = 50, 64 << 20
_PIECE = 256 * 1024
_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
_MOST_ANSWERED = 16 << 20
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_HEARD = {200, 202}
_UNNAMED = 0xC000, "neither stored nor failed, by its answer"
_DUPLICATES = {0x0111, 0xB00E}  # the second is Azure's: 45070 in its conformance statement
"""Our instances never change under their UID: one that is there already has been stored."""
_WARNED = 0xB000

_STORED, _FAILED, _REASON, _WARNING = "00081199", "00081198", "00081197", "00081196"
_INSTANCE_UID = "00081155"


@dataclass(frozen=True)
class Service:
    """A DICOMweb service: its base URL, and how one gets in. Passwords and tokens are read when they are needed."""

    url: str
    user: str = ""
    password_file: str = ""
    token_file: str = ""
    tls: Tls | None = None

    @classmethod
    def of(cls, place: Destination) -> Service:
        return cls(place.url, place.user, place.password_file, place.token_file, place.tls)

    def __str__(self) -> str:
        return self.url


class WebClient:
    """Connections to one service, kept open and used again. Raises PeerError."""

    def __init__(self, service: Service) -> None:
        self.service = service
        verify = client_context(service.tls or Tls()) if service.url.startswith("https:") else True
        self._http = httpx.Client(timeout=_TIMEOUT, verify=verify, headers={"Accept": "application/dicom+json"})

    def close(self) -> None:
        self._http.close()

    def store(self, files: Sequence[OutgoingFile]) -> Iterator[Answer]:
        """Sends the files in batches, an Answer for each as C-STORE would give it. Raises SpoolError, NotDicomError."""
        for batch in _batches(files):
            yield from self._store(batch)

    def find(self, path: str, **query: str) -> list[dict[str, Any]]:
        """What matches, as DICOM JSON: `find("studies", StudyInstanceUID="1.2.3")`."""
        answer = self._ask("GET", f"{path}?{httpx.QueryParams(query)}")
        if answer.status_code == httpx.codes.NO_CONTENT:
            return []
        if answer.status_code != httpx.codes.OK:
            raise self._fault(answer)
        found = _json(answer)
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise PeerError(f"{self.service}: the answer to a query is no DICOM JSON")
        return found

    def _store(self, batch: Sequence[OutgoingFile]) -> Iterator[Answer]:
        boundary = secrets.token_hex(16)
        heads = [_head(boundary, each) for each in batch]
        tail = f"\r\n--{boundary}--\r\n".encode()
        length = sum(len(head) + _size(each.path) for head, each in zip(heads, batch, strict=True)) + len(tail)
        answer = self._ask(
            "POST",
            "studies",
            content=_body(heads, batch, tail),
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Content-Length": str(length),
            },
        )
        statuses = _statuses(_json(answer))
        if not statuses and answer.status_code not in _HEARD:
            raise self._fault(answer)
        for each in batch:
            yield Answer(each.sop_instance_uid, *statuses.get(each.sop_instance_uid, _UNNAMED))

    def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        given["headers"] = {**given.get("headers", {}), **self._credentials()}
        try:
            with self._http.stream(method, f"{self.service.url}/{path}", **given) as answer:
                body = bytearray()
                for piece in answer.iter_bytes():
                    body += piece
                    if len(body) > _MOST_ANSWERED:
                        raise PeerError(f"{self.service} answers without end")
                return httpx.Response(answer.status_code, headers=_plain(answer.headers), content=bytes(body))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            remedy = "is it running, and does a firewall let us through?"
            raise PeerError(f"{self.service}: {error or type(error).__name__}", remedy=remedy) from None

    def _credentials(self) -> dict[str, str]:
        service = self.service
        try:
            if service.token_file:
                return {"Authorization": f"Bearer {Path(service.token_file).read_text().strip()}"}
            if service.user:
                password = Path(service.password_file).read_text().strip()
                both = b64encode(f"{service.user}:{password}".encode()).decode()
                return {"Authorization": f"Basic {both}"}
        except (OSError, UnicodeDecodeError) as error:
            raise PeerError(f"{service}: {error}", remedy="make the file with the secret readable") from None
        return {}

    def _fault(self, answer: httpx.Response) -> PeerError:
        code = answer.status_code
        remedy = "are user and password, or the token, still good?" if code in (401, 403) else ""
        words = f"{self.service} answered {code} {answer.reason_phrase}".strip()
        return PeerError(words, remedy=remedy, permanent=code not in _TRANSIENT)


def _batches(files: Sequence[OutgoingFile]) -> Iterator[list[OutgoingFile]]:
    batch: list[OutgoingFile] = []
    size = 0
    for each in files:
        more = _size(each.path)
        if batch and (len(batch) == _BATCH_FILES or size + more > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += more
    if batch:
        yield batch


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise SpoolError(f"{path} cannot be read: {error.strerror}") from None


def _head(boundary: str, file: OutgoingFile) -> bytes:
    read_outgoing(file.path)  # what is no DICOM file is found out before anything is sent
    return f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()


def _body(heads: Sequence[bytes], batch: Sequence[OutgoingFile], tail: bytes) -> Iterator[bytes]:
    for head, each in zip(heads, batch, strict=True):
        yield head
        try:
            with each.path.open("rb") as file:
                while piece := file.read(_PIECE):
                    yield piece
        except OSError as error:
            raise SpoolError(f"{each.path} cannot be read: {error.strerror}") from None
    yield tail


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """The headers that still hold for a body that was decompressed."""
    return {"Content-Type": headers.get("Content-Type", "")}


def _json(answer: httpx.Response) -> Any:
    """The body where it is JSON; servers answer errors with anything."""
    try:
        return answer.json()
    except ValueError:
        return None


def _statuses(answer: Any) -> dict[str, tuple[int, str]]:
    """SOP Instance UID -> status and comment, from a Store Instances Response Module (PS3.18 table 10.5.3-1)."""
    if not isinstance(answer, dict):
        return {}
    statuses: dict[str, tuple[int, str]] = {}
    for item in _items(answer, _STORED):
        warning = _number(item, _WARNING)
        statuses[_uid(item)] = (_WARNED, f"stored with warning 0x{warning:04X}") if warning else (0x0000, "")
    for item in _items(answer, _FAILED):
        reason = _number(item, _REASON) or 0xC000
        statuses[_uid(item)] = (0x0000, "there already") if reason in _DUPLICATES else (reason, "")
    return statuses


def _items(answer: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    value = (answer.get(tag) or {}).get("Value") or []
    return [each for each in value if isinstance(each, dict)]


def _uid(item: dict[str, Any]) -> str:
    value = (item.get(_INSTANCE_UID) or {}).get("Value") or [""]
    return str(value[0])


def _number(item: dict[str, Any], tag: str) -> int | None:
    value = (item.get(tag) or {}).get("Value") or [None]
    return value[0] if isinstance(value[0], int) else None
