"""From the text of `routing.yaml` to a Routing, or to every problem with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.datadict import keyword_dict

from radnode.domain.app import App, AppOptions, Field
from radnode.domain.assembly import Times
from radnode.domain.routing import (
    KEYS,
    STUDY_KEYWORDS,
    AnyOf,
    Between,
    Complete,
    Destination,
    Hours,
    Routing,
    RoutingError,
    Sender,
    Senders,
    parse_routing,
)
from radnode.domain.routing.destinations import KINDS
from radnode.domain.routing.keywords import STUDY_SEQUENCES
from radnode.run import apps

ROOT = Path(__file__).parent.parent


class Options(AppOptions):
    threshold: float = Field(60, ge=30, le=90)
    regions: list[str] = Field(default=["all"])
    overlay: bool = True


class Hyperdense(App[Options]):
    name, version = "hyperdense", "1.2.0"


class Apps:
    """A catalog of one sound app and one broken one."""

    def names(self) -> list[str]:
        return ["hyperdense", "glioma"]

    def broken(self, name: str) -> str | None:
        return "ImportError: no module named torch" if name == "glioma" else None

    def parse_options(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return Hyperdense.parse_options(given).model_dump(mode="json")

    def version(self, name: str) -> str:
        return Hyperdense.version

    def queue(self, name: str) -> str:
        return "cpu"


def parse(text: str | bytes, *, lenient_broken: bool = False) -> Routing:
    return parse_routing(text, catalog=Apps(), lenient_broken=lenient_broken)


def problems(text: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(RoutingError) as caught:
        parse(text)
    return [(each.line, each.message) for each in caught.value.problems]


def problem(text: str | bytes) -> tuple[int, str]:
    (only,) = problems(text)
    return only


def rule(text: str) -> str:
    """A file with one sound rule, and `text` within it."""
    return f"defaults: {{send_to: []}}\nrules:\n  - name: one\n    {text}\n"


FULL = """\
destinations:
  pacs:     {aet: MAINPACS, host: pacs.hospital.org, port: 104}
  research: {aet: "ORTHANC 2", host: "2001:db8::1", port: 4242}
senders:
  - {aet: MAIN*, host: 10.1.0.0/16}
  - host: ct2
complete:
  series: 1.5s
  study: 1h 30m
defaults: {priority: low, send_to: pacs}
rules:
  - name: head
    app: hyperdense
    when:
      Modality: CT
      StudyDescription: ["*HEAD*", "*BRAIN*"]
      SliceThickness: {max: 5}
    unless:
      ContrastBolusAgent: "*"
      SeriesNumber: {not: {min: 1, max: 99}}
    options: {threshold: 45, regions: [left, right], overlay: no}
    priority: urgent
    series: {number: 9001, description: AI hemorrhage}
    expire: 12h
    complete: {series: 20s}
    run_between: 22:00-06:00
    enabled: yes
  - name: copy
    level: study
    send_to: [research, pacs, research]
"""


def test_a_full_file_is_understood() -> None:
    routing = parse(FULL)
    assert routing.destinations == {
        "pacs": Destination("pacs", "MAINPACS", "pacs.hospital.org", 104),
        "research": Destination("research", "ORTHANC 2", "2001:db8::1", 4242),
    }
    assert routing.destinations["research"].line == 3
    assert routing.senders == Senders((Sender("MAIN*", "10.1.0.0/16"), Sender("", "ct2")))
    assert routing.complete == Complete(series=1.5, study=5400)
    assert routing.keywords == {
        "Modality", "StudyDescription", "SliceThickness", "ContrastBolusAgent", "SeriesNumber",
    }  # fmt: skip


def test_a_full_rule_is_understood() -> None:
    head, copy = parse(FULL).rules
    assert (head.name, head.line, head.level) == ("head", 12, "series")
    assert (head.app, head.app_version) == ("hyperdense", "1.2.0")
    assert [(each.keyword, each.test, each.forbids, each.line) for each in head.conditions] == [
        ("Modality", AnyOf(("CT",)), False, 15),
        ("StudyDescription", AnyOf(("*HEAD*", "*BRAIN*")), False, 16),
        ("SliceThickness", Between(None, 5), False, 17),
        ("ContrastBolusAgent", AnyOf(("*",)), True, 19),
        ("SeriesNumber", Between(1, 99), False, 20),
    ]
    assert head.options == {"threshold": 45.0, "regions": ["left", "right"], "overlay": False}
    assert (head.priority, head.send_to, head.expire, head.enabled) == ("urgent", ("pacs",), 43200, True)
    assert (head.series.number, head.series.description) == (9001, "AI hemorrhage")
    assert head.complete == Complete(series=20, study=5400)
    assert str(head.run_between) == "22:00-06:00"
    assert (copy.app, copy.level, copy.priority, copy.send_to) == (None, "study", "low", ("research", "pacs"))


def test_when_something_is_complete_is_said_for_the_file_a_sender_and_a_rule() -> None:
    routing = parse("""\
senders: [{aet: CT1, complete: {released: 2s, series: 30s}}, {aet: "*"}]
complete: {series: 90s, give_up: 20m}
destinations: {pacs: {aet: A, host: b, port: 104, query: true, fetch: move}}
defaults: {send_to: []}
rules: [{name: stroke, complete: {series: 10s}}, {name: other}]
""")
    assert routing.complete == Complete(series=90, give_up=1200)
    of_ct = routing.senders.complete_of("CT1", "10.0.0.1", lambda host: ())
    assert of_ct == Complete(series=30, released=2, give_up=1200)
    assert routing.senders.complete_of("MR1", "10.0.0.1", lambda host: ()) is None
    stroke, other = (rule.complete.of_sender(of_ct) for rule in routing.rules)
    assert stroke.times == Times(quiet=10, released=2, give_up=1200)
    assert other.times == Times(quiet=30, released=2, give_up=1200)
    assert (routing.destinations["pacs"].query, routing.destinations["pacs"].fetch) == (True, "move")


def test_what_is_not_said_has_its_default() -> None:
    routing = parse("rules: []")
    assert routing.senders == Senders()
    assert routing.complete == Complete(60, 300)
    (only,) = parse(rule("app: hyperdense")).rules
    assert (only.priority, only.send_to, only.enabled) == ("normal", (), True)
    assert (only.expire, only.run_between) == (None, None)
    assert only.options == {"threshold": 60.0, "regions": ["all"], "overlay": True}


def test_the_version_follows_the_text() -> None:
    assert parse("rules: []").version == parse(b"rules: []").version
    assert parse("rules: []").version != parse("rules: [] # edited").version
    assert len(parse("rules: []").version) == 12


# YAML's own guesses do not bite


@pytest.mark.parametrize(
    "name", ["on", "NO", "22:00", "0123", "1e3", "~", "null", "2026-01-31", "0x1F", "1_000", "=", "yes"]
)
def test_a_word_yaml_would_turn_into_something_else_stays_what_it_is(name: str) -> None:
    (only,) = parse(f"rules: [{{name: {name}, send_to: [], when: {{PatientID: {name}}}}}]").rules
    assert only.name == name
    assert only.when[0].test == AnyOf((name,))


def test_hours_need_no_quotes() -> None:
    (only,) = parse(rule("app: hyperdense\n    run_between: 22:00 - 6:00")).rules
    assert isinstance(only.run_between, Hours)
    assert (only.run_between.start.hour, only.run_between.end.hour) == (22, 6)
    (only,) = parse(rule("app: hyperdense\n    run_between: 18:00-24:00")).rules
    assert only.run_between is not None
    assert only.run_between.end.hour == 0


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    routing = parse(b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode())
    assert [each.line for each in routing.rules] == [12, 28]


def test_anchors_and_aliases_may_be_used() -> None:
    text = "rules:\n  - {name: a, send_to: [], when: &head {Modality: CT}}\n  - {name: b, send_to: [], when: *head}\n"
    first, second = parse(text).rules
    assert first.when == second.when


# Problems


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("rules: []\nsender: any\n", 2, "'sender' is no key of routing.yaml; did you mean senders?"),
        (
            "rules: []\ncolour: red\n",
            2,
            "'colour' is no key of routing.yaml; there are destinations, senders, complete, defaults, rules",
        ),
        ("rules: []\nrules: []\n", 2, "'rules' comes twice: it is in line 1 already"),
        ("destinations: {}\n", 1, "there is no `rules`; a node without rules says so with `rules: []`"),
        ("# nothing\n", 0, "the file is empty"),
        ("rules\n", 1, "a map (key: value) is wanted here, not a value"),
        (
            "rules: [\n",
            2,
            "not valid YAML: while parsing a flow node expected the node content, but found '<stream end>'",
        ),
        (
            "rules: []\n---\nrules: []\n",
            2,
            "not valid YAML: expected a single document in the stream but found another document",
        ),
        ("rules: []\nx: *nowhere\n", 2, "not valid YAML: found undefined alias 'nowhere'"),
        ("rules: []\n\n\x07\n", 3, "not valid YAML: the character U+0007"),
        (b"rules: []\n# \xe4\n", 2, "not UTF-8 text"),
        (rule("ap: hyperdense"), 4, "'ap' is no key of a rule; did you mean app?"),
        (rule("app: hyperdens"), 4, "no app 'hyperdens' is installed; did you mean hyperdense?"),
        (rule("app: [hyperdense]"), 4, "one value is wanted here, not a list"),
        (rule("app:"), 4, "a value is missing"),
        (rule("app: glioma"), 4, "app glioma is broken: ImportError: no module named torch"),
        (rule("level: patient"), 4, "'patient' is none of series, study"),
        (rule("priority: urgen"), 4, "'urgen' is none of urgent, normal, low; did you mean urgent?"),
        (rule("enabled: maybe"), 4, "'maybe' is neither true nor false"),
        (rule("send_to: [pcas]"), 4, "no destination 'pcas'"),
        (rule("expire: 12"), 4, "'12' is no duration; 12 of what? write 12s or 12m"),
        (rule("expire: soon"), 4, "'soon' is no duration; write 60s, 5m or 1h 30m"),
        (rule("expire: 0s"), 4, "'0s': a duration is more than 0 and at most 366 days"),
        (
            rule("app: hyperdense\n    run_between: 25:00-06:00"),
            5,
            "'25:00-06:00' is no part of the day; write 22:00-06:00",
        ),
        (rule("options: {threshold: 3}"), 4, "options is of no use to a rule without an app"),
        (rule("complete: {study: 5m}"), 4, "a rule of level series does not wait for `complete: study`"),
        (rule("when: {Modalty: CT}"), 4, "'Modalty' is no DICOM keyword; did you mean Modality?"),
        (rule("when: {callingaetitle: CT}"), 4, "'callingaetitle' is no DICOM keyword; did you mean CallingAETitle?"),
        (rule("when: {Modality: }"), 4, "a value is missing"),
        (rule("when: {Modality: []}"), 4, "Modality: a list of no values can never hold"),
        (rule("when: {Modality: {}}"), 4, "Modality: a value is missing"),
        (rule("when: {Modality: {nto: CT}}"), 4, "'nto' is no key of a condition; did you mean not?"),
        (rule("when: {Modality: {not: {not: CT}}}"), 4, "Modality: `not` inside `not`"),
        (
            rule("when: {Modality: {min: 3}}"),
            4,
            "Modality is neither number, age nor date (VR CS): min and max do not apply",
        ),
        (rule("when: {KVP: {min: a lot}}"), 4, "'a lot' is no number"),
        (rule("when: {KVP: {min: 9, max: 3}}"), 4, "KVP: min is more than max: no value can be that"),
        (rule("when: {KVP: {min: 9, not: 3}}"), 4, "KVP: put min and max inside `not`"),
        (
            rule("when: {PixelData: x}"),
            4,
            "PixelData is binary data (OB or OW); of itself a condition can only ask whether it is present or absent",
        ),
        (rule("when: {Modality.PatientID: x}"), 4, "Modality is no sequence: nothing lies in it"),
        (
            rule("when: {RequestAttributesSequence.PatientIDs: x}"),
            4,
            "'PatientIDs' is no DICOM keyword; did you mean PatientID?",
        ),
        (rule('when: {"(0018,0050)": 5}'), 4, "'(0018,0050)' is no DICOM keyword: write SliceThickness"),
        (rule('when: {"(0018,xx50) GEMS": 5}'), 4, "group 0018 is not private: private groups are odd, from 0009 on"),
        (rule("when: {StudyDate: {min: 1.2.2026}}"), 4, "'1.2.2026' is no date; write 2026-01-31"),
        (rule("when: {StudyTime: {min: 25:00}}"), 4, "'25:00' is no time; write 22:30"),
        (
            rule("when: {StudyDate: {min: 2026-02, max: 2026-01}}"),
            4,
            "StudyDate: min is more than max: no value can be that",
        ),
        (rule("when: {PatientAge: {min: old}}"), 4, "'old' is no age; write years, or 18Y, 6M, 3W or 10D"),
        (
            rule("when: {PatientID: [absent, x]}"),
            4,
            "PatientID: absent cannot stand in a list; the text itself is written \"absent\"",
        ),
        (
            rule("when: {ReferencedStudySequence: x}"),
            4,
            "ReferencedStudySequence is a sequence: name what lies in it, ReferencedStudySequence.Keyword; "
            "of itself a condition can only ask whether it is present or absent",
        ),
        (rule("when: [Modality]"), 4, "a map (key: value) is wanted here, not a list"),
        (
            rule("when: &base {Modality: CT}\n    unless: {<<: *base}"),
            5,
            "merge keys (<<) are not supported: write the keys out",
        ),
        (rule("app: hyperdense\n    series: {number: 0}"), 5, "'0' is no whole number from 1 to 2147483647"),
        (
            rule("app: hyperdense\n    series: {description: Größe}"),
            5,
            "'Größe': a description has at most 64 printable ASCII characters, no backslash",
        ),
        (
            rule("app: hyperdense\n    options:\n      overlay: no\n      treshold: 3"),
            7,
            "option treshold of app hyperdense: there is no such option; did you mean threshold?",
        ),
        (
            rule("app: hyperdense\n    options: {threshold: 300}"),
            5,
            "option threshold of app hyperdense: Input should be less than or equal to 90",
        ),
        ("rules:\n  - {send_to: []}\n", 2, "a rule lacks name"),
        (
            "rules:\n  - {name: a}\n",
            2,
            "no send_to, here or in defaults: name destinations, or do nothing with `send_to: []`",
        ),
        (
            "rules:\n  - {name: a, send_to: []}\n  - {name: a, send_to: []}\n",
            3,
            "two rules are called 'a': the other is in line 2",
        ),
        (
            rule("app: hyperdense\n    inputs: {flair: {Modality: MR}}"),
            5,
            "inputs are chosen from a study: add `level: study`",
        ),
        (rule("level: study\n    inputs: {a: {Modality: MR}}"), 5, "inputs is of no use to a rule without an app"),
        (rule("wait: 5m"), 4, "wait is for named inputs: without `inputs` it does nothing"),
        (
            "rules:\n  - {name: a, app: hyperdense, send_to: [], level: study, inputs: {a: {optional: yes}}}\n",
            2,
            "input 'a' has no conditions: every series would fit",
        ),
        (
            "rules:\n  - {name: a, app: hyperdense, send_to: [], level: study, inputs: {a: {Modality: MR}},\n"
            "     wait: {for: 5m, then: stop}}\n",
            3,
            "'stop' is none of run, give_up",
        ),
        ("rules: []\ndefaults: {send_to: [x]}\n", 2, "no destination 'x'"),
        ("rules: []\ndestinations:\n  pacs: {aet: A, host: b}\n", 3, "destination pacs lacks port"),
        (
            "rules: []\ndestinations: {p: {aet: A, host: b, port: 104, zzz: on}}\n",
            2,
            f"'zzz' is no key of a destination; there are {', '.join(KEYS['a destination'])}",
        ),
        (
            "rules: []\ndestinations: {p: {aet: A, host: b, port: 104, fetch: get}}\n",
            2,
            "fetch needs `query: true`: what is missing has to be asked for first",
        ),
        (
            "rules: []\nsenders: [{complete: {series: 5s}}]\n",
            2,
            "a sender has an aet, a host, or both; `senders: any` admits everybody",
        ),
        (
            "rules: []\ndestinations: {p: {aet: A, host: b, port: 70000}}\n",
            2,
            "'70000' is no whole number from 1 to 65535",
        ),
        (
            "rules: []\ndestinations: {p: {aet: A, host: 10.1.2, port: 104}}\n",
            2,
            "'10.1.2' is neither an IP address nor a host name",
        ),
        (
            "rules: []\ndestinations: {p: {aet: ABCDEFGHIJKLMNOPQ, host: b, port: 104}}\n",
            2,
            "'ABCDEFGHIJKLMNOPQ' is no AE title: at most 16 printable ASCII characters",
        ),
        ("rules: []\nsenders: all\n", 2, "'all' is neither a list of senders nor `any`"),
        ("rules: []\nsenders: [{}]\n", 2, "a sender has an aet, a host, or both; `senders: any` admits everybody"),
        ("rules: []\nsenders: [{host: 10.1.2.3/16}]\n", 2, "'10.1.2.3/16' is no network; did you mean 10.1.0.0/16?"),
        ("rules: []\ndestinations: {p: {url: ftp://x}}\n", 2, "'ftp://x' is no URL; write https://pacs.hospital.org/dicom-web"),
        ("rules: []\ndestinations: {p: {folder: data}}\n", 2, "'data' is no absolute path"),
        ("rules: []\ndestinations: {p: {folder: /d, port: 1}}\n", 2, "port is of no use to a destination with folder"),
        ("rules: []\ndestinations: {p: {url: 'https://x', user: u}}\n", 2, "user and password_file need each other"),
        (
            "rules: []\ndestinations: {p: {folder: /d, wants: [sr], fallback: {seg: sc}}}\n",
            2,
            "seg falls back to sc, which is not among what it `wants`",
        ),
        ("rules: []\ndestinations: {p: {folder: /d, fallback: {seg: pdf}}}\n", 2, "'pdf' is none of sc"),
        ("rules: []\ndestinations: {p: {folder: /d, wants: [x]}}\n", 2, f"'x' is none of {', '.join(KINDS)}"),
        ("rules: []\ncomplete: {series: 1 hour}\n", 2, "'1 hour' is no duration; write 60s, 5m or 1h 30m"),
    ],
)
def test_a_problem_is_named_with_its_line(text: str | bytes, line: int, message: str) -> None:
    assert problem(text) == (line, message)


def test_all_problems_are_found_in_one_reading_in_the_order_of_the_file() -> None:
    text = (
        FULL.replace("priority: urgent", "priority: high")
        .replace("port: 104", "port: x")
        .replace("name: copy", "nme: copy")
    )
    found = problems(text)
    assert [line for line, _ in found] == [2, 22, 28, 28]


def test_a_problem_names_the_file() -> None:
    with pytest.raises(RoutingError, match=r"^site\.yaml:2: 'rule' is no key"):
        parse_routing("rules: []\nrule: []\n", source="site.yaml", catalog=Apps())


def test_a_broken_app_does_not_take_the_running_node_down_and_its_rule_never_matches() -> None:
    routing = parse(rule("app: glioma\n    options: {anything: 1}"), lenient_broken=True)
    assert [str(each) for each in routing.warnings] == [
        "routing.yaml:4: app glioma is broken: ImportError: no module named torch"
    ]
    assert routing.rules[0].app_broken == "ImportError: no module named torch"
    assert parse(FULL, lenient_broken=True).warnings == ()


# Hostile files


def test_aliases_that_grow_without_end_are_refused() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]\n" for n in range(1, 9))
    assert "once aliases are followed" in problem(laughs)[1]
    rules = "".join(f"  - {{name: r{n}, send_to: [], when: *w}}\n" for n in range(2000))
    patterns = ", ".join(f'"*{n}*"' for n in range(2000))
    text = f"rules:\n  - {{name: first, send_to: [], when: &w {{Modality: [{patterns}]}}}}\n{rules}"
    assert "once aliases are followed" in problem(text)[1]


def test_an_alias_to_itself_is_refused() -> None:
    assert problem("rules: &a [*a]\n") == (1, "nested more than 20 levels deep")
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))
    assert problem(chain)[1] == "nested more than 20 levels deep"


@pytest.mark.parametrize("text", ["[" * 100_000, "\n".join("[" * 5000), "{a: " * 50_000, "- " * 50_000, "? " * 50_000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert problem(text)[1] == "nested more than 20 levels deep"


def test_a_file_full_of_faults_is_reported_in_part() -> None:
    found = problems("rules: []\n" + "".join(f"k{n}: x\n" for n in range(3000)))
    assert len(found) == 101
    assert found[-1] == (0, "and 2900 more problems")
    keywords = ", ".join(f"Modalit{n}: CT" for n in range(3000))
    assert len(problems(rule(f"when: {{{keywords}}}"))) == 101


def test_a_huge_file_is_refused() -> None:
    assert problem("#" * 1_000_000) == (0, "longer than 524288 characters")


PIECES = st.sampled_from(
    [
        *FULL.split("\n"),
        *FULL.split(" "),
        "\n",
        "  ",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "!!python/name:os ",
        "|\n",
        '"',
        "'",
        "\\U99999999",
        "%YAML 1.1\n---\n",
        "? ",
        "\t",
        "\x00",
        "\ufeff",
        "\ud800",
        "not: ",
        "min: ",
        "present",
        "min_instances: ",
        "RequestAttributesSequence.",
        "'(0019,xx10) A'",
        "<<: ",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200), st.lists(PIECES, max_size=40).map("".join)))
@example('rules: "\\UFFFFFFFF"')
@example("%YAML " + "9" * 5000 + ".1\n---\nrules: []")
@example("? {a: b}\n: c")
@example("rules: [{name: ! , send_to: []}]")
def test_any_text_gives_a_routing_or_problems(text: str | bytes) -> None:
    try:
        routing = parse(text)
    except RoutingError as error:
        assert error.problems
    else:
        assert isinstance(routing, Routing)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(FULL) - 1), st.integers(0, 30), st.text(max_size=5))
def test_any_slip_of_the_hand_gives_a_routing_or_problems_with_lines(start: int, cut: int, put: str) -> None:
    try:
        parse(FULL[:start] + put + FULL[start + cut :])
    except RoutingError as error:
        assert all(each.line > 0 for each in error.problems)


# What is shipped


def section(title: str) -> str:
    """The part of `docs/routing.md` under `### title`."""
    text = (ROOT / "docs/routing.md").read_text()
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
    assert found, f"docs/routing.md has no section {title!r}"
    return found[1]


@pytest.mark.parametrize("place", KEYS)
def test_every_key_is_documented_and_no_other(place: str) -> None:
    documented = re.findall(r"^\| `(\w+)` \|", section(place), re.MULTILINE)
    assert documented == list(KEYS[place])


@pytest.mark.parametrize(
    ("begin", "end", "known"),
    [("STUDY_KEYWORDS", "end", STUDY_KEYWORDS), ("STUDY_SEQUENCES", "end sequences", STUDY_SEQUENCES)],
)
def test_the_study_attributes_are_documented(begin: str, end: str, known: frozenset[str]) -> None:
    text = (ROOT / "docs/routing.md").read_text()
    listed = re.search(rf"<!-- {begin} -->(.*?)<!-- {end} -->", text, re.DOTALL)
    assert listed
    assert set(re.findall(r"`(\w+)`", listed[1])) == known
    assert known <= set(keyword_dict)


def test_the_example_of_the_documentation_is_sound() -> None:
    example = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/routing.md").read_text(), re.DOTALL)
    assert example
    routing = parse_routing(example[1], catalog=apps.find(ROOT / "apps"))
    assert [each.name for each in routing.rules] == ["head-ct", "research-copy"]
