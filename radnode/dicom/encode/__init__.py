"""Results -> DICOM objects. One module per kind of result, one line of the table each.

Every object takes its patient and study from the source (identity by construction), its UIDs from the job, and its
dates and times from the job's creation: the same assignment gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module

from pydicom import Dataset

from radnode.dicom.encode.common import Context, Encoded
from radnode.domain.errors import ResultError
from radnode.domain.findings import MeasurementReport
from radnode.domain.jobs import Assignment
from radnode.domain.model import ModelIdentity
from radnode.domain.results import EncapsulatedPdf, KeyImages, ParametricMap, Result, SecondaryCapture, Segmentation
from radnode.domain.study import Series, Study

__all__ = ["Encoded", "encode"]

KINDS: dict[type, str] = {
    Segmentation: "seg",
    SecondaryCapture: "sc",
    ParametricMap: "pm",
    EncapsulatedPdf: "pdf",
    Dataset: "raw",
    MeasurementReport: "sr",
    KeyImages: "ko",
}
"""Type of result -> module here that has `encode(result, context) -> Iterator[Encoded]`; loaded when first needed."""

_LAST = (MeasurementReport, KeyImages)
"""These refer to the others' objects, so they are made when all of those are, in whichever order the app yields."""


def encode(
    results: Iterable[Result],
    source: Series | Study,
    assignment: Assignment,
    about: str = "",
    models: Callable[[], Iterable[ModelIdentity]] = tuple,
) -> Iterator[Encoded]:
    """DICOM objects, one after the other, as the app yields their results; documents that refer to others last.

    Args:
        source: what the app was given; its first instance lends patient and study.
        about: one sentence about the app, written into the objects.
        models: tells which models the app has asked so far: they stand beside its options.

    Raises ResultError, GeometryError, PixelsError.
    """
    context = Context(source, assignment, about, models)
    later: list[Result] = []
    for result in results:
        _module(result, assignment)  # a result that is none is said at once
        if isinstance(result, _LAST):
            later.append(result)
        else:
            yield from _encoded(result, context)
    for result in later:
        yield from _encoded(result, context)


def _encoded(result: Result, context: Context) -> Iterator[Encoded]:
    for encoded in import_module(f"{__name__}.{_module(result, context.assignment)}").encode(result, context):
        context.links.add(result, encoded.dataset)
        yield encoded


def load_all() -> None:
    """Imports the modules of all kinds."""
    for module in KINDS.values():
        import_module(f"{__name__}.{module}")


def _module(result: Result, assignment: Assignment) -> str:
    for kind, module in KINDS.items():
        if isinstance(result, kind):
            return module
    raise ResultError(
        f"app {assignment.app!r} yielded {type(result).__name__}, which is no result",
        remedy=f"yield {', '.join(each.__name__ for each in KINDS)} or File",
    )
