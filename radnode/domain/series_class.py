"""What kind of images a series holds, from its headers: contrast, plane, derived or not, contrast agent.

Two kinds of evidence, in this order: words that sites and scanners write (ImageType, SeriesDescription, ProtocolName,
SequenceName), and for MR the physics of the sequence (TR, TE, TI). Words are matched whole. What neither tells is
`other`: a rule that wants a FLAIR does not get a guess. docs/routing.md lists the classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

from radnode.domain.study import Series, Value

KEYWORDS = (
    "Modality", "SeriesDescription", "ProtocolName", "ImageType", "SequenceName", "ScanningSequence", "SequenceVariant",
    "ScanOptions", "RepetitionTime", "EchoTime", "InversionTime", "ContrastBolusAgent", "ImageOrientationPatient",
    "DiffusionBValue", "Rows",
)  # fmt: skip
"""What the classifier looks at."""

DERIVED_KEYWORDS = ("SeriesClass", "SeriesPlane", "SeriesDerived", "SeriesContrast")
"""Attributes that it gives a series, for rules."""

CLASSES = (
    "t1", "t1ce", "t2", "flair", "pd", "dwi", "adc", "swi", "t2star", "perfusion", "mra",
    "ct", "ctce", "cta", "localizer", "capture", "other",
)  # fmt: skip
PLANES = ("axial", "coronal", "sagittal", "oblique", "mixed")

_LOCALIZER = r"localizers?|locali[sz]er|loc|scouts?|survey|surview|topogram|3 ?plane|three ?plane|plane ?loc"
_WORDS = (  # class -> words that mean it; the first that fits counts
    ("adc", r"adc|apparent"),
    ("dwi", r"dwi|dti|diff|diffusion|trace|trace ?w|tracew|b ?1000|b ?800|ep2d diff|resolve"),
    ("perfusion", r"asl|pasl|pcasl|casl|cbf|rel ?cbf|cbv|rcbv|mtt|ttp|perf|perfusion|dsc|dce|pwi"),
    ("swi", r"swi|swan|swip|ven ?bold|mip ?swi|susceptibility"),
    ("mra", r"mra|mrv|tof|angio|angiography|venography"),
    ("t1", r"t1 ?(?:flair|tirm)"),
    ("flair", r"flair|dark ?fluid|da ?fl|tirm ?dark ?fluid"),
    ("t2star", r"t2 ?star|t2\*|t2 ?\*|t2s|gre ?t2|heme?|hemo|fl2d|ffe ?t2"),
    ("t2", r"t2|t2w|t2wi"),
    ("pd", r"pd|pdw|proton|proton ?density"),
    ("t1", r"t1|t1w|t1wi|t1c|t1ce|t1gd|mprage|memprage|spgr|bravo|tfe|ir ?fspgr|fspgr|mp2rage|vibe"),
)
_WITHOUT = r"pre|without(?: contrast)?|w ?o|wo|non ?contrast|noncontrast|nc|unenhanced|plain|native|ohne"
_WITH = r"post|gad|gd|gado|gadolinium|ce|c ?\+|\+ ?c|\+ ?gd|with|contrast|enhanced|km|t1 ?c|t1ce|t1gd|t1c|\+"
_ANGIO = r"cta|angio|angiography"
_AXIS = ("sagittal", "coronal", "axial")
_PURE = 0.94
"""Cosine of 20 degrees: a plane further from every axis is oblique."""


@dataclass(frozen=True)
class SeriesClass:
    """What a series is.

    Attributes:
        name: one of `CLASSES`.
        plane: one of `PLANES`; empty where the images do not say.
        derived: computed from other images, not acquired.
        contrast: whether a contrast agent was given; None where nothing tells.
        why: what each of these was concluded from.
    """

    name: str
    plane: str
    derived: bool
    contrast: bool | None
    why: tuple[str, ...]

    def attributes(self) -> dict[str, tuple[Value, ...]]:
        """As a rule's conditions see it; what is not known has no entry."""
        found: dict[str, tuple[Value, ...]] = {
            "SeriesClass": (self.name,),
            "SeriesDerived": ("yes" if self.derived else "no",),
        }
        if self.plane:
            found["SeriesPlane"] = (self.plane,)
        if self.contrast is not None:
            found["SeriesContrast"] = ("yes" if self.contrast else "no",)
        return found


def classify(series: Series) -> SeriesClass:
    """The class of a series, from `KEYWORDS` of all its images."""
    clues = _Clues(series)
    plane, why_plane = _plane(series)
    derived, why_derived = _derived(clues)
    contrast, why_contrast = _contrast(clues)
    name, why = _name(clues, plane, contrast)
    if name == "t1" and contrast:
        name, why = "t1ce", f"{why}; {why_contrast}"
    return SeriesClass(name, plane, derived, contrast, tuple(filter(None, (why, why_plane, why_derived, why_contrast))))


class _Clues:
    def __init__(self, series: Series) -> None:
        self.series = series
        self.modality = series.first.text("Modality").upper()
        self.image_type = [str(each).upper() for values in series.distinct("ImageType") for each in values]
        self.described = [
            (keyword, " ".join(_plain(str(each)) for values in series.distinct(keyword) for each in values))
            for keyword in ("SeriesDescription", "ProtocolName", "SequenceName")
        ]

    def said(self, words: str, *keywords: str) -> str:
        """Where one of these words stands, for people; empty where none does."""
        for keyword, text in self.described:
            if keywords and keyword not in keywords:
                continue
            if found := re.search(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", text):
                return f'{keyword} says "{found[0]}"'
        return ""

    def number(self, keyword: str) -> float | None:
        values = [each for values in self.series.distinct(keyword) for each in values if not isinstance(each, str)]
        return float(min(values)) if values else None

    def codes(self, keyword: str) -> set[str]:
        return {str(each).upper() for values in self.series.distinct(keyword) for each in values}


def _plain(text: str) -> str:
    """Lower case, words apart: `AX_T1-POST`, `Sag T2Star`, `mocoMEMPRAGE_220FOV`."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text[:200])
    return re.sub(r"[^a-z0-9+*]+", " ", apart.replace("+", " + ").lower()).strip()


def _name(clues: _Clues, plane: str, contrast: bool | None) -> tuple[str, str]:
    if clues.modality not in ("MR", "CT"):
        return ("capture" if clues.modality in ("OT", "SC") else "other"), f"Modality is {clues.modality or 'absent'}"
    if "LOCALIZER" in clues.image_type:
        return "localizer", "ImageType is LOCALIZER"
    if (said := clues.said(_LOCALIZER, "SeriesDescription")) or plane == "mixed":
        return "localizer", said or "its images are not parallel"
    if not plane:
        return "capture", "it has no orientation"
    if clues.modality == "CT":
        return _ct(clues, contrast)
    return next(_mr(clues), ("other", "neither its words nor its TR, TE and TI tell"))


def _ct(clues: _Clues, contrast: bool | None) -> tuple[str, str]:
    if "SECONDARY" in clues.image_type and clues.series.distinct("Rows")[1:]:
        return "capture", "ImageType is SECONDARY and its images differ in size"
    if said := clues.said(_ANGIO):
        return "cta", said
    return ("ctce", "Modality is CT, with contrast") if contrast else ("ct", "Modality is CT")


def _mr(clues: _Clues) -> Iterator[tuple[str, str]]:
    """What speaks for which class, the strongest first."""
    for name in ("ADC", "PERFUSION", "ASL", "DIFFUSION", "TRACEW", "SWI"):
        if name in clues.image_type:
            kind = {"ASL": "perfusion", "DIFFUSION": "dwi", "TRACEW": "dwi"}.get(name, name.lower())
            yield kind, f"ImageType is {name}"
    for keyword in ("SeriesDescription", "ProtocolName", "SequenceName"):
        for name, words in _WORDS:
            if said := clues.said(words, keyword):
                yield name, said
    if clues.codes("DiffusionBValue") - {"0", "0.0"}:
        yield "dwi", "DiffusionBValue is above 0"
    yield from _physics(clues)


def _physics(clues: _Clues) -> Iterator[tuple[str, str]]:
    """Limits as textbooks give them for 1.5 and 3 tesla; TR, TE and TI in ms."""
    tr, te, ti = (clues.number(each) for each in ("RepetitionTime", "EchoTime", "InversionTime"))
    if te is None or tr is None:
        return
    told = f"TR {tr:g}, TE {te:g}" + (f", TI {ti:g} ms" if ti else " ms")
    sequence, variant = clues.codes("ScanningSequence"), clues.codes("SequenceVariant")
    inverted = "IR" in sequence or bool(ti)
    if inverted and ti and ti > 1500 and te > 60:
        yield "flair", f"{told}: fluid is nulled"
    elif "GR" in sequence and (inverted or "MP" in variant) and te < 10:
        yield "t1", f"{told}: a prepared gradient echo"
    elif "GR" in sequence and "SE" not in sequence and te >= 12:
        yield "t2star", f"{told}: a gradient echo"
    elif "GR" in sequence and "SE" not in sequence and tr < 800:
        yield "t1", f"{told}: a short gradient echo"
    elif not inverted and tr >= 2000:
        yield ("t2" if te >= 60 else "pd"), f"{told}: long TR, {'long' if te >= 60 else 'short'} TE"
    elif tr < 1200 and te < 30:
        yield "t1", f"{told}: both short"


def _plane(series: Series) -> tuple[str, str]:
    normals = [_normal(each) for each in series.distinct("ImageOrientationPatient")]
    known = [each for each in normals if each is not None]
    if not known:
        return "", ""
    first = known[0]
    if any(abs(sum(a * b for a, b in zip(first, each, strict=True))) < 0.95 for each in known):
        return "mixed", "ImageOrientationPatient differs between its images"
    along = max(range(3), key=lambda axis: abs(first[axis]))
    name = _AXIS[along] if abs(first[along]) >= _PURE else "oblique"
    return name, f"its normal is ({first[0]:.2f}, {first[1]:.2f}, {first[2]:.2f})"


def _normal(orientation: tuple[Value, ...]) -> tuple[float, float, float] | None:
    numbers = [float(each) for each in orientation if not isinstance(each, str)]
    if len(numbers) != 6:
        return None
    (a, b, c), (d, e, f) = numbers[:3], numbers[3:]
    normal = b * f - c * e, c * d - a * f, a * e - b * d
    length = sqrt(sum(each * each for each in normal))
    return (normal[0] / length, normal[1] / length, normal[2] / length) if length > 0.5 else None


def _derived(clues: _Clues) -> tuple[bool, str]:
    for name in ("DERIVED", "SECONDARY", "MPR", "MIP", "MOSAIC", "PROJECTION IMAGE"):
        if name in clues.image_type:
            return True, f"ImageType is {name}"
    said = clues.said(r"mpr|mip|reformat|reformats|rfmt|subtraction|sub|fused?|3d ?recon", "SeriesDescription")
    return bool(said), said


def _contrast(clues: _Clues) -> tuple[bool | None, str]:
    if agents := clues.series.distinct("ContrastBolusAgent"):
        agent = str(agents[0][0])
        if re.search(r"^(none|no|nein|0|n/?a)\b", agent.strip().lower()):
            return False, f'ContrastBolusAgent is "{agent[:40]}"'
        return True, "ContrastBolusAgent is given"
    for keyword in ("SeriesDescription", "ProtocolName"):
        without, given = clues.said(_WITHOUT, keyword), clues.said(_WITH, keyword)
        if without and not (given and keyword == "ProtocolName"):  # "W/O and W": the protocol has series of both
            return False, without
        if given and not without:
            return True, given
    return None, ""
