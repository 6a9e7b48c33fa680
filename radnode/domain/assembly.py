"""When is a series all here? Decided from what its instances say and what is known around them, never from their order.

Three things can be known of a series that has stopped growing: that nothing is missing (*proven*), that something is
missing (*incomplete*), or nothing (then *presumed* complete, once it was quiet for long enough). What does the
deciding is pure; `radnode.run.assembling` gathers what it decides on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from radnode.domain.study import Instance, Value

COUNT, ACQUISITION, ACQUISITION_COUNT = "NumberOfSeriesRelatedInstances", "AcquisitionNumber", "ImagesInAcquisition"
_POSITION, _ORIENTATION = "ImagePositionPatient", "ImageOrientationPatient"
KEYWORDS = frozenset({COUNT, ACQUISITION, ACQUISITION_COUNT, _POSITION, _ORIENTATION})
"""What has to be read from the headers."""
SETTLED = 0.25
"""Seconds a sender has to be without any association before its silence is believed together with other evidence."""
_GAP = 1.5  # times the usual distance


class Verdict(StrEnum):
    RECEIVING = "receiving"
    PROVEN = "proven"
    PRESUMED = "presumed"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Times:
    """Seconds, for one series and one rule.

    Attributes:
        quiet: after which, without any evidence, it is presumed complete.
        released: after which what its sender has released counts as all of it; None: never.
        give_up: after which it is taken as it is, though instances are known to be missing.
    """

    quiet: float
    released: float | None = None
    give_up: float = 600.0


@dataclass(frozen=True)
class Carrier:
    """An association that brought instances of the series.

    Attributes:
        how: `released`, `aborted`, `lost`; empty while it is open.
        instances: of any series.
        opened_at, closed_at: seconds on one clock.
    """

    how: str
    instances: int = 0
    opened_at: float = 0.0
    closed_at: float = 0.0


@dataclass(frozen=True)
class Inventory:
    """What a peer that can be asked has of the series.

    Attributes:
        uids: of its instances; None where it was only counted.
        fresh: asked since the last instance came.
    """

    source: str
    count: int
    uids: frozenset[str] | None = None
    fresh: bool = True

    def lacking(self, here: Collection[str]) -> int:
        """How many of its instances are not here."""
        return max(self.count - len(here), 0) if self.uids is None else len(self.uids.difference(here))

    def equals(self, here: Collection[str]) -> bool:
        return self.fresh and (self.count == len(here) if self.uids is None else self.uids == frozenset(here))


@dataclass(frozen=True)
class Assembly:
    """What a series' instances say together.

    Attributes:
        claims: the different numbers that they name as the size of the series.
        acquired: whether each names its acquisition's size, and every acquisition has just so many of them.
        gaps: places between slices where, by the distance of the others, some are missing.
    """

    uids: frozenset[str]
    claims: frozenset[int] = frozenset()
    acquired: bool = False
    gaps: int = 0


@dataclass(frozen=True)
class Situation:
    """What is known around a series.

    Attributes:
        quiet: seconds for which nothing of it has come; every receiver has told what it received since.
        idle: seconds for which its sender has had no association open; None while it has one.
        lacked: it was found incomplete before, and what was missing is being fetched or waited for.
    """

    quiet: float
    idle: float | None = None
    carriers: tuple[Carrier, ...] = ()
    inventories: tuple[Inventory, ...] = ()
    lacked: bool = False


@dataclass(frozen=True)
class Assessment:
    """A verdict, and why.

    Attributes:
        done: it is taken as it is; else it is waited for.
        missing: instances known to exist and not to be here, at least so many.
    """

    verdict: Verdict
    done: bool
    evidence: str
    missing: int = 0


def assemble(instances: Iterable[Instance]) -> Assembly:
    """What instances say of their series; the order in which they are given plays no part, nor how often."""
    distinct = {each.SOPInstanceUID: each for each in instances}
    stated = [whole_number(each.get(COUNT)) for each in distinct.values()]
    return Assembly(
        uids=frozenset(distinct),
        claims=frozenset(each for each in stated if each),
        acquired=_acquired(distinct.values()),
        gaps=_gaps(distinct.values()),
    )


def claims_of(attributes: Mapping[str, tuple[Value, ...]]) -> tuple[int, bool]:
    """What one header promises: the size of its series (0: it does not say), and whether that of its acquisition."""
    (count, *_), (acquisition, *_) = (attributes.get(each) or (0,) for each in (COUNT, ACQUISITION_COUNT))
    return whole_number(count), bool(whole_number(acquisition))


def judge(here: Assembly, now: Situation, times: Times) -> Assessment:
    """What is to be thought of a series now."""
    known = next((each for each in now.inventories if each.count), None)
    missing = known.lacking(here.uids) if known else _claimed_missing(here)
    proof = "" if missing else _proof(here, now, times, known)
    if proof:
        return Assessment(Verdict.PROVEN, True, proof)
    if now.quiet < times.quiet:
        return Assessment(Verdict.RECEIVING, False, "")
    if missing:
        source = f"{known.source} has {known.count}" if known else f"{COUNT} is {max(here.claims)}"
        return Assessment(Verdict.INCOMPLETE, now.quiet >= times.give_up, f"{source}, {missing} not here", missing)
    gaps = f", slices uneven in {here.gaps} places" if here.gaps else ""
    return Assessment(Verdict.PRESUMED, True, f"quiet for {now.quiet:.3g} s{gaps}")


def released(carriers: Sequence[Carrier]) -> bool:
    """Whether what brought a series is over, and was the way in which its sender sends a whole series.

    An association that brought one instance only is no evidence: perhaps its sender opens one for each. Nor are several
    that followed each other: there may be a next. Several that were open at the same time share a series among them.
    """
    if not carriers or any(each.how != "released" or each.instances < 2 for each in carriers):
        return False
    return len(carriers) == 1 or max(each.opened_at for each in carriers) < min(each.closed_at for each in carriers)


def _proof(here: Assembly, now: Situation, times: Times, known: Inventory | None) -> str:
    """Why nothing can be missing; empty where that is not known."""
    count = len(here.uids)
    if here.claims == {count}:
        return f"{COUNT} is {count}"
    over = now.idle is not None and now.idle >= SETTLED and released(now.carriers)
    if known and known.equals(here.uids) and (over or now.lacked):
        return f"{known.source} has the same {count}"
    if here.gaps or not over:
        return ""
    if here.acquired:
        return f"released, and {ACQUISITION_COUNT} is met"
    if times.released is not None and now.idle is not None and now.idle >= times.released:
        return f"released {now.idle:.3g} s ago"
    return ""


def _claimed_missing(here: Assembly) -> int:
    """Instances that differ in what they claim, or fewer than there are, claim nothing."""
    return max(max(here.claims) - len(here.uids), 0) if len(here.claims) == 1 else 0


def _acquired(instances: Collection[Instance]) -> bool:
    """ImagesInAcquisition counts an acquisition, which several series may share: only where it is met does it count."""
    stated = {(whole_number(each.get(ACQUISITION)), whole_number(each.get(ACQUISITION_COUNT))) for each in instances}
    found = Counter(whole_number(each.get(ACQUISITION)) for each in instances)
    return (
        bool(instances) and len(stated) == len(found) and all(size and found[number] == size for number, size in stated)
    )


def _gaps(instances: Collection[Instance]) -> int:
    """Places along the slices' normal where the distance is clearly more than the usual one, the median."""
    by_orientation: dict[tuple[float, ...], set[float]] = {}
    for each in instances:
        normal, place = _place(each)
        if normal:
            by_orientation.setdefault(normal, set()).add(place)
    return sum(map(_holes, by_orientation.values()))


def _holes(places: set[float]) -> int:
    ordered = sorted(places)
    steps = sorted(after - before for before, after in pairwise(ordered))
    return sum(step > _GAP * steps[len(steps) // 2] for step in steps) if len(steps) > 1 else 0


def _place(instance: Instance) -> tuple[tuple[float, ...], float]:
    """Unit normal of the slice and its place along it in mm, rounded; no normal where the header does not say.

    PS3.3 C.7.6.2.1.1, LPS.
    """
    position, orientation = instance.get(_POSITION), instance.get(_ORIENTATION)
    if not _numbers(position, 3) or not _numbers(orientation, 6):
        return (), 0.0
    a, b, c, d, e, f = map(float, orientation)
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    place = sum(one * float(other) for one, other in zip(normal, position, strict=True))
    return tuple(round(each, 2) for each in normal), round(place, 2)


def _numbers(value: object, count: int) -> bool:
    return isinstance(value, tuple) and len(value) == count and all(isinstance(each, int | float) for each in value)


def whole_number(value: object) -> int:
    """A number of things, 0 where it is none."""
    return int(value) if isinstance(value, int | float) and 0 < value < 1e9 else 0
