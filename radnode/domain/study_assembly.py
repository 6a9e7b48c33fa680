"""When is a study all here? Its series are complete, each by its own verdict; the question is whether there are more.

Decided as for a series (`assembly`), by the same verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from radnode.domain.assembly import SETTLED, Assessment, Times, Verdict, whole_number
from radnode.domain.study import Series, Value

COUNT, SERIES = "NumberOfStudyRelatedInstances", "NumberOfStudyRelatedSeries"
KEYWORDS = frozenset({COUNT, SERIES})
"""What has to be read from the headers."""


@dataclass(frozen=True)
class StudyInventory:
    """What a peer that can be asked has of a study, radnode's own results left out.

    Attributes:
        series, instances: how many it has.
        lacking: Series Instance UID -> SOP Instance UID -> SOP class, of those that were not here when it was asked.
        same: it has just what was here then.
        fresh: asked since the last instance came.
    """

    source: str
    series: int
    instances: int
    lacking: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    same: bool = False
    fresh: bool = True


@dataclass(frozen=True)
class StudyAssembly:
    """What is here of a study.

    Attributes:
        series: how many.
        uids: of all instances.
        claimed_series, claimed_instances: the different numbers that its instances name as its size.
        given_up: instances that its series are known to lack, and were completed without.
    """

    series: int
    uids: frozenset[str]
    claimed_series: frozenset[int] = frozenset()
    claimed_instances: frozenset[int] = frozenset()
    given_up: int = 0


@dataclass(frozen=True)
class StudySituation:
    """What is known around a study, all of whose series are complete.

    Attributes:
        quiet: seconds for which nothing of it has come; every receiver has told what it received since.
        idle: seconds for which none of its senders has had an association open; None while one has.
        lacked: it was found incomplete before, and what was missing is being fetched or waited for.
    """

    quiet: float
    idle: float | None = None
    inventories: tuple[StudyInventory, ...] = ()
    lacked: bool = False


def assemble_study(series: Iterable[Series], given_up: int = 0) -> StudyAssembly:
    all_series = tuple(series)
    instances = [instance for each in all_series for instance in each]
    claims = [claims_of(each.attributes) for each in instances]
    return StudyAssembly(
        series=len(all_series),
        uids=frozenset(each.SOPInstanceUID for each in instances),
        claimed_series=frozenset(one for one, _ in claims if one),
        claimed_instances=frozenset(other for _, other in claims if other),
        given_up=given_up,
    )


def claims_of(attributes: Mapping[str, tuple[Value, ...]]) -> tuple[int, int]:
    """How many series and instances its study has, as one header says; 0: it does not say."""
    (series, *_), (instances, *_) = (attributes.get(each) or (0,) for each in (SERIES, COUNT))
    return whole_number(series), whole_number(instances)


def judge_study(here: StudyAssembly, now: StudySituation, times: Times) -> Assessment:
    """What is to be thought of a study now."""
    known = next((each for each in now.inventories if each.series), None)
    missing = _missing(known, here) if known else _claimed_missing(here)
    proof = "" if missing or here.given_up else _proof(here, now, known)
    if proof:
        return Assessment(Verdict.PROVEN, True, proof)
    if now.quiet < times.quiet:
        return Assessment(Verdict.RECEIVING, False, "")
    if missing:
        has = f"{known.source} has {known.series} series" if known else _claimed(here)
        return Assessment(Verdict.INCOMPLETE, now.quiet >= times.give_up, f"{has}, {missing} images not here", missing)
    return Assessment(Verdict.PRESUMED, True, f"quiet for {now.quiet:.3g} s")


def _proof(here: StudyAssembly, now: StudySituation, known: StudyInventory | None) -> str:
    """Why nothing can be missing; empty where that is not known."""
    stated = here.claimed_series or here.claimed_instances
    if stated and here.claimed_series <= {here.series} and here.claimed_instances <= {len(here.uids)}:
        return _claimed(here)
    settled = now.lacked or (now.idle is not None and now.idle >= SETTLED)
    if known and known.same and known.fresh and settled:
        return f"{known.source} has the same {known.series} series"
    return ""


def _missing(known: StudyInventory, here: StudyAssembly) -> int:
    return sum(len(each.keys() - here.uids) for each in known.lacking.values())


def _claimed_missing(here: StudyAssembly) -> int:
    """Instances that differ in what they claim claim nothing; a missing series has at least one."""
    stated = ((here.claimed_series, here.series), (here.claimed_instances, len(here.uids)))
    return max(max(max(claims) - found, 0) if len(claims) == 1 else 0 for claims, found in stated)


def _claimed(here: StudyAssembly) -> str:
    stated = ((SERIES, here.claimed_series), (COUNT, here.claimed_instances))
    return ", ".join(f"{keyword} is {max(claims)}" for keyword, claims in stated if claims)
