"""The rules of `docs/routing.md`'s cookbook, each tried with what it is for, and with what it is not for."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, Sequence

from radnode.run import apps
from radnode.state.ledger import Ledger
from tests.judging import STUDY, Judge
from tests.peers import REPO

PLACES = "".join(f"  {name}: {{aet: {name.upper()}, host: 127.0.0.1, port: 104}}\n"
                 for name in ("pacs", "testpacs", "research", "qa"))  # fmt: skip
HEAD = {"Modality": "CT", "StudyDescription": "CT HEAD", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}
RECIPES = dict(
    re.findall(r"^### (.*?)\n.*?```yaml\n(.*?)```",
               (REPO / "docs" / "routing.md").read_text().partition("## Cookbook")[2], re.MULTILINE | re.DOTALL)
)  # fmt: skip


@pytest.fixture
def cook(tmp_path: Path) -> Iterator[Any]:
    """A judge that goes by one recipe."""
    ledger = Ledger(tmp_path)
    ledger.migrate()

    def made(title: str) -> Judge:
        text = f"destinations:\n{PLACES}defaults: {{send_to: [pacs]}}\nrules:\n{textwrap.indent(RECIPES[title], '  ')}"
        return Judge(tmp_path, ledger, text, apps.find(REPO / "apps"))

    yield made
    ledger.close()


def taken(judge: Judge, study: str = STUDY) -> dict[str, set[str]]:
    """Rule -> UIDs of the series its jobs take."""
    found: dict[str, set[str]] = {}
    for job in judge.jobs(study):
        for uids in judge.inputs(job).values():
            found.setdefault(job["rule"], set()).update(uids)
    return found


def test_head_ct(cook: Any) -> None:
    judge = cook("Head CT")
    judge.receives("1", 12, SliceThickness=5, SeriesDescription="STD BRAIN", **HEAD)
    judge.receives("2", 12, SliceThickness=1, SeriesDescription="BONE", **HEAD)
    judge.receives("3", 2, SliceThickness=5, SeriesDescription="SHORT", **HEAD)
    judge.receives("4", 12, SliceThickness=5, SeriesDescription="CE", ContrastBolusAgent="Iodine", **HEAD)
    judge.receives("5", 1, **{**HEAD, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SliceThickness": 5})
    judge.study_quiet()
    assert taken(judge) == {"head-ct": {"1"}}


def test_chest_x_ray(cook: Any) -> None:
    judge = cook("Chest X-ray")
    chest = {"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "PA", "PatientAge": "054Y"}
    judge.receives("1", 1, **chest)
    judge.receives("2", 1, **{**chest, "ViewPosition": "LL"})
    judge.receives("3", 1, **{**chest, "PatientAge": "009M"})
    judge.series_quiet("1", 4)
    assert judge.jobs() == []
    judge.series_quiet("1", 6)
    judge.study_quiet()
    assert taken(judge) == {"chest-x-ray": {"1"}}


def test_stroke_in_seconds(cook: Any) -> None:
    judge = cook("Stroke, in seconds")
    order = Dataset()
    order.RequestedProcedureDescription = "CT Stroke protocol"
    thin = {"Modality": "CT", "SliceThickness": 1, "StudyDescription": "HEAD"}
    judge.receives("1", RequestAttributesSequence=Sequence([order]), **thin)
    judge.receives("2", **thin)
    judge.series_quiet("1", 4)
    (job,) = judge.jobs()
    assert (job["rule"], job["priority"], judge.inputs(job)) == ("stroke", "urgent", {"1": {"1"}})
    judge.study_quiet()
    assert len(judge.jobs()) == 1


def test_an_mr_exam_with_pauses(cook: Any) -> None:
    judge = cook("An MR exam with pauses")
    mr = {"Modality": "MR", "StudyDescription": "MR BRAIN", "Rows": 256}
    judge.receives("1", SeriesDescription="AX FLAIR", **mr)
    judge.series_quiet("1")
    judge.study_quiet(29 * 60)
    assert not judge.events("study complete")
    judge.receives("2", SeriesDescription="T1 POST KM", **mr)
    judge.series_quiet("2")
    (job,) = judge.jobs()
    assert judge.inputs(job) == {"flair": {"1"}, "t1ce": {"2"}}


def test_a_brain_tumor(cook: Any) -> None:
    judge = cook("Brain tumour, four contrasts")
    mr = {"Modality": "MR", "StudyDescription": "MR BRAIN", "Rows": 256, "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    judge.receives("1", SeriesDescription="AX T2 FLAIR", **mr)
    judge.receives("2", SeriesDescription="AX T1", **mr)
    judge.receives("3", SeriesDescription="AX T1", ContrastBolusAgent="Gadobutrol", **mr)
    judge.receives("4", SeriesDescription="AX T2 TSE", **mr)
    judge.receives("5", SeriesDescription="AX DWI", **mr)
    judge.study_quiet()
    (job,) = judge.jobs()
    assert job["app"] == "glioma"
    assert judge.inputs(job) == {"flair": {"1"}, "t1": {"2"}, "t1ce": {"3"}, "t2": {"4"}}


def test_a_pacs_that_opens_an_association_per_image(cook: Any) -> None:
    judge = cook("A PACS that opens an association per image")
    judge.receives("1", calling_aet="OLDPACS", Modality="CT")
    judge.receives("2", calling_aet="NEWPACS", Modality="CT")
    judge.series_quiet("1", 170)
    assert judge.jobs() == []
    judge.receives("1", 1, copy="b", calling_aet="OLDPACS", Modality="CT")
    judge.study_quiet(190)
    assert taken(judge) == {"slow-sender": {"1"}}


def test_localizers_that_come_last(cook: Any) -> None:
    judge = cook("Localizers that come last")
    spine = {"Modality": "CT", "StudyDescription": "CT SPINE", "SliceThickness": 3}
    judge.receives("1", 5, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], **spine)
    judge.receives("2", 6, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **spine)
    judge.series_quiet("1")
    assert taken(judge) == {"spine": {"1"}}
    judge.study_quiet()
    assert len(judge.jobs()) == 1


def test_ultrasound_clips(cook: Any) -> None:
    judge = cook("Ultrasound clips")
    judge.receives("1", 1, Modality="US", NumberOfFrames=60)
    judge.receives("2", 1, Modality="US")
    judge.study_quiet()
    assert taken(judge) == {"echo-clips": {"1"}}


def test_night_batch(cook: Any) -> None:
    judge = cook("Night batch")
    judge.receives("1", Modality="MR", ProtocolName="t1_MPRAGE_sag")
    judge.study_quiet()
    (job,) = judge.jobs()
    assert job["priority"] == "low"
    hours = judge.routing.rules[0].run_between
    assert str(hours) == "22:00-06:00"


def test_research_forward(cook: Any) -> None:
    judge = cook("Research forward")
    adult = {"Modality": "MR", "PatientAge": "054Y"}
    judge.receives("1", **adult)
    judge.receives("2", Modality="SR", PatientAge="054Y")
    judge.receives("3", study="1.2.9", Modality="MR", PatientAge="012Y")
    judge.study_quiet()
    judge.study_quiet(study="1.2.9")
    assert taken(judge) == {"research-copy": {"1"}}
    assert [each["destination"] for each in judge.view()["deliveries"]] == ["research"]
    assert judge.jobs("1.2.9") == []


def test_stat_by_called_ae_title(cook: Any) -> None:
    judge = cook("STAT by called AE title")
    judge.receives("1", called_aet="RADNODE_STAT", Modality="CT")
    judge.receives("2", called_aet="RADNODE", Modality="CT")
    judge.study_quiet()
    assert taken(judge) == {"stat": {"1"}, "routine": {"2"}}
    assert {each["rule"]: each["priority"] for each in judge.jobs()} == {"stat": "urgent", "routine": "normal"}


def test_test_pacs_first(cook: Any) -> None:
    judge = cook("Test PACS first")
    judge.receives("1", Modality="CT")
    judge.study_quiet()
    found = {each["rule"]: (each["shadow"], each["send_to"]) for each in judge.jobs()}
    assert found == {
        "in-use": (False, ["pacs"]),
        "candidate": (True, ["pacs"]),
        "looked-at": (False, ["testpacs"]),
    }


def test_qa_of_what_matched_nothing(cook: Any) -> None:
    judge = cook("QA of what matched nothing")
    head = {"Modality": "CT", "StudyDescription": "CT HEAD"}
    judge.receives("1", SliceThickness=5, **head)
    judge.receives("2", SliceThickness=10, **head)
    judge.receives("3", **head)
    judge.receives("4", 1, SliceThickness=10, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **head)
    judge.study_quiet()
    assert taken(judge) == {"head-ct": {"1"}, "not-taken": {"2", "3"}}


def test_there_are_thirteen_recipes_and_each_is_tried() -> None:
    source = Path(__file__).read_text()
    assert len(RECIPES) == 13
    assert {title for title in RECIPES if f'cook("{title}")' in source} == set(RECIPES)
