"""With a real PACS: Orthanc pushes a study, and finds radnode's results in it, valid and exactly as they were made."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.peers import DATA, Node, Orthanc, real_data, tool
from tests.road import QUICK, settled, small_ct, study_uid, uids

pytestmark = pytest.mark.timeout(400)

ROUTING = """\
destinations:
  pacs: {{aet: ORTHANC, host: 127.0.0.1, port: {port}}}
defaults: {{send_to: [pacs]}}
rules:
  - name: wiring
    app: test
    level: study
    when: {{Modality: CT}}
  - name: hyperdense
    app: hyperdense
    when: {{Modality: CT}}
    unless: {{ImageType: LOCALIZER}}
"""
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
_seeds = count(7000)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc") / "pacs") as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("orthanc") / "node", QUICK + ROUTING.format(port=pacs.port)) as running:
        pacs.knows("radnode", running.aet, running.port)
        yield running
        print(running.output()[-20_000:])


def phantom(folder: Path) -> list[Path]:
    return small_ct(folder, next(_seeds), slices=12, size=128, bleed_ml=20, localizer=True)


def head_ct_of(source: str, folder: Path) -> list[Path]:
    return phantom(folder) if source == "phantom" else real_data(source)


@pytest.mark.parametrize(
    "source",
    [
        "phantom",
        pytest.param("ct-head-ge", marks=pytest.mark.skipif(not DATA.exists(), reason="the real data is not here")),
    ],
)
def test_results_of_a_study_that_orthanc_pushed_arrive_in_it_valid_and_as_they_were_made(
    node: Node, pacs: Orthanc, tmp_path: Path, source: str
) -> None:
    files = head_ct_of(source, tmp_path / "study")
    uid = study_uid(files)
    pacs.upload(*files)
    pacs.store_to("radnode", uid)
    arrived_as_made(node, pacs, tmp_path, files)


@pytest.mark.parametrize("sender", ["storescu", "dcmsend"])
def test_a_study_sent_from_a_workstation_gets_its_results_into_the_pacs(
    node: Node, pacs: Orthanc, tmp_path: Path, sender: str
) -> None:
    files = phantom(tmp_path / "study")
    folder = ["--scan-directories", str(tmp_path / "study")]
    command = [tool(sender), "--call", node.aet, "127.0.0.1", str(node.port), *folder]
    subprocess.run(command, check=True, capture_output=True)
    pacs.upload(*files)
    arrived_as_made(node, pacs, tmp_path, files)


def test_results_that_orthanc_pushes_back_with_the_study_start_nothing(
    node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    files = phantom(tmp_path / "study")
    uid = study_uid(files)
    pacs.upload(*files)
    pacs.store_to("radnode", uid)
    before = settled(node, uid)
    held = pacs.instances()
    pacs.store_to("radnode", uid)  # this time with radnode's own results
    settled(node, uid)
    marker = phantom(tmp_path / "marker")
    pacs.upload(*marker)
    pacs.store_to("radnode", study_uid(marker))
    settled(node, study_uid(marker))
    assert [each["id"] for each in settled(node, uid)["jobs"]] == [each["id"] for each in before["jobs"]]
    assert set(held) <= set(pacs.instances())
    assert len(pacs.find("Instance", "StudyInstanceUID", uid)) == len(files) + len(kept(node, uid))


def test_the_validators_used_here_see_what_is_wrong(tmp_path: Path) -> None:
    good, other = phantom(tmp_path / "study")[:2]
    ds = dcmread(other)
    ds.PatientName, ds.PatientSex = "Somebody^Else", "?"
    ds.save_as(tmp_path / "bad.dcm")
    assert not errors("dciodvfy", good)
    assert errors("dciodvfy", tmp_path / "bad.dcm")
    assert not errors("dcentvfy", good, other)
    assert errors("dcentvfy", good, tmp_path / "bad.dcm")


def arrived_as_made(node: Node, pacs: Orthanc, folder: Path, sources: list[Path]) -> None:
    """The study in the PACS is its sources and the results of both apps; these are valid and equal to what was kept."""
    uid = study_uid(sources)
    found = settled(node, uid, timeout=200)
    assert sorted((each["app"], each["state"]) for each in found["jobs"]) == [("hyperdense", "done"), ("test", "done")]
    made = kept(node, uid)
    assert len(pacs.find("Instance", "StudyInstanceUID", uid)) == len(sources) + len(made)
    assert not set(made) & set(uids(sources))
    received = folder / "received"
    received.mkdir()
    for number, (name, path) in enumerate(made.items()):
        file = received / f"{number:04}.dcm"
        file.write_bytes(pacs.download(name))
        assert data_set(file) == data_set(path)
        assert dcmread(file).StudyInstanceUID == uid
    results = sorted(received.iterdir())
    assert errors("dciodvfy", *results) <= errors("dciodvfy", *sources)
    assert errors("dcentvfy", *sources, *results) <= errors("dcentvfy", *sources)
    for each in results:
        if dcmread(each, stop_before_pixels=True).SOPClassUID == REPORT:
            assert "Imaging Measurement Report" in report(each)


def kept(node: Node, study: str) -> dict[str, Path]:
    """SOP Instance UID -> file in the spool, of all results of the study's jobs."""
    jobs = [node.json("job", each["id"]) for each in settled(node, study)["jobs"]]
    return {one["SOPInstanceUID"]: node.home / "spool" / one["path"] for each in jobs for one in each["results"]}


def data_set(path: Path) -> bytes:
    """The bytes after the File Meta, which names who has written the file."""
    data = path.read_bytes()
    return data[144 + int.from_bytes(data[140:144], "little") :]


def errors(program: str, *files: Path) -> set[str]:
    """What a validator calls an error; `dciodvfy` takes one file at a time, `dcentvfy` compares them all."""
    command = [str(Path(sys.executable).with_name(program))]
    runs = [[*command, str(each)] for each in files] if program == "dciodvfy" else [[*command, *map(str, files)]]
    said = ""
    for each in runs:
        done = subprocess.run(each, capture_output=True, text=True, errors="replace", check=False)
        said += done.stdout + done.stderr
    lines = {line for line in said.splitlines() if line.startswith("Error")}
    return {re.sub(r"<\S*\.dcm>|\S*\.dcm", "FILE", line) for line in lines if "Missing SOPInstanceUID" not in line}


def report(path: Path) -> str:
    done = subprocess.run([tool("dsrdump"), str(path)], capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr
    assert "E:" not in done.stderr
    return done.stdout
