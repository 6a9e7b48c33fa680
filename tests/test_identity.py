"""The PACS has another name for the patient, or another study, by the time the results come."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid
from sqlalchemy import delete

from radnode.dicom.encode.check import dciodvfy
from radnode.domain.routing import Destination
from radnode.state import deliveries, schema
from tests.databases import rows
from tests.peers import Orthanc, tool
from tests.sending import Desk, of_study
from tests.test_fallback import desk, job

__all__ = ["desk"]


def of(orthanc: Orthanc, **more: str) -> Destination:
    return Destination("pacs", orthanc.aet, "127.0.0.1", orthanc.port, identity="reissue", receipt="find", **more)  # type: ignore[arg-type]


def delivered(desk: Desk, orthanc: Orthanc) -> list[pydicom.Dataset]:
    """What Orthanc has of the job, once it is delivered."""
    desk.settle("delivered")
    uids = [each.sop_instance_uid for each in rows(desk.ledger, schema.substitute)]
    found = []
    for uid in uids:
        path = desk.settings.home / f"{uid}.dcm"
        path.write_bytes(orthanc.download(uid))
        assert dciodvfy(path) == []
        found.append(pydicom.dcmread(path))
    assert len(orthanc.instances()) == 1 + len(uids)
    return found


@pytest.mark.parametrize("charset", ["ascii", "japanese"])
def test_results_go_under_the_name_that_a_merged_patient_has(
    desk: Desk, tmp_path: Path, orthanc: Orthanc, charset: str
) -> None:
    made = job(desk, tmp_path, charset)
    (source,) = (tmp_path / "in").glob("*.dcm")
    orthanc.upload(of_study(tmp_path / "c.dcm", source, PatientID="MERGED", PatientName="Merged^Name").path)
    desk.route(of(orthanc))
    found = delivered(desk, orthanc)
    assert {(each.PatientID, str(each.PatientName)) for each in found} == {("MERGED", "Merged^Name")}
    before = {pydicom.dcmread(path).SOPInstanceUID for path in made.values()}
    assert not before & {each.SOPInstanceUID for each in found}
    assert all("revised" not in each.SeriesDescription for each in found)
    (noted,) = desk.events("reissued")
    assert noted["instances"] == 3
    assert noted["reason"].startswith("the study has another PatientID and PatientName")
    with desk.ledger.begin() as tx:  # a worker that died before it could note them makes the same again
        tx.execute(delete(schema.substitute))
        assert deliveries.resend(tx, desk.delivery().id, "test")
    assert {each.SOPInstanceUID for each in delivered(desk, orthanc)} == {each.SOPInstanceUID for each in found}


def test_a_study_that_is_there_under_several_patients_gives_no_result_another_name(
    desk: Desk, tmp_path: Path, orthanc: Orthanc
) -> None:
    job(desk, tmp_path)
    (source,) = (tmp_path / "in").glob("*.dcm")
    for name in ("A", "B"):
        orthanc.upload(of_study(tmp_path / f"{name}.dcm", source, PatientID=name).path)
    desk.route(of(orthanc))
    assert "another PatientID there by now, and is there 2 times" in desk.settle("held").error
    orthanc.upload(source)
    with desk.ledger.begin() as tx:
        assert deliveries.retry(tx, desk.delivery().id, "test")
    desk.settle("delivered")
    assert rows(desk.ledger, schema.substitute) == []


def test_results_follow_their_images_into_another_study(desk: Desk, tmp_path: Path, orthanc: Orthanc) -> None:
    job(desk, tmp_path)
    (source,) = (tmp_path / "in").glob("*.dcm")
    orthanc.upload(of_study(tmp_path / "c.dcm", source, StudyInstanceUID="2.25.99").path)
    desk.route(of(orthanc))
    assert {each.StudyInstanceUID for each in delivered(desk, orthanc)} == {"2.25.99"}


def test_another_study_of_the_same_order_is_not_taken_for_it(desk: Desk, tmp_path: Path, orthanc: Orthanc) -> None:
    job(desk, tmp_path)
    (source,) = (tmp_path / "in").glob("*.dcm")
    other = of_study(tmp_path / "c.dcm", source, StudyInstanceUID="2.25.99", SOPInstanceUID=generate_uid())
    orthanc.upload(other.path)
    desk.route(of(orthanc))
    desk.settle("delivered")
    assert rows(desk.ledger, schema.substitute) == []


def test_what_shows_the_old_name_in_its_picture_is_held(desk: Desk, tmp_path: Path, orthanc: Orthanc) -> None:
    made = job(desk, tmp_path)
    ds = pydicom.dcmread(made["sc"])
    ds.BurnedInAnnotation = "YES"
    ds.save_as(made["sc"])
    (source,) = (tmp_path / "in").glob("*.dcm")
    orthanc.upload(of_study(tmp_path / "c.dcm", source, PatientID="MERGED").path)
    desk.route(of(orthanc))
    assert "shows the identity in its picture" in desk.settle("held").error
    assert len(orthanc.instances()) == 1


def test_a_web_service_is_asked_for_moved_studies_too(desk: Desk, tmp_path: Path) -> None:
    with Orthanc(tmp_path / "web", settings={"Plugins": [tool("libOrthancDicomWeb.so")]}) as orthanc:
        job(desk, tmp_path)
        (source,) = (tmp_path / "in").glob("*.dcm")
        orthanc.upload(of_study(tmp_path / "c.dcm", source, StudyInstanceUID="2.25.99", PatientID="NEW").path)
        url = f"http://127.0.0.1:{orthanc.http_port}/dicom-web"
        desk.route(Destination("pacs", url=url, identity="reissue", receipt="find"))
        found = delivered(desk, orthanc)
        assert {(each.StudyInstanceUID, each.PatientID) for each in found} == {("2.25.99", "NEW")}
