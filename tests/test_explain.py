"""What `radnode route` and `radnode check` find out, on real files and with the apps that are shipped."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from radnode.domain.errors import NotFoundError
from radnode.domain.routing import Routing
from radnode.run import apps
from radnode.run.explain import Explanation, check, explain, render, render_findings
from radnode.run.reload import read_routing
from radnode.settings import Settings, load
from radnode.testing import SinkPacs, head_ct
from tests.test_outlets import scp

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent / "shared/data"
CATALOG = apps.find(ROOT / "apps")


@pytest.fixture(scope="module")
def shipped() -> Routing:
    return read_routing(ROOT / "routing.yaml", CATALOG, lenient_broken=False)


@pytest.fixture
def phantom(tmp_path: Path) -> Path:
    """A head CT of four slices with its localizer, a text file beside it."""
    head_ct(tmp_path / "ct", slices=4, size=32, localizer=True)
    (tmp_path / "ct/README.txt").write_text("not an image")
    return tmp_path / "ct"


def settings(tmp_path: Path, routing: str) -> Settings:
    (tmp_path / "routing.yaml").write_text(routing)
    named = {"RADNODE_ROUTING": str(tmp_path / "routing.yaml"), "RADNODE_APPS": str(ROOT / "apps")}
    return load(named, tmp_path / "no.env")


def shown(renderable: RenderableType) -> str:
    console = Console(file=StringIO(), width=300)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def matched(explanation: Explanation) -> dict[str, list[str]]:
    """SeriesDescription -> the rules that match."""
    return {
        series.first.text("SeriesDescription"): [each.rule.name for each in evaluations if each.matched]
        for route in explanation.studies
        for series, evaluations in route.series
    }


def test_the_shipped_rules_pick_the_head_ct_and_leave_its_localizer(shipped: Routing, phantom: Path) -> None:
    found = explain(phantom, shipped)
    assert matched(found) == {"HEAD 5MM STD": ["head-ct-hyperdense"], "LOCALIZER": []}
    assert [path.name for path, _ in found.skipped] == ["README.txt"]


def test_a_single_file_can_be_explained(shipped: Routing, phantom: Path) -> None:
    assert matched(explain(phantom / "ct-0001.dcm", shipped)) == {"HEAD 5MM STD": ["head-ct-hyperdense"]}


def test_the_shipped_test_rule_takes_what_is_named_for_it(shipped: Routing, tmp_path: Path) -> None:
    head_ct(tmp_path, slices=2, size=16, PatientID="RADNODE-TEST-1", StudyDescription="KNEE")
    assert matched(explain(tmp_path, shipped)) == {"HEAD 5MM STD": ["test"]}


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data beside the clone")
def test_the_shipped_rules_pick_the_brain_series_of_real_head_cts(shipped: Routing) -> None:
    philips = matched(explain(REAL / "ct-head-philips", shipped))
    assert [name for name, rules in philips.items() if rules] == ["STD BRAIN 5MM"]
    assert len(philips) == 4
    assert matched(explain(REAL / "ct-head-ge", shipped)) == {"": ["head-ct-hyperdense"]}
    assert not any(matched(explain(REAL / "mr-brain-t1-t2", shipped)).values())


def test_an_expected_rule_matches_or_not_and_an_unknown_one_is_an_error(shipped: Routing, phantom: Path) -> None:
    found = explain(phantom, shipped)
    assert found.matches("head-ct-hyperdense")
    assert not found.matches("test")
    with pytest.raises(NotFoundError, match="did you mean head-ct-hyperdense"):
        found.matches("head-ct-hyperdens")


def test_the_short_form_shows_matches_and_the_long_one_every_verdict(shipped: Routing, phantom: Path) -> None:
    found = explain(phantom, shipped)
    short, full = shown(render(found)), shown(render(found, verdicts=True))
    assert "✓ head-ct-hyperdense (line 31): app hyperdense" in short
    assert "no rule matches (--explain says why)" in short
    assert "PatientID" not in short
    assert '✗ PatientID is "PHANTOM0001", wanted "RADNODE-TEST*" (line 27)' in full
    assert r'✗ ImageType is "ORIGINAL\PRIMARY\LOCALIZER", wanted "AXIAL" (line 36)' in full
    assert "README.txt is no DICOM file" in full


def test_study_rules_are_explained_series_by_series(phantom: Path, tmp_path: Path) -> None:
    text = "rules: [{name: all, level: study, send_to: [], unless: {SeriesDescription: LOCALIZER}}]"
    routing = read_routing(settings(tmp_path, text).routing, CATALOG)
    found = explain(phantom, routing)
    assert [len(each.series) for each in found.studies[0].evaluations] == [1]
    full = shown(render(found, verdicts=True))
    assert "✓ all (line 1): the originals, normal, results stay here, 1 of its series" in full
    assert '✗ SeriesDescription is "LOCALIZER", wanted not "LOCALIZER" in CT series' in full


def test_the_titles_of_the_association_can_be_given(phantom: Path, tmp_path: Path) -> None:
    text = "rules: [{name: from, send_to: [], when: {CallingAETitle: MAINPACS, CalledAETitle: RAD}}]"
    routing = read_routing(settings(tmp_path, text).routing, CATALOG)
    assert not explain(phantom, routing).matches("from")
    assert explain(phantom, routing, calling_aet="MAINPACS", called_aet="RAD").matches("from")


def test_words_of_a_peer_are_neither_markup_nor_terminal_commands(shipped: Routing, tmp_path: Path) -> None:
    head_ct(tmp_path, slices=1, size=16, SeriesDescription="[red]\x1b[2J[/red]")
    text = shown(render(explain(tmp_path, shipped), verdicts=True))
    assert "[red]" in text
    assert "\x1b[2J" not in text


def test_a_folder_without_files_is_an_error(shipped: Routing, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        explain(tmp_path / "nowhere", shipped)


# radnode check


def test_a_sound_node_has_no_problems(tmp_path: Path) -> None:
    findings = check(settings(tmp_path, (ROOT / "routing.yaml").read_text()), CATALOG)
    assert {each.state for each in findings} == {"ok"}
    assert "✓ app hyperdense" in shown(render_findings(findings))


def test_every_problem_of_the_routing_file_is_listed_with_its_line(tmp_path: Path) -> None:
    findings = check(settings(tmp_path, "rules:\n  - {nme: x, send_to: []}\nsenders: everyone\n"), CATALOG)
    listed = [each.message.removeprefix(str(tmp_path)) for each in findings if each.state == "problem"]
    assert [each.split(" ")[0] for each in listed] == ["/routing.yaml:2:", "/routing.yaml:2:", "/routing.yaml:3:"]


def test_a_missing_routing_file_is_a_problem(tmp_path: Path) -> None:
    known = load({"RADNODE_ROUTING": str(tmp_path / "none.yaml")}, tmp_path / "no.env")
    assert [each.state for each in check(known, CATALOG)].count("problem") == 1


def test_a_broken_app_is_a_problem_and_open_senders_a_warning(tmp_path: Path) -> None:
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps/broken.py").write_text("import no_such_module")
    findings = check(settings(tmp_path, "rules: []\nsenders: any\n"), apps.find(tmp_path / "apps"))
    told = [(each.state, each.message) for each in findings if each.state != "ok"]
    assert told == [
        ("problem", "app broken is broken: ModuleNotFoundError: No module named 'no_such_module' (broken.py, line 1)"),
        ("warning", "senders: any - every machine that reaches the DICOM port may push"),
    ]


def test_echo_tells_which_destinations_answer(tmp_path: Path) -> None:
    with SinkPacs(tmp_path / "sink") as sink:
        up = f"up: {{aet: {sink.aet}, host: 127.0.0.1, port: {sink.port}}}"
        down = "down: {aet: X, host: 127.0.0.1, port: 1}"
        known = settings(tmp_path, f"rules: []\ndestinations: {{{up}, {down}}}\n")
        *_, first, second = check(known, CATALOG, with_echo=True)
    assert first.state == "ok"
    assert "answered in" in first.message
    assert second.state == "problem"
    assert "destination down" in second.message


def test_echo_warns_of_rules_whose_results_a_destination_would_refuse(tmp_path: Path) -> None:
    captures = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1")
    with scp(("1.2.840.10008.1.1", "1.2.840.10008.1.2"), captures) as (peer, _):
        place = f"pacs: {{aet: SCP, host: 127.0.0.1, port: {peer.port}}}"
        rule = "rules: [{name: head, app: test, when: {Modality: CT}, send_to: [pacs]}]"
        known = settings(tmp_path, f"{rule}\ndestinations: {{{place}}}\n")
        findings = check(known, CATALOG, with_echo=True)
    (warning,) = (each for each in findings if each.state == "warning")
    assert "pacs does not take sr, seg, ko, pdf: results of these kinds from head would be parked" in warning.message


def test_a_check_finds_a_tls_certificate_that_is_not_there(tmp_path: Path) -> None:
    known = replace(settings(tmp_path, "rules: []\n"), tls_port=2762, tls_cert=str(tmp_path / "none.pem"))
    (problem,) = (each for each in check(known, CATALOG) if each.state == "problem")
    assert "none.pem" in problem.message
