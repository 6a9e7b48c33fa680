"""Results -> DICOM objects. One module per kind of result, one line of the table each.

Every object takes its patient and study from the source (identity by construction), its UIDs from the job, and its
dates and times from the job's creation: the same assignment gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module

from radnode.dicom.encode.common import Context, Encoded
from radnode.domain.errors import ResultError
from radnode.domain.jobs import Assignment
from radnode.domain.results import MeasurementReport, Result, SecondaryCapture
from radnode.domain.study import Series, Study

__all__ = ["Encoded", "encode"]

_KINDS = {SecondaryCapture: "sc", MeasurementReport: "sr"}
"""Type of result -> module here that has `encode(result, context) -> Iterator[Encoded]`; loaded when first needed."""


def encode(
    results: Iterable[Result], source: Series | Study, assignment: Assignment, about: str = ""
) -> Iterator[Encoded]:
    """DICOM objects, one after the other, as the app yields their results.

    Args:
        source: what the app was given; its first instance lends patient and study.
        about: one sentence about the app, written into the objects.

    Raises ResultError, GeometryError, PixelsError.
    """
    context = Context(source, assignment, about)
    for result in results:
        kind = _KINDS.get(type(result))
        if kind is None:
            raise ResultError(
                f"app {assignment.app!r} yielded {type(result).__name__}, which is no result",
                remedy=f"yield {', '.join(each.__name__ for each in _KINDS)} or File",
            )
        yield from import_module(f"{__name__}.{kind}").encode(result, context)
