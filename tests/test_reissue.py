"""Kept objects under a corrected identity, and reports as the class that a peer takes."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from highdicom import sr
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from radnode.dicom.encode.check import dciodvfy, identity_problems
from radnode.dicom.encode.reissue import as_comprehensive, corrected, reissue
from radnode.domain.errors import ResultError
from tests.results import IN_ALL, every_kind, phantom, written


def kept(folder: Path, charset: str = "ascii") -> tuple[Path, list[Path]]:
    series = phantom(folder / "in", charset=charset)
    return series.first.path, written(folder / "out", every_kind(series), series)


def reissued(folder: Path, paths: list[Path], header: pydicom.Dataset, key: str = "1") -> list[Path]:
    folder.mkdir()
    for number, encoded in enumerate(reissue(paths, header, key)):
        (folder / f"{encoded.kind}-{number}.dcm").write_bytes(encoded.data())
    return sorted(folder.iterdir(), key=lambda path: int(path.stem.partition("-")[2]))


@pytest.mark.parametrize("charset", ["ascii", "japanese"])
def test_results_are_reissued_under_the_identity_a_peer_knows(tmp_path: Path, charset: str) -> None:
    source, paths = kept(tmp_path, charset)
    found = pydicom.Dataset()
    found.SpecificCharacterSet, found.PatientName, found.PatientID = "ISO_IR 100", "Größer^Jörg", "MERGED1"
    header = corrected(source, found)
    made = reissued(tmp_path / "again", paths, header)
    assert len(made) == IN_ALL
    old = [pydicom.dcmread(path) for path in paths]
    new = [pydicom.dcmread(path) for path in made]
    for path, before, after in zip(made, old, new, strict=True):
        assert dciodvfy(path) == []
        assert identity_problems(after, header) == []
        assert (str(after.PatientName), after.PatientID) == ("Größer^Jörg", "MERGED1")
        assert after.StudyInstanceUID == before.StudyInstanceUID
        assert after.SOPInstanceUID != before.SOPInstanceUID
        assert after.get("PixelData") == before.get("PixelData")
    series = {ds.SeriesInstanceUID for ds in new}
    assert len(series) == len({ds.SeriesInstanceUID for ds in old})
    assert not series & {ds.SeriesInstanceUID for ds in old}


def test_a_reissued_report_refers_to_reissued_objects_and_names_the_one_before(tmp_path: Path) -> None:
    source, paths = kept(tmp_path)
    made = reissued(tmp_path / "again", paths, corrected(source))
    before, report = pydicom.dcmread(paths[-1]), sr.srread(made[-1])
    others = {str(pydicom.dcmread(path).SOPInstanceUID) for path in made[:-2]}
    assert others < {each[2] for each in report.get_evidence()}
    (study,) = report.PredecessorDocumentsSequence
    (reference,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == before.SOPInstanceUID


def test_reissuing_twice_gives_the_same_bytes_and_another_correction_other_uids(tmp_path: Path) -> None:
    source, paths = kept(tmp_path)
    one, two, other = (
        reissued(tmp_path / name, paths, corrected(source), key) for name, key in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert pydicom.dcmread(one[0]).SOPInstanceUID != pydicom.dcmread(other[0]).SOPInstanceUID


def test_a_moved_study_takes_its_results_along(tmp_path: Path) -> None:
    source, paths = kept(tmp_path)
    found = pydicom.Dataset()
    found.StudyInstanceUID = "2.25.77"
    made = reissued(tmp_path / "again", paths, corrected(source, found))
    report = pydicom.dcmread(made[-1])
    assert report.StudyInstanceUID == "2.25.77"
    assert report.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID == "2.25.77"


def test_a_report_can_be_had_as_the_class_that_a_peer_takes(tmp_path: Path) -> None:
    _, paths = kept(tmp_path, "korean")
    lesser = as_comprehensive(paths[-1])
    path = tmp_path / "lesser.dcm"
    path.write_bytes(lesser.data())
    assert dciodvfy(path) == []
    one, two = pydicom.dcmread(paths[-1]), pydicom.dcmread(path)
    assert (one.SOPClassUID, two.SOPClassUID) == (Comprehensive3DSRStorage, ComprehensiveSRStorage)
    assert one.ContentSequence == two.ContentSequence
    assert one.PatientName == two.PatientName
    assert as_comprehensive(paths[-1]).data() == lesser.data()
    with pytest.raises(ResultError, match="no Comprehensive 3D"):
        as_comprehensive(paths[0])
