"""How the objects of one job refer to each other: what was made of which result, what is tracked under which UID."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from pydicom import Dataset

from radnode.domain.codes import Code
from radnode.domain.errors import ResultError
from radnode.domain.results import Segment


@dataclass(frozen=True)
class Reference:
    """One object this job has made."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str

    def item(self) -> Dataset:
        """As an item of a Referenced SOP Sequence (PS3.3 table 10-11)."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = self.sop_class_uid, self.sop_instance_uid
        return item


@dataclass(frozen=True)
class Place:
    """Where a segment is: in which object, under which number, and in which of its frames."""

    reference: Reference
    number: int
    series_uid: str  # of the source


class Links:
    """Grows while results are encoded. Results are known by identity, and not kept alive."""

    def __init__(self, uid: Callable[..., str]) -> None:
        self._uid = uid
        self.made: list[Reference] = []
        self._of: WeakKeyDictionary[Any, list[Reference]] = WeakKeyDictionary()
        self._places: WeakKeyDictionary[Segment, Place | None] = WeakKeyDictionary()
        self._tracked: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._count = 0

    def add(self, result: Any, ds: Dataset) -> None:
        reference = Reference(str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.SeriesInstanceUID))
        self.made.append(reference)
        if not isinstance(result, Dataset):  # pydicom's cannot be a key
            self._of.setdefault(result, []).append(reference)

    def of(self, result: Any) -> list[Reference]:
        """The objects made of a result. Raises ResultError where there is none."""
        if not self._of.get(result):
            raise ResultError(
                f"a result refers to a {type(result).__name__} that was not yielded, or that is empty",
                remedy="yield it as well, before what refers to it",
            )
        return self._of[result]

    def known(self, result: Any) -> list[Reference]:
        return self._of.get(result, [])

    def put(self, segment: Segment, place: Place | None) -> None:
        """None: it is empty, and in no object."""
        self._places[segment] = place

    def place(self, segment: Segment) -> Place | None:
        """None for an empty segment. Raises ResultError where it belongs to no segmentation that was yielded."""
        if segment not in self._places:
            raise ResultError(
                f"a region refers to segment {Code.named(segment.name).meaning!r}, which was not yielded",
                remedy="yield Segmentation([segment]) as well",
            )
        return self._places[segment]

    def tracking_uid(self, of: Any, text: str = "") -> str:
        """Of what is tracked under a text; without one, of that very value: the n-th of its job."""
        if text:
            return self._uid("tracking", text)
        if of not in self._tracked:
            self._count += 1
            self._tracked[of] = self._count
        return self._uid("tracked", self._tracked[of])
