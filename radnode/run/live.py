"""Settings of the receivers that may change while they run: read again on SIGHUP, and by every receiver a moment later.

The process a person started reads `.env` and its environment again, and writes what may change into a file of the run
folder. The receivers look at that file: a signal would have to find all of them, also those that are just starting.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from radnode import settings as settings_module
from radnode.dicom.negotiation import Policy
from radnode.dicom.tls import server_context
from radnode.domain.errors import SettingsError
from radnode.settings import Settings
from radnode.state.spool import Watermark
from radnode.telemetry import log

LIVE = ("aet", "max_associations", "max_associations_per_peer", "request_timeout", "idle_timeout", "tls_match_aet")
"""What may change; and the files of certificates and keys are read again."""


def _file(node: Settings) -> Path:
    return node.run / "live.json"


def begin(node: Settings) -> None:
    """At the start: the settings are as they were read."""
    _file(node).unlink(missing_ok=True)


def reload(node: Settings) -> None:
    """Reads the settings again; those that cannot be used change nothing."""
    try:
        found = settings_module.load()
    except SettingsError as error:
        log().error("settings refused, those before stay in force", error=error.message, remedy=error.remedy)
        return
    written = _file(node).with_suffix(".new")
    written.write_text(json.dumps({name: getattr(found, name) for name in LIVE}))
    written.replace(_file(node))
    frozen = [name for name in Settings.__dataclass_fields__ if getattr(found, name) != getattr(node, name)]
    later = [settings_module.variable(name) for name in frozen if name not in (*LIVE, "redis_url")]
    log().info("settings read again", after_a_restart=",".join(later))


class LivePolicy:
    """A receiver's policy by the settings now in force."""

    def __init__(self, node: Settings, allowed: Callable[[str, str], bool]) -> None:
        self._given, self._now = node, node
        self._allowed = allowed
        self._signature: tuple[int, ...] = (-1,)
        self._tls: ssl.SSLContext | None = None

    def __call__(self, watermark: Watermark) -> Policy:
        """Raises SettingsError at the first call only, where a certificate cannot be used."""
        signature = self._look()
        if signature != self._signature:
            first, self._signature = self._signature == (-1,), signature
            self._read(strict=first)
        node = self._now
        return Policy(
            aets=node.aet,
            allowed=self._allowed,
            max_associations=node.max_associations,
            max_associations_per_peer=node.max_associations_per_peer,
            max_pdu=node.max_pdu,
            request_timeout=node.request_timeout,
            idle_timeout=node.idle_timeout,
            free_space_ok=lambda: watermark.ok,
            tls=self._tls,
            tls_match_aet=node.tls_match_aet,
        )

    def _look(self) -> tuple[int, ...]:
        try:
            stat = _file(self._given).stat()
        except OSError:
            return ()
        return stat.st_ino, stat.st_mtime_ns

    def _read(self, *, strict: bool) -> None:
        try:
            if self._signature:
                values: dict[str, Any] = json.loads(_file(self._given).read_text())
                self._now = replace(self._given, **values | {"aet": tuple(values["aet"])})
        except OSError as fault:
            log().error("settings cannot be read again", fault=fault.strerror)
        try:
            self._tls = tls_of(self._given)
        except SettingsError as error:
            if strict:
                raise
            log().error("certificate refused, the one before stays in use", error=error.message, remedy=error.remedy)


def tls_of(node: Settings) -> ssl.SSLContext | None:
    """What the TLS port needs, None without one. Raises SettingsError."""
    if not node.tls_port:
        return None
    return server_context(node.tls_cert, node.tls_key, node.tls_ca, node.tls_min)
