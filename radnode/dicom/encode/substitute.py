"""What is sent in place of a kept object to a peer that does not take it: a report as a page, a segmentation drawn.

The same object, form and job give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydicom import Dataset, dcmread

from radnode.dicom.encode import common, encode
from radnode.dicom.encode.common import Encoded
from radnode.dicom.encode.page import as_pdf, of_report, page
from radnode.dicom.encode.reissue import as_comprehensive, under_identity_of
from radnode.dicom.encode.sc import may_name_the_patient
from radnode.dicom.encode.sheet import sheet
from radnode.domain.errors import ResultError
from radnode.domain.jobs import Assignment, SeriesLabel
from radnode.domain.results import EncapsulatedPdf, Result, SecondaryCapture
from radnode.domain.routing.destinations import COMPREHENSIVE
from radnode.domain.study import Series, Study


def substitute(kept: Path, form: str, assignment: Assignment, source: Callable[[], Series | Study]) -> Encoded:
    """A kept report as `comprehensive` SR, or as `sc` or `pdf` of its content; a segmentation as `sc`.

    Args:
        assignment: of the job that made it.
        source: reads what that job was given.

    Raises ResultError, PixelsError.
    """
    if form == COMPREHENSIVE:
        return as_comprehensive(kept)
    ds = dcmread(kept)
    given = source()
    label = SeriesLabel(int(ds.SeriesNumber), common.clean(str(ds.SeriesDescription)))
    own = replace(assignment, job_id=f"{assignment.job_id}|{form}|{ds.SOPInstanceUID}", label=label, predecessors=[])
    (made,) = encode([_result(ds, form, given)], given, own, "Sent in place of an object that the peer does not take")
    return under_identity_of(kept, made)


def _result(ds: Dataset, form: str, source: Series | Study) -> Result:
    if "SegmentSequence" in ds:
        series = source.series if isinstance(source, Study) else (source,)
        named = any(may_name_the_patient(image) for each in series for image in each)
        return SecondaryCapture(sheet(ds, series), shows_identity=named)
    if "ContentSequence" not in ds:
        raise ResultError(f"an object of class {ds.SOPClassUID} cannot be shown as {form}")
    title, lines = of_report(ds)
    shown = page(title, lines)
    if form == "pdf":
        return EncapsulatedPdf(as_pdf(shown), title, shows_identity=False)
    return SecondaryCapture(shown)
