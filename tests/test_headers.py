"""The scanner beside pydicom: the same UIDs and values from every file that pydicom reads, and no trust in any byte."""

from __future__ import annotations

import os
import random
import struct
import warnings
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from radnode.dicom.headers import FileMeta, examine, read_attributes, summarize
from radnode.domain.errors import NotDicomError
from tests.receiving import BIG, CT, DATA, DEFLATED, EXPLICIT, IMPLICIT, data_set, deflate, encode

KEYWORDS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "PatientID", "PatientName",
    "StudyDescription", "SeriesDescription", "ImageType", "SliceThickness", "InstanceNumber", "Rows", "Columns",
    "ImagePositionPatient", "BodyPartExamined", "AccessionNumber", "StudyDate", "StudyTime", "PixelSpacing", "KVP",
    "BitsStored", "PixelRepresentation", "TransferSyntaxUID", "Manufacturer", "ContrastBolusAgent",
]  # fmt: skip
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
DAMAGED = {"MR_truncated.dcm", "rtplan_truncated.dcm", "SC_rgb_jpeg.dcm", "meta_missing_tsyntax.dcm"}


def part10_files() -> list[Path]:
    """pydicom's test files, and the real ones where they are."""
    shipped = Path(pydicom.__file__).parent / "data" / "test_files"
    found = sorted(shipped.glob("*.dcm")) + sorted(DATA.rglob("*.dcm"))[::9]
    return [path for path in found if path.open("rb").read(132)[128:] == b"DICM" and path.name not in DAMAGED]


def written(path: Path, data: bytes, syntax: str = EXPLICIT) -> Path:
    path.write_bytes(FileMeta(CT, syntax, "PACS", "RADNODE").encode("1.2.3") + data)
    return path


def reads(data: bytes, folder: Path, syntax: str = EXPLICIT) -> None:
    """Walks bytes as the receiver does."""
    path = folder / "data"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        examine(fd, 0, len(data), syntax)
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", part10_files(), ids=lambda path: path.name)
def test_uids_and_values_are_those_pydicom_reads(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        head = summarize(path).head
        assert (head.sop_class_uid, head.sop_instance_uid, head.study_uid, head.series_uid) == tuple(
            str(ds.get(keyword, "")) for keyword in UIDS
        )
        ds.update(ds.file_meta)
        expected = {keyword: values(ds[keyword].value) for keyword in KEYWORDS if keyword in ds}
    assert read_attributes(path, KEYWORDS) == {keyword: each for keyword, each in expected.items() if each}


def values(value: object) -> tuple[object, ...]:
    """As `domain.study.Value` has them."""
    several = list(value) if isinstance(value, MultiValue) else [value]
    plain = [str(each).strip(" ") if isinstance(each, str | PersonName) else each for each in several]
    plain = [float(each) if isinstance(each, float) else int(each) if isinstance(each, int) else each for each in plain]
    return tuple(plain) if any(each not in ("", None) for each in plain) else ()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_every_cut_of_a_data_set_is_noticed(tmp_path: Path, syntax: str) -> None:
    """But for a cut between two elements, which leaves a data set that is as whole as any."""
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    whole = encode(ds, syntax)
    ends = {len(whole)}
    for tag in reversed(list(ds.keys())):
        del ds[tag]
        ends.add(len(encode(ds, syntax)))
    data = deflate(whole) if syntax == DEFLATED else whole
    reads(data, tmp_path, syntax)
    for cut in random.Random(1).sample(range(1, len(data) - 2), 300):
        if syntax != DEFLATED and (cut in ends or not any(whole[max(end for end in ends if end < cut) : cut])):
            continue
        with pytest.raises(NotDicomError):
            reads(data[:cut], tmp_path, syntax)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED, "1.2.3"]))
def test_no_bytes_raise_anything_but_not_dicom(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, syntax: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    with suppress(NotDicomError):
        reads(data, folder, syntax)
    with suppress(NotDicomError):
        read_attributes(written(folder / "file", data, syntax), KEYWORDS)


def test_no_damaged_byte_raises_anything_but_not_dicom(tmp_path: Path) -> None:
    chance = random.Random(7)
    for syntax in (EXPLICIT, IMPLICIT, BIG):
        whole = data_set("1.2.3", syntax)[:9000]
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            with suppress(NotDicomError):
                reads(bytes(data), tmp_path, syntax)
            with suppress(NotDicomError):
                read_attributes(written(tmp_path / "file", bytes(data), syntax), KEYWORDS)


def test_nested_sequences_hide_their_uids(tmp_path: Path) -> None:
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    inner = pydicom.Dataset()
    inner.SOPInstanceUID, inner.SeriesInstanceUID = "9.9.9", "9.9.8"
    ds.ReferencedImageSequence = [inner]
    ds["ReferencedImageSequence"].is_undefined_length = True
    inner.is_undefined_length_sequence_item = True
    for syntax in (EXPLICIT, IMPLICIT, BIG):
        head = summarize(written(tmp_path / syntax, encode(ds, syntax), syntax)).head
        assert head.series_uid == ds.SeriesInstanceUID
        assert head.sop_instance_uid == ds.SOPInstanceUID


def test_a_sequence_sent_as_un_is_implicit_inside(tmp_path: Path) -> None:
    """PS3.5 6.2.2, note 2: what a sender could not name keeps the encoding it had."""
    inside = struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0xFFFFFFFF, 0x0008, 0x0100, 4) + b"CODE"
    unknown = struct.pack("<HH2sxxL", 0x0009, 0x1010, b"UN", 0xFFFFFFFF) + inside
    unknown += struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    head = summarize(written(tmp_path / "file", unknown + data_set("1.2.3"))).head
    assert head.sop_instance_uid == "1.2.3"


def described(path: Path, description: bytes, charset: bytes | None) -> str:
    def text(group: int, element: int, vr: bytes, value: bytes) -> bytes:
        value += b" " * (len(value) % 2)
        return struct.pack("<HH2sH", group, element, vr, len(value)) + value

    data = text(0x0008, 0x0005, b"CS", charset) if charset is not None else b""
    data += text(0x0008, 0x0060, b"CS", b"CT") + text(0x0008, 0x103E, b"LO", description)
    found = read_attributes(written(path / "file", data), ["Modality", "SeriesDescription"])
    assert found["Modality"] == ("CT",)
    return "|".join(str(each) for each in found["SeriesDescription"])


@pytest.mark.parametrize(
    ("raw", "charset", "text"),
    [
        ("Schädel".encode("latin-1"), b"ISO_IR 100", "Schädel"),
        ("Schädel".encode("latin-1"), b"ISO 2022 IR 100", "Schädel"),
        ("Schädel".encode(), b"ISO_IR 192", "Schädel"),
        ("Schädel".encode("latin-1"), b"ISO_IR 192", "Schädel"),
        ("Schädel".encode(), None, "Schädel"),
        ("Schädel".encode("latin-1"), None, "Schädel"),
        ("Schädel".encode("latin-1"), b"ISO_IR 4711", "Schädel"),
        ("Череп".encode("iso8859_5"), b"ISO_IR 144", "Череп"),
        ("頭部\\造影".encode("gb18030"), b"GB18030", "頭部|造影"),
        (b"\x1b$B" + "頭部".encode("iso2022_jp")[3:-3] + b"\x1b(B", b"\\ISO 2022 IR 87", "頭部"),
        (b"\x1b$)C\xb3\xeb", b"\\ISO 2022 IR 149", "노"),
        (b"\xff\xfe\x1b\x00bad", b"ISO 2022 IR 100\\ISO 2022 IR 87", None),
        (b"A\0B \0", b"ISO_IR 6", "AB"),
    ],
)
def test_text_is_decoded_whatever_the_declared_charset(
    tmp_path: Path, raw: bytes, charset: bytes | None, text: str | None
) -> None:
    found = described(tmp_path, raw, charset)
    if text is not None:
        assert found == text
    assert "\0" not in found


@pytest.mark.parametrize(
    ("keyword", "given_value", "found"),
    [
        ("InstanceNumber", b"12", (12,)),
        ("InstanceNumber", b"12.0", (12.0,)),
        ("InstanceNumber", b"twelve", ("twelve",)),
        ("InstanceNumber", b"1_2", ("1_2",)),
        ("SliceThickness", b"1.5\\ 2 ", (1.5, 2.0)),
        ("SliceThickness", b"nan", ("nan",)),
        ("SliceThickness", b"1e999", ("1e999",)),
        ("SliceThickness", b"\\", ()),
        ("Modality", b"  ", ()),
        ("InstanceNumber", b"9" * 5000, ("9" * 5000,)),
    ],
)
def test_values_that_break_their_vr_stay_text(
    tmp_path: Path, keyword: str, given_value: bytes, found: tuple[object, ...]
) -> None:
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    value = given_value + b" " * (len(given_value) % 2)
    data = struct.pack("<HHL", 0x0008, 0x0005, 10) + b"ISO_IR 100"
    data += struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value
    attributes = read_attributes(written(tmp_path / "file", data, IMPLICIT), [keyword])
    assert attributes.get(keyword, ()) == found


@pytest.mark.parametrize("signed", [0, 1])
def test_us_or_ss_follows_the_pixel_representation(tmp_path: Path, signed: int) -> None:
    ds = pydicom.Dataset()
    ds.PixelRepresentation = signed
    ds.add_new("SmallestImagePixelValue", "SS" if signed else "US", -5 if signed else 65531)
    found = read_attributes(written(tmp_path / "file", encode(ds, IMPLICIT), IMPLICIT), ["SmallestImagePixelValue"])
    assert found == {"SmallestImagePixelValue": (-5 if signed else 65531,)}


@pytest.mark.parametrize(
    "content",
    [b"", b"text", bytes(200), bytes(128) + b"DICM", bytes(128) + b"DICM\2\0\1\0OB\0\0\xff\xff\xff\xff"],
    ids=["empty", "text", "zeros", "nothing but DICM", "a length beyond the end"],
)
def test_a_file_that_is_no_part_10_file_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(NotDicomError, match="file"):
        read_attributes(path, KEYWORDS)
    with pytest.raises(NotDicomError):
        summarize(path)


def test_a_file_that_is_not_there_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(NotDicomError, match="cannot be read"):
        read_attributes(tmp_path / "absent", KEYWORDS)


def test_attributes_before_the_damage_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "file", data_set("1.2.3")[:-50])
    assert read_attributes(path, ["Modality"]) == {"Modality": ("CT",)}
    with pytest.raises(NotDicomError, match="50 bytes are missing"):
        summarize(path)


def test_a_file_of_gigabytes_is_walked_without_reading_its_pixels(tmp_path: Path) -> None:
    path = written(tmp_path / "file", data_set("1.2.3", PixelData=None))
    size = (1 << 32) - 2
    with path.open("ab") as file:
        file.write(struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", size))
        file.truncate(file.tell() + size)
    assert summarize(path).head.sop_instance_uid == "1.2.3"
    with path.open("ab") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(NotDicomError, match="1 bytes are missing"):
        summarize(path)


# Inside sequences, and private elements

PROCEDURE = "RequestAttributesSequence.RequestedProcedureDescription"
CODE = "RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeValue"
PRIVATE = "(0019,xx10) RADNODE TEST"
GE = "(0019,xx0F) GEMS_ACQU_01"
NAMES = [
    PROCEDURE, CODE, PRIVATE, GE, "RequestAttributesSequence", "ProcedureCodeSequence", "PixelData",
    "IconImageSequence", "RequestAttributesSequence.(0019,xx10) RADNODE TEST", "Modality",
]  # fmt: skip


def nested(*, undefined: bool = False) -> pydicom.Dataset:
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for tag in [each.tag for each in ds if each.tag.is_private]:
        del ds[tag]
    items = []
    for number in (1, 2):
        code = pydicom.Dataset()
        code.CodeValue = f"C{number}"
        item = pydicom.Dataset()
        item.RequestedProcedureDescription = f"CT HEAD {number}"
        item.ScheduledProtocolCodeSequence = pydicom.Sequence([code])
        item.ScheduledProtocolCodeSequence.is_undefined_length = undefined
        item.private_block(0x19, "RADNODE TEST", create=True).add_new(0x10, "LO", f"inner {number}")
        item.is_undefined_length_sequence_item = undefined
        items.append(item)
    ds.RequestAttributesSequence = pydicom.Sequence(items)
    ds["RequestAttributesSequence"].is_undefined_length = undefined
    ds.ProcedureCodeSequence = pydicom.Sequence([])
    ds.private_block(0x19, "SOMEBODY ELSE", create=True).add_new(0x10, "LO", "not this")
    ds.private_block(0x19, "RADNODE TEST", create=True).add_new(0x10, "LO", "outer")
    ds.private_block(0x19, "GEMS_ACQU_01", create=True).add_new(0x0F, "DS", "12.5")
    return ds


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_values_inside_sequences_and_of_private_elements_are_read(
    tmp_path: Path, syntax: str, undefined: bool
) -> None:
    data = encode(nested(undefined=undefined), syntax)
    path = written(tmp_path / "file", deflate(data) if syntax == DEFLATED else data, syntax)
    assert read_attributes(path, NAMES) == {
        PROCEDURE: ("CT HEAD 1", "CT HEAD 2"),
        CODE: ("C1", "C2"),
        PRIVATE: ("outer",),
        GE: (12.5,),
        "RequestAttributesSequence.(0019,xx10) RADNODE TEST": ("inner 1", "inner 2"),
        "RequestAttributesSequence": ("2 items",),
        "PixelData": ("binary data",),
        "Modality": ("CT",),
    }


def test_no_damaged_byte_inside_a_sequence_raises_anything_but_not_dicom(tmp_path: Path) -> None:
    chance = random.Random(11)
    for syntax in (EXPLICIT, IMPLICIT, BIG):
        whole = encode(nested(undefined=True), syntax)[:9000]
        begin = whole.index(b"CT HEAD 1") - 100
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(begin, begin + 300)] = chance.randrange(256)
            with suppress(NotDicomError):
                read_attributes(written(tmp_path / "file", bytes(data), syntax), NAMES)


def test_sequences_in_sequences_without_end_are_given_up(tmp_path: Path) -> None:
    """However deep they go: what was found before counts."""
    item, sequence = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\x40\x00\x08\x00SQ\0\0\xff\xff\xff\xff"
    first = b"\x08\x00\x60\x00CS\x02\x00CT"
    data = first + b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + (item + sequence) * 20_000
    assert read_attributes(written(tmp_path / "file", data), NAMES) == {"Modality": ("CT",)}
