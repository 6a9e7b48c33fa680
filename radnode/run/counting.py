"""Where a receiver counts."""

from __future__ import annotations

from typing import Protocol

from radnode.dicom.acceptor import Stages


class Metrics(Protocol):
    """Where the receiver counts. `sop_class` and `calling_aet` are the peer's words."""

    def received(self, size: int, stages: Stages, sop_class: str, calling_aet: str) -> None: ...
    def flawed(self) -> None:
        """An instance kept that cannot be filed, or refused as broken."""

    def association(self, event: str, reason: str) -> None:
        """`accepted`, `released`, `aborted`, `lost`, or `rejected` with its reason."""

    def open(self, delta: int) -> None: ...


class NoMetrics:
    """Counts nothing."""

    def received(self, size: int, stages: Stages, sop_class: str, calling_aet: str) -> None: ...
    def flawed(self) -> None: ...
    def association(self, event: str, reason: str) -> None: ...
    def open(self, delta: int) -> None: ...
