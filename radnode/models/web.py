"""Requests to a model server: with a time limit for the whole, and repeated only where nothing can have been done."""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from radnode.domain.errors import ModelError

CONNECT_SECONDS = 5.0
_LARGEST = 1 << 30
_PIECE = 1 << 20
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
_SHOWN = 300


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def said(self) -> str:
        """The beginning of the body, for an error message."""
        return " ".join(self.body[:_SHOWN].decode("utf-8", "replace").split())


class _NotNow(Exception):  # noqa: N818 - it is tried again
    """Nobody listened, or the server said 503: it has done nothing."""


class Server:
    """One server. Each request is a connection of its own: a model takes longer than a handshake.

    Args:
        timeout: seconds for a request with its repetitions.
    """

    def __init__(self, address: str, timeout: float) -> None:
        parts = urlsplit(address)
        self._tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._timeout = timeout
        self.name = parts.netloc.rpartition("@")[2]

    def get(self, path: str) -> Answer:
        return self._request("GET", path, b"", {})

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        return self._request("POST", path, body, headers)

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Repeats what was refused with 503, or reached nobody. Raises ModelError for anything else that fails."""
        deadline = time.monotonic() + self._timeout
        for attempt in range(1_000_000):
            try:
                return self._once(method, path, body, headers, deadline)
            except _NotNow as refusal:
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                if time.monotonic() + pause > deadline:
                    raise ModelError(
                        f"model server {self.name}: {refusal}, for {self._timeout:g} s",
                        remedy="start it, or correct the model's address",
                    ) from None
                time.sleep(pause)
            except TimeoutError:
                raise ModelError(
                    f"model server {self.name} did not answer within {self._timeout:g} s", remedy="is it overloaded?"
                ) from None
            except (OSError, HTTPException, ValueError) as error:
                raise ModelError(f"model server {self.name} broke off: {type(error).__name__}: {error}") from None
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: bytes, headers: dict[str, str], deadline: float) -> Answer:
        connection = self._connected(deadline)
        try:
            connection.request(method, path, body or None, headers)
            self._limit(connection, deadline)
            response = connection.getresponse()
            pieces, size = [], 0
            while piece := response.read(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > _LARGEST:
                    raise ModelError(f"model server {self.name} answers more than {_LARGEST >> 20} MiB")
                self._limit(connection, deadline)
            answer = Answer(response.status, response.headers, b"".join(pieces))
        finally:
            connection.close()
        if answer.status == 503:
            raise _NotNow(f"answers 503: {answer.said}")
        return answer

    def _connected(self, deadline: float) -> HTTPConnection:
        seconds = max(min(CONNECT_SECONDS, deadline - time.monotonic()), 0.01)
        if self._tls:
            context = ssl.create_default_context()
            connection: HTTPConnection = HTTPSConnection(self._host, self._port, timeout=seconds, context=context)
        else:
            connection = HTTPConnection(self._host, self._port, timeout=seconds)
        try:
            connection.connect()
            self._limit(connection, deadline)
        except ssl.SSLError:
            raise
        except OSError as error:
            connection.close()
            raise _NotNow(f"cannot be reached ({error})") from None
        return connection

    @staticmethod
    def _limit(connection: HTTPConnection, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:  # the response has taken it over where the server closes by itself
            connection.sock.settimeout(left)
