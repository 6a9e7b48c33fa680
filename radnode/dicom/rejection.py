"""Rejection notes: Key Object Selections by which a PACS takes images back (IHE RAD TF-3 4.66, IOCM)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from radnode.dicom.elements import EXPLICIT_LE, encoding_of, source_of
from radnode.dicom.headers import open_part10, read_attributes
from radnode.dicom.nested import stretch, values_inside
from radnode.dicom.places import Places
from radnode.domain.attributes import attribute_of

KEY_OBJECT_SELECTION: Final = "1.2.840.10008.5.1.4.1.1.88.59"
EXPIRED: Final = "113039"
REASONS: Final = {  # PS3.16 CID 7011
    "113001": "rejected for quality reasons",
    "113037": "rejected for patient safety reasons",
    "113038": "incorrect modality worklist entry",
    EXPIRED: "data retention policy expired",
}
MOST: Final = 20_000
"""Images one note is read for."""
_TITLE = "ConceptNameCodeSequence.CodeValue"
_EVIDENCE = 0x0040A375
_PATH = ("ReferencedSeriesSequence", "ReferencedSOPSequence")


@dataclass(frozen=True)
class Rejection:
    """What a note says: the code of its title, and the SOP Instance UIDs it takes back."""

    code: str
    uids: frozenset[str]


def read_rejection(path: Path) -> Rejection | None:
    """What a Key Object Selection takes back; None where it is no rejection note. Raises NotDicomError."""
    code = "".join(map(str, read_attributes(path, [_TITLE]).get(_TITLE, ())[:1]))
    if code not in REASONS:
        return None
    with open_part10(path) as (fd, syntax, start):
        size, encoding = os.fstat(fd).st_size - start, encoding_of(syntax) or EXPLICIT_LE
        walk = Places(source_of(fd, start, size, syntax), encoding, (_EVIDENCE,))
        walk.run()
        at, end = walk.places.get(_EVIDENCE, (0, 0))
        data = stretch(source_of(fd, start, size, syntax), at, end - at)
    path_inside = [attribute_of(each).tag for each in _PATH]
    wanted, vr = attribute_of("ReferencedSOPInstanceUID"), walk.vrs.get(_EVIDENCE, b"SQ")
    uids = values_inside(data, encoding, vr, path_inside, wanted, (), most=MOST)
    return Rejection(code, frozenset(map(str, uids)))
