"""Encapsulated PDF (PS3.3 A.45.1)."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.sequence import Sequence
from pydicom.uid import EncapsulatedPDFStorage

from radnode.dicom.encode import anatomy, common
from radnode.dicom.encode.common import Context, Encoded
from radnode.domain.errors import ResultError
from radnode.domain.results import EncapsulatedPdf

SERIES_NUMBER = 9050
_MAGIC = b"%PDF-"


def encode(result: EncapsulatedPdf, context: Context) -> Iterator[Encoded]:
    data = _document(result.document)
    ds = context.begin("pdf", EncapsulatedPDFStorage, "DOC", SERIES_NUMBER, common.clean(result.description))
    ds.ConversionType = "SYN"
    anatomy.add_body_part(ds, context)
    anatomy.add_side(ds, context)
    ds.BurnedInAnnotation = "YES" if result.shows_identity else "NO"
    ds.AcquisitionDateTime = ""
    ds.DocumentTitle = common.clean(result.title)
    ds.ConceptNameCodeSequence = Sequence([common.code("18748-4", "LN", "Diagnostic imaging report")])
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.SourceInstanceSequence = Sequence(
        common.image_reference(each, common.PURPOSE_SOURCE) for each in context.representatives()
    )
    ds.EncapsulatedDocumentLength = len(data)
    ds.add_new("EncapsulatedDocument", "OB", data + b"\0" * (len(data) % 2))
    yield context.finish("pdf", ds)


def embedded(kept: Path) -> bytes:
    """The document in a kept object."""
    ds = dcmread(kept)
    return bytes(ds.EncapsulatedDocument[: ds.get("EncapsulatedDocumentLength")])


def _document(document: Any) -> bytes:
    """Bytes, a path or a matplotlib figure as PDF; a figure without the time it was drawn at. Raises ResultError."""
    if hasattr(document, "savefig"):
        buffer = BytesIO()
        document.savefig(buffer, format="pdf", metadata={"CreationDate": None})
        document = buffer.getvalue()
    if isinstance(document, str | Path):
        try:
            document = Path(document).read_bytes()
        except OSError as error:
            raise ResultError(f"the PDF {Path(document).name!r} cannot be read: {error.strerror}") from None
    if not isinstance(document, bytes) or not document.startswith(_MAGIC):
        raise ResultError("an EncapsulatedPdf that is no PDF", remedy="bytes or a file that begin with %PDF-")
    return document
