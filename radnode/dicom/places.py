"""Where values stand in a data set, for those too long or too nested to be collected: a walk that notes positions."""

from __future__ import annotations

from collections.abc import Collection

from radnode.dicom.elements import Encoding, Source, Walk


class Places(Walk):
    """One pass over a data set; `places` is tag -> (start, end) of the wanted top-level values, in bytes.

    The end of a sequence of undefined length is where its delimiter stands. `vrs` is tag -> VR, empty where implicit.
    Raises NotDicomError as `Walk` does.
    """

    def __init__(self, source: Source, encoding: Encoding, tags: Collection[int], last: int = 0xFFFFFFFF) -> None:
        self.places: dict[int, tuple[int, int]] = {}
        self.vrs: dict[int, bytes] = {}
        self._begun: tuple[int, int] | None = None
        super().__init__(source, encoding, {encoding.key(tag): tag for tag in tags}, last)

    def _collect(self, key: int, vr: bytes, at: int, length: int) -> bool:
        tag = self.wanted[key]
        self.places[tag], self.vrs[tag] = (self.base + at, self.base + at + length), vr
        return True

    def _descend(self, key: int, vr: bytes, at: int) -> None:
        if not self.open and key in self.wanted:
            self._begun = self.wanted[key], self.base + at
            self.vrs[self.wanted[key]] = vr
        super()._descend(key, vr, at)

    def _items(self) -> None:
        super()._items()
        if self._begun and not self.open:
            tag, start = self._begun
            self.places[tag] = start, self.base + self.at - 8
            self._begun = None
