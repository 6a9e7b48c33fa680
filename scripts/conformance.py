"""Writes docs/conformance.md, the DICOM Conformance Statement (PS3.2), from what the code itself goes by.

.venv/bin/python scripts/conformance.py            # writes the page
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Template

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import UID, UID_dictionary

from radnode import (
    EncapsulatedPdf,
    Finding,
    KeyImages,
    Measurement,
    MeasurementReport,
    ParametricMap,
    Region,
    SecondaryCapture,
    Segment,
    Segmentation,
    Series,
)
from radnode.dicom import headers, negotiation, services
from radnode.dicom.encode import common, encode, own, sr_groups
from radnode.dicom.encode.reissue import as_comprehensive
from radnode.dicom.negotiation import serves
from radnode.dicom.transcode import TARGETS
from radnode.dicom.volume import read_series
from radnode.domain.codes import PRIVATE_SCHEME
from radnode.domain.jobs import Assignment, judge
from radnode.testing import head_ct
from radnode.testing.phantom import CHARSETS

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
STUDY_ROOT = [f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3)]  # find, move, get
STATUSES = {
    services.SUCCESS: "kept, durably",
    services.PROCESSING_FAILURE: "the ledger does not answer (Storage Commitment)",
    services.INVALID_INSTANCE: "Affected SOP Instance UID is no UID",
    services.NOT_SUPPORTED: "C-STORE on a context that is not for storage",
    services.UNRECOGNIZED_OPERATION: "a service that is not offered",
    services.MISTYPED: "a mandatory element of the command, or the data set, is missing",
    services.OUT_OF_RESOURCES: "disk nearly full, or a write failed: send again later",
    services.DOES_NOT_MATCH: "data set and command name another SOP class or instance",
    services.CANNOT_UNDERSTAND: "the data set is cut short or cannot be walked to its end",
}
ANSWERS = [0x0000, 0xB000, 0xB006, 0xB007, 0x0110, 0x0213, 0xA700, 0x0122, 0xA900, 0xC000, None]
COPIED = (*common.PATIENT, *common.STUDY, "SpecificCharacterSet")
REJECTIONS = [value for value in vars(negotiation).values() if isinstance(value, negotiation.Rejection)]


TEXT = """\
# DICOM Conformance Statement

<!-- Written by scripts/conformance.py from the code's own tables: do not edit. -->

In the form of PS3.2. Written by a program from what the code goes by; `docs/receiver.md` explains the receiving side,
`docs/results.md` the objects.

## 1 Overview

radnode receives images from a PACS, runs algorithms on them, and stores the results in the same study.

| SOP class | UID | user (SCU) | provider (SCP) |
|---|---|---|---|
$overview

Implementation Class UID of associations, of files received and of objects created: $implementation, version name
$implementation_name.

## 2 Associations that are accepted

Application context $application. Maximum PDU size, number of associations and time-outs: `docs/settings.md`.
Asynchronous operations: a window of 1. User identity is taken and noted, never checked.

| rejected with result, source, reason | when |
|---|---|
$rejections

### 2.1 Presentation contexts

Verification, Storage Commitment, and every storage class in each transfer syntax that is proposed. Of several in one
context Explicit VR Little Endian is chosen, then what loses nothing as it was proposed, then lossy ones, then
Implicit VR Little Endian and Explicit VR Big Endian. The data set is kept as it came, byte for byte.

<details><summary>The storage classes</summary>

| name | UID |
|---|---|
$stored

</details>

### 2.2 Statuses returned

| status | meaning |
|---|---|
$statuses

## 3 Associations that are initiated: storage

One presentation context for each SOP class and transfer syntax that is sent; objects that radnode has created are in
Explicit VR Little Endian. For a peer that takes nothing else they are turned into: $targets.

| status of the response | taken as |
|---|---|
$answers
| any other | permanent |

Stored instances are not sent again. Transient outcomes are tried again, permanent ones wait for a person.

## 4 Associations that are initiated: query, commitment

C-FIND, C-MOVE and C-GET in the Study Root model, and N-ACTION of Storage Commitment, at destinations configured for
them.

## 5 Media interchange

None.

## 6 Character sets

Tested: $charsets. Received data sets are not re-encoded. Objects created have the Specific Character Set of their
source, their copied text byte for byte, as long as all other text is ASCII; else all text is ISO_IR 192.

## 7 Security

TLS 1.2 and 1.3 (PS3.15 B.12), with or without client certificates, on a port of its own; to destinations as
configured. Association requesters are checked against AE title and address (`senders`).

## 8 Objects created

Copied from the source into every object, where it has them:
$copied.

Never empty:
$never_empty.

$iods

## 9 Codes

Templates: TID 1500, 1501, 1410, 1411, 1419, 1204, 1002, 1004, 4019; TID 2010 for key objects. Names that an app gives
as plain text are codes of the private scheme $scheme, which Coding Scheme Identification Sequence names.

| unit (UCUM) | meaning |
|---|---|
$units
"""


def page() -> str:
    objects = list(created())
    charsets = dict.fromkeys(
        "\\".join([each] if isinstance(each, str) else each or []) for each, _ in CHARSETS.values()
    )
    return Template(TEXT).substitute(
        overview=rows(overview(objects)),
        implementation=headers.IMPLEMENTATION_CLASS_UID,
        implementation_name=headers.IMPLEMENTATION_VERSION_NAME,
        application=negotiation.APPLICATION_CONTEXT,
        rejections=rows((f"{each.result}, {each.source}, {each.reason}", each.words) for each in REJECTIONS),
        stored=rows((UID(uid).name, uid) for uid in stored()),
        statuses=rows((f"{status:04X}", meaning) for status, meaning in STATUSES.items()),
        targets=", ".join(UID(each).name for each in TARGETS),
        answers=rows(("none" if each is None else f"{each:04X}", judge(each).value) for each in ANSWERS),
        charsets=", ".join(f"`{each or '(default repertoire)'}`" for each in charsets),
        copied=listed(COPIED),
        never_empty=listed(own.TYPE_1),
        iods="\n\n".join(iod(kind, ds) for kind, ds in objects),
        scheme=PRIVATE_SCHEME,
        units=rows(sr_groups.UNITS.items()),
    )


def rows(cells: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(each)} |" for each in cells)


def created() -> Iterator[tuple[str, Dataset]]:
    """One object of each kind, made of a phantom: kind and data set."""
    job = Assignment("0" * 32, "app", "1.0", "series", {"threshold": 60}, {}, "2026-01-01T00:00:00+00:00")
    with tempfile.TemporaryDirectory() as folder:
        (series,) = read_series(head_ct(Path(folder), slices=2, size=16))
        seen = set()
        for encoded in encode(results(series), series, job):
            if encoded.SOPClassUID not in seen:
                seen.add(encoded.SOPClassUID)
                yield encoded.kind, encoded.dataset
            if encoded.kind == "sr":
                path = Path(folder) / "sr-0001.dcm"
                path.write_bytes(encoded.data())
                yield "sr, for peers that take only this", as_comprehensive(path).dataset


def results(series: Series) -> Iterator[object]:
    mask = np.ones((2, 16, 16), bool)
    segment = Segment("Structure", mask)
    yield Segmentation([segment], series)
    yield Segmentation([Segment("Structure", mask)], series, "LABELMAP", "labels")
    yield SecondaryCapture(np.zeros((2, 16, 16, 3), np.uint8), "captures", series)
    yield ParametricMap(mask * 1.0, "Quantity")
    yield EncapsulatedPdf(b"%PDF-1.4\n")
    yield KeyImages([series.first], note="note")
    measured = [Measurement("Size", 1, "mm")]
    yield MeasurementReport(measured, [Finding("Finding", True)], "report", regions=[Region(segment)])


def overview(objects: list[tuple[str, Dataset]]) -> Iterator[tuple[str, str, str, str]]:
    yield "Verification", negotiation.VERIFICATION, "yes", "yes"
    yield "Storage Commitment Push Model", negotiation.STORAGE_COMMITMENT, "yes", "yes"
    for uid in STUDY_ROOT:
        yield UID(uid).name, uid, "yes", "no"
    for _, ds in objects:
        yield name_of(ds), str(ds.SOPClassUID), "yes", "yes"
    yield f"all {len(stored())} storage classes of PS3.6, and classes it does not know", "2.1", "as received", "yes"


def name_of(ds: Dataset) -> str:
    name = UID(ds.SOPClassUID).name
    return "Label Map Segmentation Storage" if name == ds.SOPClassUID else str(name)


def stored() -> list[str]:
    found = [uid for uid, entry in UID_dictionary.items() if entry[1] == "SOP Class" and serves(uid.encode())]
    return sorted(set(found) - {negotiation.VERIFICATION}, key=lambda uid: [int(each) for each in uid.split(".")])


def iod(kind: str, ds: Dataset) -> str:
    generated = [each.keyword for each in ds if each.keyword and each.keyword not in COPIED]
    head = f"### {name_of(ds)}\n\n`{ds.SOPClassUID}`, Modality {ds.Modality}, kind `{kind}`.\n\n"
    return (
        head + "| attribute | tag | VR |\n|---|---|---|\n" + rows((e, tag_of(e), dictionary_VR(e)) for e in generated)
    )


def listed(keywords: Iterable[str]) -> str:
    return ",\n".join(f"{each} {tag_of(each)}" for each in keywords)


def tag_of(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
