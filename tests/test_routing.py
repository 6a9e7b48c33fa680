"""What rules say about series and studies, and who may send."""

from __future__ import annotations

import json
from datetime import datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from radnode.domain.routing import AnyOf, Between, Evaluation, Hours, Routing, Sender, Senders, parse_routing
from radnode.domain.routing import evaluate_series as evaluate_series_of
from radnode.domain.routing import evaluate_study as evaluate_study_of
from radnode.domain.study import Instance, Series, Study
from tests.judging import Apps


def routing(*rules: str) -> Routing:
    """Rules in flow style: `when: {…}, unless: {…}`; they are called r0, r1, …"""
    lines = [f"  - {{name: r{number}, app: test, {rule}}}\n" for number, rule in enumerate(rules)]
    return parse_routing("defaults: {send_to: []}\nrules:\n" + "".join(lines), catalog=Apps())


def series(*instances: dict[str, Any], uid: str = "1.2.3") -> Series:
    """Attributes as a mapping; single values may stand without their tuple."""
    made = []
    for number, own in enumerate(instances):
        attributes = {"SeriesInstanceUID": uid, "StudyInstanceUID": "1.2", **own}
        values = {key: value if isinstance(value, tuple) else (value,) for key, value in attributes.items()}
        made.append(Instance(Path(f"{number}.dcm"), values))
    return Series(tuple(made))


def evaluate(rule: str, *instances: dict[str, Any], **context: str) -> Evaluation:
    (evaluation,) = evaluate_series_of(routing(rule), series(*instances), context)
    return evaluation


def matches(rule: str, *instances: dict[str, Any], **context: str) -> bool:
    return evaluate(rule, *instances, **context).matched


# Conditions


@pytest.mark.parametrize(
    ("pattern", "value", "holds"),
    [
        ("*HEAD*", "ct head native", True),
        ("HEAD*", "CT HEAD", False),
        ("*HEAD", "CT head", True),
        ("C?", "CT", True),
        ("C?", "C", False),
        ("?*", "x", True),
        ("T1*POST*AX", "t1 tse post km ax", True),
        ("*a*b*", "xxbxa", False),
        ("ax.l", "axial", False),
        ("[ab]", "a", False),
        ("STRASSE", "straße", True),
        ("CT", "CT ", True),
        ("a*b", "a\nb", True),
    ],
)
def test_patterns_are_those_of_c_find_in_either_case(pattern: str, value: str, holds: bool) -> None:
    assert AnyOf((pattern,)).accepts(value) is holds


def test_a_pattern_that_is_a_number_accepts_the_same_number_however_it_is_written() -> None:
    assert AnyOf(("5",)).accepts(5.0)
    assert AnyOf(("5.00",)).accepts(5)
    assert AnyOf(("1.*",)).accepts(1.5)
    assert not AnyOf(("5",)).accepts(5.1)
    assert not AnyOf(("0123",)).accepts("123"), "text is not a number: a PatientID keeps its zeros"


def test_a_hostile_value_costs_a_pattern_with_many_wildcards_no_more_than_its_length() -> None:
    assert not AnyOf(("*a*a*a*a*a*a*a*a*a*a*b",)).accepts("a" * 16384)


@given(st.text(max_size=40), st.text(alphabet="ab*?.\\[(", max_size=12))
def test_any_pattern_judges_any_value_as_the_definition_does(value: str, pattern: str) -> None:
    def accepts(text: str, rest: str) -> bool:
        if not rest:
            return not text
        if rest[0] == "*":
            return accepts(text, rest[1:]) or (bool(text) and accepts(text[1:], rest))
        return bool(text) and rest[0] in ("?", text[0]) and accepts(text[1:], rest[1:])

    short = value[:8]
    assert AnyOf((pattern,)).accepts(short) == accepts(short.strip(" \0").casefold(), pattern.casefold())


@pytest.mark.parametrize(
    ("limits", "value", "holds"),
    [
        ((None, 5.0), 5.0, True),
        ((None, 5.0), 5.01, False),
        ((1.0, 5.0), 3, True),
        ((1.0, None), 0.5, False),
        ((18.0, None), "045Y", True),
        ((18.0, None), "006M", False),
        ((None, 1.0), "010D", True),
        ((1.0, None), "3.5", True),
        ((1.0, None), "many", False),
        ((1.0, None), 10**400, True),
    ],
)
def test_limits_take_numbers_and_ages(limits: tuple[float | None, float | None], value: Any, holds: bool) -> None:
    assert Between(*limits).accepts(value) is holds


@pytest.mark.parametrize(
    ("limits", "value", "holds"),
    [
        ("StudyDate: {min: 2026-03-01}", "20260301", True),
        ("StudyDate: {min: 2026-03-01}", "20260228", False),
        ("StudyDate: {max: 2026}", "20261231", True),
        ("StudyDate: {max: 2026}", "20270101", False),
        ("StudyDate: {min: 2026-01, max: 2026-02}", "20260228", True),
        ("StudyDate: {min: 20260101}", "2026.01.02", True),
        ("StudyDate: {min: 20260101}", "yesterday", False),
        ("StudyDate: 2026-03-01", "20260301", True),
        ("StudyTime: {min: 22:00}", "220000.123", True),
        ("StudyTime: {min: 22:00}", "21:59:59", False),
        ("StudyTime: {max: 06:00}", "06", True),
        ("AcquisitionDateTime: {max: 2026-03-01 12:00}", "20260301120059.5+0100", True),
        ("AcquisitionDateTime: {max: 2026-03-01T12:00}", "202603011201", False),
        ("PatientAge: {max: 6M}", "026W", True),
        ("PatientAge: {max: 6M}", "007M", False),
        ("PatientAge: {min: 18Y}", "018Y", True),
    ],
)
def test_limits_take_dates_times_and_ages_as_precisely_as_they_are_written(
    limits: str, value: str, holds: bool
) -> None:
    keyword = limits.partition(":")[0]
    assert matches(f"when: {{{limits}}}", {keyword: value}) is holds
    assert matches(f"unless: {{{limits}}}", {keyword: value}) is not holds


def test_present_and_absent_are_words_and_in_quotes_they_are_values() -> None:
    with_agent, without = {"ContrastBolusAgent": "Gd"}, {"Modality": "MR"}
    for rule, wanted in (
        ("when: {ContrastBolusAgent: present}", with_agent),
        ("when: {ContrastBolusAgent: {not: absent}}", with_agent),
        ("unless: {ContrastBolusAgent: absent}", with_agent),
        ("when: {ContrastBolusAgent: absent}", without),
        ("unless: {ContrastBolusAgent: present}", without),
        ("when: {ContrastBolusAgent: {not: present}}", without),
    ):
        assert matches(rule, with_agent) is (wanted is with_agent)
        assert matches(rule, without) is (wanted is without)
    assert matches('when: {ContrastBolusAgent: "absent"}', {"ContrastBolusAgent": "ABSENT"})
    assert not matches("when: {ContrastBolusAgent: absent}", with_agent, without)
    assert evaluate("when: {ContrastBolusAgent: absent}", with_agent).reason == (
        'ContrastBolusAgent is "Gd", wanted absent'
    )


def test_attributes_inside_sequences_and_private_ones_are_conditions_like_any_other() -> None:
    nested, private = "RequestAttributesSequence.RequestedProcedureDescription", "(0019,xx10) GEMS_ACQU_01"
    assert matches(f"when: {{{nested}: '*STROKE*'}}", {nested: ("CT HEAD", "CT STROKE")})
    assert not matches(f"when: {{{nested}: '*STROKE*'}}", {"Modality": "CT"})
    assert matches(f"when: {{'{private}': {{min: 3}}}}", {private: 4})
    assert matches("when: {RequestAttributesSequence: present}", {"RequestAttributesSequence": "2 items"})


def test_a_path_that_begins_with_a_sequence_of_the_study_chooses_the_study() -> None:
    of_study, of_series = "ProcedureCodeSequence.CodeValue", "RequestAttributesSequence.StudyInstanceUID"
    conditions = routing(f"level: study, when: {{{of_study}: x, {of_series}: y}}").rules[0].conditions
    assert [each.on_study for each in conditions] == [True, False]


def test_any_value_of_a_multi_valued_attribute_will_do() -> None:
    rule = "when: {ImageType: AXIAL}"
    assert matches(rule, {"ImageType": ("ORIGINAL", "PRIMARY", "AXIAL")})
    assert not matches(rule, {"ImageType": ("ORIGINAL", "PRIMARY", "LOCALIZER")})
    assert not matches("when: {ImageType: {not: LOCALIZER}}", {"ImageType": ("ORIGINAL", "LOCALIZER")})


def test_any_of_a_list_of_patterns_will_do() -> None:
    rule = 'when: {StudyDescription: ["*HEAD*", "*BRAIN*"]}'
    assert matches(rule, {"StudyDescription": "MR Brain"})
    assert not matches(rule, {"StudyDescription": "MR Knee"})


@pytest.mark.parametrize(
    "absent", [{}, {"ContrastBolusAgent": ()}, {"ContrastBolusAgent": ""}, {"ContrastBolusAgent": "  "}]
)
def test_an_absent_or_empty_attribute_meets_only_not(absent: dict[str, Any]) -> None:
    assert matches('when: {ContrastBolusAgent: {not: "*"}}', absent)
    assert matches("when: {ContrastBolusAgent: {not: IOMERON}}", absent)
    assert not matches('when: {ContrastBolusAgent: "*"}', absent)
    assert not matches("when: {SliceThickness: {max: 5}}", absent)
    assert matches('unless: {ContrastBolusAgent: "*"}', absent)
    assert not matches("unless: {ContrastBolusAgent: {not: IOMERON}}", absent)


def test_any_condition_of_unless_excludes() -> None:
    rule = 'unless: {SeriesDescription: ["*SCOUT*"], ContrastBolusAgent: "*"}'
    assert matches(rule, {"SeriesDescription": "AXIAL"})
    assert not matches(rule, {"SeriesDescription": "Scout"})
    assert not matches(rule, {"SeriesDescription": "AXIAL", "ContrastBolusAgent": "IOMERON"})


def test_what_is_required_must_be_so_in_every_image_that_has_the_attribute() -> None:
    rule = "when: {SliceThickness: {max: 5}}"
    thin, thick, silent = {"SliceThickness": 5.0}, {"SliceThickness": 7.0}, {}
    assert matches(rule, thin, silent)
    for mixed in ([thin, thick], [thick, thin]):
        evaluation = evaluate(rule, *mixed)
        assert not evaluation.matched, "whatever comes first"
        assert '"5"' in evaluation.reason and '"7"' in evaluation.reason


def test_what_is_forbidden_must_be_so_in_no_image() -> None:
    plain, contrast = {"Modality": "CT"}, {"Modality": "CT", "ContrastBolusAgent": "IOMERON"}
    for rule in ('unless: {ContrastBolusAgent: "*"}', 'when: {ContrastBolusAgent: {not: "*"}}'):
        assert matches(rule, plain, plain)
        assert not matches(rule, plain, contrast)
        assert not matches(rule, contrast, plain)


def test_one_image_of_another_patient_does_not_slip_through_with_its_series() -> None:
    assert not matches('when: {PatientID: "RESEARCH*"}', {"PatientID": "RESEARCH1"}, {"PatientID": "4711"})


def test_the_titles_of_the_association_are_conditions() -> None:
    rule = "when: {CallingAETitle: MAIN*, CalledAETitle: RADNODE}"
    assert matches(rule, {}, CallingAETitle="MAINPACS", CalledAETitle="RADNODE")
    assert not matches(rule, {}, CallingAETitle="CT2", CalledAETitle="RADNODE")
    assert not matches(rule, {})


# Evaluations


def test_every_rule_is_evaluated_and_every_matching_one_fires() -> None:
    rules = routing("when: {Modality: CT}", "when: {Modality: MR}", "level: series")
    evaluations = evaluate_series_of(rules, series({"Modality": "CT"}), {})
    assert [(each.rule.name, each.matched) for each in evaluations] == [("r0", True), ("r1", False), ("r2", True)]
    assert evaluations[0].series == (series({"Modality": "CT"}),)
    assert evaluations[1].series == ()


def test_an_evaluation_says_what_was_wanted_and_found_and_in_which_line() -> None:
    rule = "when: {Modality: CT, SliceThickness: {min: 1, max: 5}}"
    evaluation = evaluate(rule, {"Modality": "CT", "SliceThickness": 8.0})
    assert evaluation.reason == 'SliceThickness is "8", wanted 1 to 5'
    held, failed = evaluation.verdicts
    assert (held.keyword, held.found, held.wanted, held.holds) == ("Modality", '"CT"', '"CT"', True)
    assert (failed.found, failed.holds, failed.line, failed.series_uid) == ('"8"', False, 3, "1.2.3")


def test_an_evaluation_is_plain_json() -> None:
    evaluation = evaluate("when: {Modality: CT}", {"Modality": "MR"})
    told = json.loads(json.dumps(evaluation.to_json()))
    assert told["rule"] == "r0"
    assert told["matched"] is False
    assert told["verdicts"][0]["found"] == '"MR"'


def test_the_timeline_keeps_a_match_whole_and_of_what_did_not_match_why_and_whether_it_was_near() -> None:
    rule = "when: {Modality: CT, BodyPartExamined: HEAD}"
    match = evaluate(rule, {"Modality": "CT", "BodyPartExamined": "HEAD"})
    assert match.for_timeline() == match.to_json()
    near = evaluate(rule, {"Modality": "CT"})
    assert near.for_timeline() == {
        "rule": "r0", "line": near.rule.line, "matched": False, "reason": near.reason,
        "failed": 1, "absent": ["BodyPartExamined"],
    }  # fmt: skip
    far = evaluate(rule, {"Modality": "absent"}).for_timeline()
    assert (far["failed"], far["absent"]) == (2, ["BodyPartExamined"])
    other = evaluate(rule, {"Modality": "CT", "BodyPartExamined": "absent"}).for_timeline()
    assert (other["failed"], other.get("absent")) == (1, None)


def test_what_was_found_is_short_and_cannot_control_a_terminal() -> None:
    many = [{"SeriesDescription": f"\x1b[2J{number}" + "x" * 10_000} for number in range(100)]
    (verdict,) = evaluate("when: {SeriesDescription: HEAD}", *many).verdicts
    assert len(verdict.found) < 500
    assert verdict.found.isprintable()
    assert verdict.found.endswith("and 95 more")


def test_a_rule_switched_off_says_that_it_would_match() -> None:
    evaluation = evaluate("enabled: no, when: {Modality: CT}", {"Modality": "CT"})
    assert not evaluation.matched
    assert evaluation.reason == "it would match, but is switched off (enabled: false)"


def test_a_series_of_too_few_instances_is_not_taken_and_the_reason_says_so() -> None:
    assert matches("min_instances: 2", {"InstanceNumber": 1}, {"InstanceNumber": 2})
    short = evaluate("min_instances: 2", {"InstanceNumber": 1})
    assert short.reason == "min_instances is 1, wanted at least 2"
    assert not short.matched


def test_a_rule_without_conditions_takes_everything() -> None:
    assert matches("level: series", {})


def test_rules_of_one_level_are_not_held_against_the_other() -> None:
    rules = routing("level: study", "level: series")
    one = series({"Modality": "CT"})
    assert [each.rule.name for each in evaluate_series_of(rules, one, {})] == ["r1"]
    assert [each.rule.name for each in evaluate_study_of(rules, Study((one,)), {})] == ["r0"]


# Studies


def study(**series_of: dict[str, Any]) -> Study:
    """One series of one image for each name, which becomes its UID."""
    return Study(tuple(series(attributes, uid=name) for name, attributes in series_of.items()))


def chosen(rule: str, of: Study, contexts: dict[str, dict[str, str]] | None = None) -> list[str]:
    (evaluation,) = evaluate_study_of(routing(f"level: study, {rule}"), of, contexts or {})
    assert evaluation.matched == bool(evaluation.series)
    return [each.SeriesInstanceUID for each in evaluation.series]


HEAD = {"StudyDescription": "MR HEAD", "Modality": "MR"}


def test_conditions_on_series_attributes_choose_the_series_of_a_study() -> None:
    three = study(a={**HEAD, "SeriesDescription": "T1"}, b={**HEAD, "SeriesDescription": "SCOUT"}, c=HEAD)
    assert chosen('when: {StudyDescription: "*HEAD*"}', three) == ["a", "b", "c"]
    assert chosen('when: {SeriesDescription: "T*"}', three) == ["a"]
    assert chosen('unless: {SeriesDescription: "SCOUT"}', three) == ["a", "c"], "it does not refuse the study"


def test_conditions_on_study_attributes_choose_the_study() -> None:
    assert chosen('when: {StudyDescription: "*KNEE*"}', study(a=HEAD, b=HEAD)) == []
    with_phantom = study(a={**HEAD, "PatientID": "QA1"}, b=HEAD)
    assert chosen('unless: {PatientID: "QA*"}', with_phantom) == [], "one image is enough"
    assert chosen('when: {PatientID: {not: "QA*"}}', with_phantom) == []


def test_a_series_that_lacks_a_study_attribute_follows_its_study() -> None:
    assert chosen('when: {StudyDescription: "*HEAD*"}', study(a=HEAD, b={"Modality": "MR"})) == ["a", "b"]
    assert chosen('unless: {StudyDescription: {not: "*HEAD*"}}', study(a=HEAD, b={"Modality": "MR"})) == ["a", "b"]


def test_a_series_that_contradicts_its_study_is_left_out_and_refuses_nothing() -> None:
    report = {"StudyDescription": "DOSE REPORT", "Modality": "SR"}
    assert chosen('when: {StudyDescription: "*HEAD*"}', study(a=HEAD, b=report)) == ["a"]
    stranger = {**HEAD, "PatientID": "4711"}
    assert chosen('when: {PatientID: "RESEARCH*"}', study(a={**HEAD, "PatientID": "RESEARCH1"}, b=stranger)) == ["a"]


def test_a_study_of_which_no_series_is_left_does_not_match_and_says_why() -> None:
    rules = routing('level: study, when: {StudyDescription: "*HEAD*", SeriesDescription: "*FLAIR*"}')
    (evaluation,) = evaluate_study_of(rules, study(a={**HEAD, "SeriesDescription": "T1"}, b=HEAD), {})
    assert not evaluation.matched
    assert evaluation.reason.startswith('no series is left: SeriesDescription is "T1", wanted "*FLAIR*"')
    assert [(each.keyword, each.series_uid, each.holds) for each in evaluation.verdicts] == [
        ("StudyDescription", "", True),
        ("SeriesDescription", "a", False),
        ("SeriesDescription", "b", False),
    ]


def test_the_association_of_each_series_is_a_condition_on_that_series() -> None:
    contexts = {"a": {"CallingAETitle": "CT1"}, "b": {"CallingAETitle": "CT2"}}
    assert chosen("when: {CallingAETitle: CT2}", study(a=HEAD, b=HEAD), contexts) == ["b"]


# Hours


@pytest.mark.parametrize(
    ("hours", "at", "is_open"),
    [
        (Hours(time(8), time(18)), time(8), True),
        (Hours(time(8), time(18)), time(18), False),
        (Hours(time(8), time(18)), time(3), False),
        (Hours(time(22), time(6)), time(23, 59, 59), True),
        (Hours(time(22), time(6)), time(0), True),
        (Hours(time(22), time(6)), time(6), False),
        (Hours(time(22), time(6)), time(12), False),
        (Hours(time(18), time(0)), time(23), True),
        (Hours(time(18), time(0)), time(0), False),
    ],
)
def test_hours_are_open_from_their_start_up_to_their_end_also_over_midnight(
    hours: Hours, at: time, is_open: bool
) -> None:
    assert hours.open_at(at) is is_open


_TIMES = st.times().map(lambda each: each.replace(second=0, microsecond=0))


@given(_TIMES, _TIMES, st.times())
def test_of_two_complementary_hours_just_one_is_open_and_text_keeps_them(one: time, other: time, at: time) -> None:
    assume(one != other)
    hours = Hours(one, other)
    assert hours.open_at(at) is not Hours(other, one).open_at(at)
    assert Hours.of(str(hours)) == hours


@given(st.integers(0, 4_000_000_000), st.sampled_from(["Europe/Berlin", "America/St_Johns", "Pacific/Apia", "UTC"]))
def test_hours_are_those_of_the_clock_on_the_wall_also_when_daylight_saving_begins_or_ends(at: int, zone: str) -> None:
    local = datetime.fromtimestamp(at, ZoneInfo(zone))
    assert Hours(time(22), time(6)).open_when(at, ZoneInfo(zone)) is (local.hour >= 22 or local.hour < 6)


# Senders


def test_without_a_list_of_senders_only_this_machine_may_push() -> None:
    senders = Senders()
    assert senders.allows("ANY", "127.0.0.1")
    assert senders.allows("ANY", "::1")
    assert senders.allows("ANY", "::ffff:127.0.0.1")
    assert senders.allows("ANY", "10.1.2.3", local_ip="10.1.2.3"), "a peer with the address it called is this machine"
    assert not senders.allows("ANY", "10.1.2.4", local_ip="10.1.2.3")
    assert not senders.allows("ANY", "not an address")


def test_a_listed_sender_needs_its_title_and_its_address() -> None:
    senders = Senders((Sender("MAIN*", "10.1.0.0/16"), Sender("", "192.168.7.5"), Sender("ANYWHERE")))
    assert senders.allows("mainpacs", "10.1.255.1")
    assert senders.allows("MAINPACS", "::ffff:10.1.0.9")
    assert not senders.allows("MAINPACS", "10.2.0.1")
    assert not senders.allows("CT1", "10.1.0.1")
    assert senders.allows("CT1", "192.168.7.5")
    assert senders.allows("ANYWHERE", "2001:db8::1")
    assert not senders.allows("CT1", "127.0.0.1"), "the list is all there is"


def test_a_sender_named_by_its_host_is_looked_up() -> None:
    senders = Senders((Sender(host="ct2.hospital.org"),))
    names = {"ct2.hospital.org": ["10.1.2.3", "2001:db8::7"]}
    assert senders.allows("CT", "10.1.2.3", resolve=lambda host: names[host])
    assert senders.allows("CT", "2001:DB8:0::7", resolve=lambda host: names[host])
    assert not senders.allows("CT", "10.1.2.4", resolve=lambda host: names[host])
    assert not senders.allows("CT", "10.1.2.3"), "a name that cannot be resolved admits nobody"


def test_senders_any_admits_everybody() -> None:
    assert Senders(None).any
    assert Senders(None).allows("", "203.0.113.9")


# Inputs


GLIOMA = (
    "level: study, when: {Modality: MR}, inputs: {flair: {SeriesDescription: '*FLAIR*'}, "
    "t1ce: {SeriesDescription: ['*T1*POST*', '*T1*GAD*']}, t2: {SeriesDescription: '*T2*', optional: true}}"
)


def mr(description: str, images: int = 2, **attributes: Any) -> list[dict[str, Any]]:
    """Images of one series, as they come after its description."""
    return [{"Modality": "MR", "Rows": 256, "SeriesDescription": description, **attributes}] * images


def named(rule: str, of: Study) -> Evaluation:
    (evaluation,) = evaluate_study_of(routing(rule), of, {})
    return evaluation


def served(evaluation: Evaluation) -> dict[str, str]:
    return {name: each.SeriesInstanceUID for name, each in evaluation.inputs.items()}


def study_of(**lists: list[dict[str, Any]]) -> Study:
    return Study(tuple(series(*images, uid=name) for name, images in lists.items()))


def test_inputs_are_the_series_that_fit_them_by_name() -> None:
    found = named(GLIOMA, study_of(a=mr("AX FLAIR"), b=mr("AX T1 POST KM"), c=mr("AX T1"), d=mr("T2 TSE")))
    assert (found.matched, found.whole, found.missing) == (True, True, ())
    assert served(found) == {"flair": "a", "t1ce": "b", "t2": "d"}
    assert [each.SeriesInstanceUID for each in found.series] == ["a", "b", "d"]
    assert found.reason == 'flair is "AX FLAIR" (2 instances); t1ce is "AX T1 POST KM" (2 instances); ' + (
        't2 is "T2 TSE" (2 instances)'
    )
    json.dumps(found.to_json())


def test_an_optional_input_may_be_missing_a_needed_one_not_and_the_reason_says_why() -> None:
    without = named(GLIOMA, study_of(a=mr("FLAIR"), b=mr("T1 GAD")))
    assert (without.matched, without.whole) == (True, False)
    lacking = named(GLIOMA, study_of(a=mr("FLAIR"), c=mr("T1")))
    assert (lacking.matched, lacking.missing, lacking.series) == (False, ("t1ce",), ())
    assert 'no series for input t1ce: SeriesDescription is "FLAIR", wanted "*T1*POST*" or "*T1*GAD*"' in lacking.reason
    nothing = named(GLIOMA, study_of(c=mr("T1")))
    assert (nothing.matched, nothing.missing) == (False, ())


def test_of_several_series_that_fit_the_one_with_the_most_images_is_taken_then_the_newest() -> None:
    more = named(GLIOMA, study_of(a=mr("FLAIR", 2), b=mr("FLAIR", 3), c=mr("T1 GAD")))
    assert served(more)["flair"] == "b"
    assert more.filled.fitting == {"a", "b", "c"}
    early, late = {"AcquisitionDate": "20260101", "AcquisitionTime": "10"}, {"AcquisitionDate": "20260102"}
    newest = study_of(a=mr("FLAIR", **early), b=mr("FLAIR", **late), c=mr("FLAIR", **early), d=mr("T1 GAD"))
    assert served(named(GLIOMA, newest))["flair"] == "b"
    frames = study_of(a=mr("FLAIR", 5), b=mr("FLAIR", 1, NumberOfFrames=44), c=mr("T1 GAD"))
    assert served(named(GLIOMA, frames))["flair"] == "b"


def test_derived_and_localizer_series_are_no_inputs_unless_the_input_asks_for_image_types() -> None:
    derived, localizer = ("DERIVED", "PRIMARY", "MPR"), ("ORIGINAL", "PRIMARY", "LOCALIZER")
    of = study_of(a=mr("FLAIR", 9, ImageType=derived), b=mr("FLAIR", 8, ImageType=localizer), c=mr("FLAIR", 1))
    rule = "level: study, inputs: {flair: {SeriesDescription: '*FLAIR*'%s}}"
    assert served(named(rule % "", of)) == {"flair": "c"}
    assert served(named(rule % ", ImageType: DERIVED", of)) == {"flair": "a"}
    assert served(named(rule % ", unless: {ImageType: ORIGINAL}", of)) == {"flair": "a"}
    assert served(named("level: study, inputs: {x: {SeriesClass: localizer}}", of)) == {"x": "b"}
    refused = [each for each in named(rule % "", of).verdicts if each.keyword == "ImageType" and not each.holds]
    assert [(each.input, each.series_uid, each.wanted) for each in refused] == [
        ("flair", "a", 'none of "DERIVED", "LOCALIZER"'),
        ("flair", "b", 'none of "DERIVED", "LOCALIZER"'),
    ]


def test_a_series_serves_one_input_and_the_one_with_the_least_choice_chooses_first() -> None:
    rule = "level: study, inputs: {t1: {SeriesDescription: '*T1*'}, t1ce: {SeriesDescription: '*T1*GAD*'}}"
    assert served(named(rule, study_of(a=mr("T1 GAD", 9), b=mr("T1", 2)))) == {"t1": "b", "t1ce": "a"}
    alone = named(rule, study_of(a=mr("T1 GAD")))
    assert (served(alone), alone.missing) == ({"t1": "a"}, ("t1ce",))
    assert "no series for input t1ce: taken by others" in alone.reason


def test_what_an_input_needs_more_of_it_says_itself() -> None:
    rule = "level: study, inputs: {flair: {SeriesDescription: '*FLAIR*', min_instances: 3, unless: {EchoTime: 5}}}"
    assert named(rule, study_of(a=mr("FLAIR", 3))).matched
    assert not named(rule, study_of(a=mr("FLAIR", 2))).matched
    assert not named(rule, study_of(a=mr("FLAIR", 3, EchoTime=5.0))).matched


@given(st.permutations(["a", "b", "c", "d", "e"]))
def test_the_choice_of_inputs_does_not_depend_on_the_order_of_the_series(order: list[str]) -> None:
    images = {"a": mr("FLAIR", 3), "b": mr("FLAIR", 3), "c": mr("T1 GAD", 1), "d": mr("T1 POST", 2), "e": mr("T2")}
    assert served(named(GLIOMA, study_of(**{name: images[name] for name in order}))) == {
        "flair": "b",
        "t1ce": "d",
        "t2": "e",
    }
