"""What all results share: patient and study, equipment, UIDs, dates, charset (PS3.3 C.7.1, C.7.2, C.7.5, C.12.1)."""

from __future__ import annotations

import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from io import BytesIO

from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from radnode.dicom.encode import words
from radnode.dicom.encode.links import Links
from radnode.dicom.headers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from radnode.domain.codes import PRIVATE_SCHEME, Code
from radnode.domain.errors import ResultError
from radnode.domain.jobs import Assignment
from radnode.domain.model import ModelIdentity
from radnode.domain.study import Instance, Series, Study

VERSION = "0.1.0"
_NAMESPACE = uuid.UUID("6f2f8c0e-6a3b-5d5e-9d5e-0c9a7c1d2f11")

MANUFACTURER = "radnode"
PURPOSE_SOURCE = ("121322", "DCM", "Source Image for Image Processing Operation")

MOST_REFERENCES = 500
"""Source images one object names one by one; of larger series it names the first of each."""

PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence",
    "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight",
)  # fmt: skip
STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName", "StudyDescription", "ProcedureCodeSequence",
)  # fmt: skip
IDENTITY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
)  # fmt: skip
"""Attributes that must be those of the source: whose it is, and which study it belongs to."""
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "StationName", "DeviceSerialNumber")
_HOW_LOSSY = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
DEIDENTIFIED = ("PatientIdentityRemoved", "DeidentificationMethod")
"""Copied only together: the one without the other is invalid, and common (PS3.3 C.7.1.1, Type 1C)."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """One object ready to be written as a Part 10 file."""

    kind: str
    dataset: Dataset = field(repr=False)

    @property
    def SOPInstanceUID(self) -> str:  # noqa: N802 - DICOM's own keyword
        return str(self.dataset.SOPInstanceUID)

    @property
    def SOPClassUID(self) -> str:  # noqa: N802
        return str(self.dataset.SOPClassUID)

    @property
    def TransferSyntaxUID(self) -> str:  # noqa: N802
        return str(self.dataset.file_meta.TransferSyntaxUID)

    def data(self) -> bytes:
        buffer = BytesIO()
        dcmwrite(buffer, self.dataset, enforce_file_format=True)
        return buffer.getvalue()


class Context:
    """One job's encoding: where identity, UIDs, times and series numbers come from."""

    def __init__(
        self,
        source: Series | Study,
        assignment: Assignment,
        about: str = "",
        models: Callable[[], Iterable[ModelIdentity]] = tuple,
    ) -> None:
        self.source = source
        self.assignment = assignment
        self.about = about
        self.created = datetime.fromisoformat(assignment.created)
        self._numbers: dict[tuple[str, str], int] = {}  # SeriesNumber by kind and description
        self._series = Counter[int]()  # how many there are by the number they count from
        self._instances = Counter[tuple[str, str]]()
        self.links = Links(self.uid)
        self._models = models

    def parameters(self) -> list[str]:
        """Of the algorithm: its options, and the models it asked."""
        options = [f"{name}={value}" for name, value in sorted(self.assignment.options.items())]
        return options + [f"asked model {each}" for each in self._models()]

    @cached_property
    def header(self) -> Dataset:
        """Of the representative source instance, its elements as they were received."""
        return self.source.first.dataset()

    @property
    def all_series(self) -> tuple[Series, ...]:
        return self.source.series if isinstance(self.source, Study) else (self.source,)

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(instance for series in self.all_series for instance in series)

    def agreed(self, keyword: str) -> str:
        """What all series say of themselves, by their first image; empty where they do not say the same."""
        said = {series.first.text(keyword) for series in self.all_series}
        return said.pop() if len(said) == 1 else ""

    def representatives(self) -> tuple[Instance, ...]:
        """What stands for the source in one object: all its instances, or of many the first of each series."""
        if len(self.instances) <= MOST_REFERENCES:
            return self.instances
        return tuple(series.first for series in self.all_series)

    def only_series(self, named: Series | None, uid: str = "") -> Series:
        """The series a result belongs to: the one it names, the one of that UID, or the only one there is."""
        if named is not None:
            return named
        for series in self.all_series:
            if series.SeriesInstanceUID == uid or len(self.all_series) == 1:
                return series
        raise ResultError(
            f"a result of app {self.assignment.app!r} does not say which of {len(self.all_series)} series it is about",
            remedy="give it series=study[…]",
        )

    def uid(self, *what: object) -> str:
        """A UID that the same job always gives the same thing (PS3.5 B.2: 2.25 and a UUID)."""
        name = "|".join(map(str, (self.assignment.job_id, *what)))
        return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"

    def device_uid(self) -> str:
        """Of the app as a device: stable per installation and app."""
        return f"2.25.{uuid.uuid5(_NAMESPACE, f'{self.assignment.site_uid}|{self.assignment.app}').int}"

    def begin(self, kind: str, sop_class_uid: str, modality: str, first_number: int, description: str) -> Dataset:
        """The next instance of the series that results of this kind and description go into: all but its content.

        `first_number` is the SeriesNumber where the rule gives none; further series count on from there.
        """
        key = (kind, description)
        rule = self.assignment.label
        first = first_number if rule.number is None else rule.number
        if key not in self._numbers:
            self._numbers[key] = first + self._series[first]
            self._series[first] += 1
        self._instances[key] += 1
        number = self._instances[key]
        ds = Dataset()
        ds.SOPClassUID = sop_class_uid
        ds.SOPInstanceUID = self.uid(*key, number)
        ds.SeriesInstanceUID = self.uid(*key)
        ds.SeriesNumber = self._numbers[key]
        ds.SeriesDescription = clean(rule.description or self._describe(description))
        ds.InstanceNumber = number
        ds.Modality = modality
        if rule.missing:
            words.say_incomplete(ds, rule.missing)
        if self.assignment.predecessors:
            words.say_superseding(ds)
        for name in ("InstanceCreation", "Series", "Content"):
            setattr(ds, f"{name}Date", self.created.strftime("%Y%m%d"))
            setattr(ds, f"{name}Time", self.created.strftime("%H%M%S"))
        self._add_equipment(ds)
        return ds

    def _describe(self, description: str) -> str:
        return words.ending(f"AI {self.assignment.app} {description}", words.RESEARCH)

    def _add_equipment(self, ds: Dataset) -> None:
        ds.Manufacturer = MANUFACTURER
        ds.ManufacturerModelName = clean(self.assignment.app)
        ds.SoftwareVersions = [clean(self.assignment.app_version), f"radnode {VERSION}"]
        ds.DeviceSerialNumber = clean(self.assignment.site_uid)
        ds.StationName = clean(self.assignment.station, 16)
        ds.ContributingEquipmentSequence = Sequence([self._acquisition(), self._processing(ds)])

    def _acquisition(self) -> Dataset:
        item = _equipment(("109101", "DCM", "Acquisition Equipment"))
        item.Manufacturer = "unknown"  # Type 1 here (PS3.3 C.12.1), while a source may leave it empty
        for keyword in _EQUIPMENT:
            text = clean(self.source.first.text(keyword), 16 if keyword == "StationName" else 64)
            if text and text.isascii():
                setattr(item, keyword, text)
        return item

    def _processing(self, ds: Dataset) -> Dataset:
        item = _equipment(("109102", "DCM", "Processing Equipment"))
        for keyword in _EQUIPMENT:
            setattr(item, keyword, ds[keyword].value)
        item.ContributionDateTime = self.created.strftime("%Y%m%d%H%M%S%z")
        item.ContributionDescription = clean(self.about or f"radnode app {self.assignment.app}", 1024)
        return item

    def finish(self, kind: str, ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> Encoded:
        return identified(kind, ds, self.header, syntax)


def identified(kind: str, ds: Dataset, source: Dataset, syntax: str) -> Encoded:
    """Adds patient and study as the source has them, the character set, and the file meta information.

    Where all that was generated is ASCII, values of the source are copied byte for byte and keep their character
    set; otherwise all text becomes UTF-8 (PS3.5 6.1.2).
    `source` is a header, its elements as they were received.
    """
    if is_ascii(ds):
        if "SpecificCharacterSet" in source:
            ds["SpecificCharacterSet"] = source["SpecificCharacterSet"]
    else:
        source = as_text(source)
        ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword in PATIENT + STUDY:
        copy(source, ds, keyword)
    if all(source.get(keyword) for keyword in DEIDENTIFIED):
        for keyword in (*DEIDENTIFIED, "LongitudinalTemporalInformationModified"):
            copy(source, ds, keyword)
    for keyword in TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, "")
    # So that pydicom writes undecoded elements as they are.
    ds.set_original_encoding(False, True, convert_encodings(ds.get("SpecificCharacterSet") or default_encoding))
    ds.file_meta = _file_meta(ds, syntax)
    return Encoded(kind, ds)


def as_text(source: Dataset) -> Dataset:
    """A copy of a header, its text decoded, whatever character set it came in."""
    header = deepcopy(source)
    header.decode()
    return header


def copy(source: Dataset, target: Dataset, keyword: str) -> None:
    """Copies one element as it was received, undecoded where that is possible; nothing where the source has none."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in source:
        return
    element = source.get_item(tag)
    if isinstance(element, RawDataElement) and dictionary_VR(tag) != "SQ":
        target[tag] = element._replace(VR=dictionary_VR(tag))
    else:
        target[tag] = source[tag]


def clean(text: str, longest: int = 64) -> str:
    """Text that fits one value: no backslash (it separates values), no control characters, not too long."""
    shown = "".join(" " if unicodedata.category(each).startswith("C") else each for each in text.replace("\\", "/"))
    return " ".join(shown.split())[:longest].strip()


def is_ascii(ds: Dataset) -> bool:
    """Whether all text generated in a data set, at any depth, is ASCII; what was copied undecoded does not count."""
    elements = (ds.get_item(tag) for tag in ds.keys())  # noqa: SIM118 - iterating a Dataset decodes what was copied
    return all(_is_ascii(each) for each in elements if isinstance(each, DataElement))


def _is_ascii(element: DataElement) -> bool:
    if element.VR == "SQ":
        return all(is_ascii(item) for item in element.value)
    values = element.value if element.VM > 1 else [element.value]
    return all(not isinstance(each, str) or each.isascii() for each in values)


def number(value: float) -> str:
    """As a DS, which has at most 16 characters (PS3.5 6.2)."""
    return str(format_number_as_ds(float(value)))


def numbers(instance: Instance, keyword: str) -> list[str]:
    return [number(each) for each in instance.get(keyword)]


def concept(named: Code) -> Dataset:
    return code(named.value, named.scheme, named.meaning)


def private_scheme() -> Dataset:
    """What stands behind the names apps give as plain text (PS3.3 C.12.1.1.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeName = "names given by radnode apps"
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item


def algorithm(context: Context) -> Dataset:
    """What computed it (PS3.3 table 10-19)."""
    item = Dataset()
    item.AlgorithmFamilyCodeSequence = Sequence([code("123110", "DCM", "Artificial Intelligence")])
    item.AlgorithmName, item.AlgorithmVersion = context.assignment.app, clean(context.assignment.app_version)
    if parameters := context.parameters():
        item.AlgorithmParameters = "\n".join(parameters)
    return item


def add_compression(ds: Dataset, images: Iterable[Instance]) -> None:
    """Once lossy, always lossy: what was made of such images says so, too (PS3.3 C.7.6.1.1.5)."""
    lossy = next((each for each in images if each.text("LossyImageCompression") == "01"), None)
    ds.LossyImageCompression = "01" if lossy else "00"
    for keyword in _HOW_LOSSY:
        if lossy and (values := lossy.attributes.get(keyword)):
            setattr(ds, keyword, [number(each) if isinstance(each, int | float) else each for each in values])


def refer(ds: Dataset, instances: Iterable[Instance]) -> None:
    """Common Instance Reference (PS3.3 C.12.2): series -> instances, each once."""
    by_series: dict[str, dict[str, Dataset]] = {}
    for instance in instances:
        members = by_series.setdefault(instance.text("SeriesInstanceUID"), {})
        members[instance.SOPInstanceUID] = sop_reference(instance)
    items = []
    for uid, members in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = Sequence(members.values())
        items.append(item)
    ds.ReferencedSeriesSequence = Sequence(items)


def sop_reference(instance: Instance) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = instance.SOPClassUID
    item.ReferencedSOPInstanceUID = instance.SOPInstanceUID
    return item


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def image_reference(instance: Instance, purpose: tuple[str, str, str] | None = None) -> Dataset:
    item = sop_reference(instance)
    if instance.frame:
        item.ReferencedFrameNumber = instance.frame
    if purpose:
        item.PurposeOfReferenceCodeSequence = Sequence([code(*purpose)])
    return item


def _equipment(purpose: tuple[str, str, str]) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([code(*purpose)])
    return item


def _file_meta(ds: Dataset, syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta
