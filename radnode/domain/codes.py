"""Coded concepts: what a name means to every reader of a result (PS3.3 section 8)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from radnode.domain.errors import ResultError

PRIVATE_SCHEME = "99RADNODE"
"""Coding scheme of names an app gives as plain text (PS3.16 section 8: private designators start with 99)."""


@dataclass(frozen=True)
class Code:
    """A coded concept: `Code("12738006", "SCT", "Brain")` (PS3.3 section 8.8)."""

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        if not (self.value and self.scheme and self.meaning):
            raise ResultError(f"{self} is incomplete", remedy="give value, scheme and meaning")
        if len(self.value) > 16 or len(self.scheme) > 16 or len(self.meaning) > 64:
            raise ResultError(f"{self} is too long", remedy="at most 16, 16 and 64 characters (PS3.5 6.2: SH, SH, LO)")

    @classmethod
    def named(cls, name: Code | str) -> Code:
        """A code as it is; plain text as a code of radnode's private scheme, the same text always the same code."""
        if isinstance(name, Code):
            return name
        short = name.upper().replace(" ", "_")
        if len(short) > 16 or not short.isascii():
            short = hashlib.sha256(name.encode()).hexdigest()[:16].upper()
        return cls(short, PRIVATE_SCHEME, name)
