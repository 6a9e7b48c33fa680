"""What a series is taken for, from its headers; and rules that ask for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.misc import is_dicom
from typer.testing import CliRunner

from radnode import Instance, Series
from radnode.cli import app
from radnode.dicom.volume import read_series
from radnode.domain.errors import RoutingError
from radnode.domain.routing import evaluate_series, parse_routing
from radnode.domain.series_class import CLASSES, KEYWORDS, PLANES, classify
from radnode.run import apps
from radnode.testing import head_ct
from tests.peers import REPO, real_data

AXIAL = (1, 0, 0, 0, 1, 0)


def series(modality: str = "MR", description: str = "", **attributes: Any) -> Series:
    given = {"Modality": modality, "SeriesDescription": description, "ImageOrientationPatient": AXIAL, **attributes}
    values = {key: value if isinstance(value, tuple) else (value,) for key, value in given.items() if value != ""}
    return Series((Instance(Path("x"), {"SeriesInstanceUID": ("1.2",), **values}),))


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("AX T2 FLAIR", "flair"), ("Ax FLAIR FS", "flair"), ("tirm_tra_dark-fluid", "flair"), ("CUBE FLAIR", "flair"),
        ("AX T1", "t1"), ("t1_mprage_sag_p2_iso", "t1"), ("SAG T1 FLAIR", "t1"), ("BRAVO", "t1"), ("T1 PRE GAD", "t1"),
        ("AX T1 POST", "t1ce"), ("T1+C", "t1ce"), ("AX T1 +GD FS", "t1ce"), ("t1_mpr_tra_KM", "t1ce"), ("T1CE", "t1ce"),
        ("AX T1 WITHOUT CONTRAST", "t1"), ("Ax T1 w/o", "t1"), ("MPRAGE POST CONTRAST", "t1ce"),
        ("AX T2 FSE", "t2"), ("T2W_TSE", "t2"), ("AX T2* GRE", "t2star"), ("SWI_Images", "swi"), ("VEN BOLD", "swi"),
        ("ep2d_diff_3scan_trace_ADC", "adc"), ("AX DWI B1000", "dwi"), ("ep2d_diff_TRACEW", "dwi"),
        ("TOF_3D_multi-slab", "mra"), ("relCBF", "perfusion"), ("DSC Perfusion", "perfusion"), ("PD TSE", "pd"),
        ("3-plane loc", "localizer"), ("SURVEY", "localizer"), ("Processed Images", "other"), ("LOCAL SHIM", "other"),
        ("ATTENTION", "other"), ("POSTURE", "other"),
    ],
)  # fmt: skip
def test_words_tell_the_class_of_an_mr_series(description: str, name: str) -> None:
    assert classify(series("MR", description)).name == name


@pytest.mark.parametrize(
    ("physics", "name"),
    [
        ({"ScanningSequence": "SE", "RepetitionTime": 500.0, "EchoTime": 12.0}, "t1"),
        ({"ScanningSequence": "SE", "RepetitionTime": 4000.0, "EchoTime": 100.0}, "t2"),
        ({"ScanningSequence": "SE", "RepetitionTime": 3000.0, "EchoTime": 15.0}, "pd"),
        ({"ScanningSequence": "IR", "RepetitionTime": 9000.0, "EchoTime": 120.0, "InversionTime": 2500.0}, "flair"),
        ({"ScanningSequence": ("GR", "IR"), "RepetitionTime": 2300.0, "EchoTime": 3.0, "InversionTime": 900.0}, "t1"),
        ({"ScanningSequence": "GR", "RepetitionTime": 700.0, "EchoTime": 20.0}, "t2star"),
        ({"DiffusionBValue": 1000.0}, "dwi"),
        ({"ImageType": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")}, "adc"),
        ({"ScanningSequence": "SE", "RepetitionTime": 500.0}, "other"),
        ({}, "other"),
    ],
    ids=str,
)
def test_physics_tells_where_words_do_not(physics: dict[str, Any], name: str) -> None:
    assert classify(series("MR", "BRAIN", **physics)).name == name


@pytest.mark.parametrize(
    ("modality", "attributes", "name", "contrast"),
    [
        ("CT", {"SeriesDescription": "HEAD 5MM"}, "ct", None),
        ("CT", {"ContrastBolusAgent": "Omnipaque"}, "ctce", True),
        ("CT", {"ContrastBolusAgent": "NONE"}, "ct", False),
        ("CT", {"SeriesDescription": "HEAD W/O"}, "ct", False),
        ("CT", {"SeriesDescription": "CTA HEAD", "ContrastBolusAgent": "I"}, "cta", True),
        ("CT", {"ProtocolName": "BRAIN W/O AND W CONTRAST"}, "ct", None),
        ("CT", {"ImageType": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer", None),
        ("CT", {"ImageOrientationPatient": ""}, "capture", None),
        ("US", {}, "other", None),
        ("OT", {}, "capture", None),
    ],
    ids=str,
)
def test_a_ct_is_told_by_contrast_and_place(
    modality: str, attributes: dict[str, Any], name: str, contrast: bool | None
) -> None:
    found = classify(series(modality, **attributes))
    assert (found.name, found.contrast) == (name, contrast)
    assert found.attributes().get("SeriesContrast") == {True: ("yes",), False: ("no",), None: None}[contrast]


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        (AXIAL, "axial"), ((1, 0, 0, 0, 0, -1), "coronal"), ((0, 1, 0, 0, 0, -1), "sagittal"),
        ((1, 0, 0, 0, 0.948, -0.317), "axial"), ((1, 0, 0, 0, 0.7071, -0.7071), "oblique"), ((1, 0), ""),
    ],
)  # fmt: skip
def test_the_plane_is_that_of_the_nearest_axis(orientation: tuple[float, ...], plane: str) -> None:
    assert classify(series(description="T1", ImageOrientationPatient=orientation)).plane == plane


def test_images_in_several_planes_are_a_localizer() -> None:
    one = series(description="T1").first
    other = Instance(Path("y"), {**one.attributes, "ImageOrientationPatient": (0, 1, 0, 0, 0, -1)})
    found = classify(Series((one, other)))
    assert (found.name, found.plane) == ("localizer", "mixed")


VALUES = st.lists(st.text() | st.floats() | st.integers(), min_size=1, max_size=6)


@given(st.dictionaries(st.sampled_from(KEYWORDS), VALUES))
def test_whatever_the_headers_say_there_is_an_answer(headers: dict[str, list[Any]]) -> None:
    found = classify(Series((Instance(Path("x"), {key: tuple(values) for key, values in headers.items()}),)))
    assert found.name in CLASSES and found.plane in ("", *PLANES) and found.why


def test_every_series_of_the_real_data_is_what_it_is() -> None:
    root = real_data("ct-head-ge")[0].parents[1]
    wanted = {
        "AX FSE T2": "t2 axial no", "Perfusion_Weighted": "perfusion axial yes", "relCBF": "perfusion axial yes",
        "mocoMEMPRAGE_220FOV RMS": "t1 sagittal no", "STD BRAIN 5MM": "ct axial no", "BONE BRAIN 1MM": "ct axial no",
        "Exam Summary": "capture sagittal yes",
    }  # fmt: skip
    unnamed = []
    for folder in ("mr-brain-t1-t2", "ct-head-philips", "ct-head-ge", "transfer-syntaxes"):
        files = (path for path in sorted((root / folder).rglob("*")) if path.is_file() and is_dicom(path))
        for each in read_series(files):
            found = classify(each)
            told = " ".join(filter(None, (found.name, found.plane, "yes" if found.derived else "no")))
            if description := each.first.text("SeriesDescription"):
                assert told == wanted.pop(description), found
            else:
                unnamed.append(f"{folder} {told}")
    assert wanted == {}
    assert {"ct-head-ge ct axial no", "ct-head-philips localizer sagittal no"} <= set(unnamed)
    assert {each for each in unnamed if "MR" in each or " t2 " in each} == {"transfer-syntaxes t2 axial yes"}


ROUTING = """
destinations: {{a: {{aet: A, host: h, port: 104}}}}
defaults: {{send_to: [a]}}
rules: [{{name: r, when: {{{condition}}}}}]
"""


def test_a_rule_asks_for_the_class_like_for_any_attribute() -> None:
    condition = "SeriesClass: [flair, t2], SeriesPlane: axial, SeriesDerived: no, SeriesContrast: absent"
    routing = parse_routing(ROUTING.format(condition=condition), source="r", catalog=apps.find(REPO / "apps"))
    assert set(KEYWORDS) <= routing.keywords and "SeriesClass" not in routing.keywords
    (matched,) = evaluate_series(routing, series("MR", "AX T2 FLAIR"), {})
    assert matched.matched
    (refused,) = evaluate_series(routing, series("MR", "AX T1"), {})
    assert not refused.matched and 'SeriesClass is "t1"' in refused.reason


def test_a_class_that_does_not_exist_is_told() -> None:
    with pytest.raises(RoutingError, match="SeriesClass is never 'flare'; did you mean flair"):
        parse_routing(ROUTING.format(condition="SeriesClass: flare"), source="r", catalog=apps.find(REPO / "apps"))


def test_the_command_shows_the_class_and_why(tmp_path: Path) -> None:
    head_ct(tmp_path, slices=3, size=16, localizer=True)
    shown = CliRunner().invoke(app, ["classify", str(tmp_path), "--json"])
    ct, scout = json.loads(shown.stdout)
    assert (ct["SeriesClass"], ct["SeriesPlane"], ct["SeriesDerived"], ct["instances"]) == ("ct", "axial", "no", 3)
    assert scout["SeriesClass"] == "localizer" and scout["why"][0] == "ImageType is LOCALIZER"
    assert "Modality is CT" in CliRunner().invoke(app, ["classify", str(tmp_path)]).stdout
