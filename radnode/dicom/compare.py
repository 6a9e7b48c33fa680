"""What two copies of one SOP instance differ in: whether a result computed from the first is still right."""

from __future__ import annotations

import os
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path

from radnode.dicom.elements import EXPLICIT_LE, IMPLICIT, Encoding, Source, encoding_of, source_of
from radnode.dicom.headers import open_part10, read_attributes
from radnode.dicom.places import Places
from radnode.domain.errors import NotDicomError
from radnode.domain.routing.keywords import STUDY_KEYWORDS


class Difference(StrEnum):
    """The gravest one."""

    CONTENT = "pixels or geometry"
    IDENTITY = "patient or study attributes"
    BOOKKEEPING = "syntax or bookkeeping"


_CONTENT_KEYWORDS = frozenset(
    {
        # PS3.3 C.7.6.3 Image Pixel, C.7.6.2 Image Plane, C.7.6.6 Multi-frame, C.11.1 Modality LUT
        "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
        "PixelPaddingValue", "LossyImageCompression", "NumberOfFrames", "PixelSpacing", "ImagerPixelSpacing",
        "NominalScannedPixelSpacing", "PixelAspectRatio", "ImagePositionPatient", "ImageOrientationPatient",
        "SliceThickness", "SpacingBetweenSlices", "GantryDetectorTilt", "FrameOfReferenceUID", "Modality",
        "RescaleSlope", "RescaleIntercept", "RescaleType", "PatientPosition", "ImageType", "InstanceNumber",
        "FrameTime", "FrameIncrementPointer", "Laterality", "ImageLaterality", "ViewPosition",
    }
)  # fmt: skip
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_NESTED = (
    0x0040A730,  # Content Sequence of a structured report
    0x00420011,  # Encapsulated Document
    0x00700001,  # Graphic Annotation Sequence
    0x30060039,  # ROI Contour Sequence
    0x52009229,  # Shared and
    0x52009230,  # Per-Frame Functional Groups Sequence
    0x54000100,  # Waveform Sequence
)
_PIECE = 1 << 20
_NATIVE = IMPLICIT | {"1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"}
"""Syntaxes that lay the same pixels out as the same bytes."""


def difference(one: Path, other: Path) -> Difference:
    """In what two Part 10 files of the same SOP instance differ, that do differ.

    Pixels are compared where both syntaxes lay them out alike: a copy that was compressed, or is so in another way,
    counts as the same picture unless it says that it lost something. What cannot be read counts as content.
    """
    try:
        first, second = (read_attributes(path, _CONTENT_KEYWORDS) for path in (one, other))
        if first != second or _content(one, other):
            return Difference.CONTENT
        first, second = (read_attributes(path, STUDY_KEYWORDS) for path in (one, other))
    except NotDicomError:
        return Difference.CONTENT
    return Difference.IDENTITY if first != second else Difference.BOOKKEEPING


def fingerprint(path: Path) -> str:
    """Digest of a Part 10 file's transfer syntax and data set: a copy that has the same is the same, byte for byte.

    Raises NotDicomError.
    """
    with open_part10(path) as (fd, syntax, start):
        digest = blake2b(syntax.encode(), digest_size=32)
        at = start
        while piece := os.pread(fd, _PIECE, at):
            digest.update(piece)
            at += len(piece)
        return digest.hexdigest()


def _content(one: Path, other: Path) -> bool:
    """Whether pixels, or what stands for them in objects without, differ."""
    (syntax, digests), (other_syntax, other_digests) = _digests(one), _digests(other)
    if syntax == other_syntax:
        return digests != other_digests
    tags: tuple[int, ...] = ()
    if syntax in _NATIVE and other_syntax in _NATIVE:
        tags += _PIXELS
    if _layout(syntax) == _layout(other_syntax):
        tags += _NESTED
    elif digests.keys() & set(_NESTED) or other_digests.keys() & set(_NESTED):
        return True  # the same sequences in another layout are other bytes: nobody knows
    return any(digests.get(tag) != other_digests.get(tag) for tag in tags)


def _digests(path: Path) -> tuple[str, dict[int, bytes]]:
    """Transfer syntax, and tag -> digest of what has to be the same."""
    with open_part10(path) as (fd, syntax, start):
        size = os.fstat(fd).st_size - start
        walk = Places(source_of(fd, start, size, syntax), _layout(syntax), (*_PIXELS, *_NESTED))
        walk.run()
        source = source_of(fd, start, size, syntax)  # a deflated one only goes forward
        places = sorted(walk.places.items(), key=lambda each: each[1])
        return syntax, {tag: _digest(source, *place) for tag, place in places}


def _layout(syntax: str) -> Encoding:
    return encoding_of(syntax) or EXPLICIT_LE


def _digest(source: Source, at: int, end: int) -> bytes:
    digest = blake2b(digest_size=16)
    while at < end:
        piece = source.window(at)[: end - at]
        if not piece:
            raise NotDicomError("data set cut short")
        digest.update(piece)
        at += len(piece)
    return digest.digest()
