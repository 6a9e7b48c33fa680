"""Why four series are not ones to work on: from their attributes, then from what they show."""

from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk

from radnode import Declined, Study, classify

from .labels import CHANNELS

FEWEST_SLICES = 12
LEAST_MM = 80.0
"""Along each axis: what covers less holds no head."""
SMOOTH_MM, LEAST_STRUCTURE = 6.0, 0.25
"""Smoothed so far a head keeps more than this share of its contrast, and noise less."""
BRAIN_ML = (300.0, 2500.0)

WEIGHTING = {"flair": "flair", "t1": "t1", "t1ce": "t1", "t2": "t2"}
"""What a series is that an input is given; whether a T1 is enhanced, headers often do not say."""


class UnsuitableError(Exception):
    """What one of the channels shows is not what the app works on."""

    def __init__(self, channel: str, reason: str) -> None:
        super().__init__(f"{channel} {reason}")
        self.channel, self.reason = channel, reason


def decline_unsuitable(study: Study) -> None:
    """By attributes alone. Raises Declined."""
    missing = [name for name in CHANNELS if name not in study]
    if missing:
        raise Declined(f"no series for {', '.join(missing)}")
    for name in CHANNELS:
        if study[name].first.get("Modality") != "MR":
            raise Declined(f"{name} is no MR")
        if len(study[name].planes) < FEWEST_SLICES:
            raise Declined(f"{name} has {len(study[name].planes)} slices, fewer than {FEWEST_SLICES}")
    _decline_repeated(study)
    said = {name: WEIGHTING.get(classify(study[name]).name) for name in CHANNELS}
    if len(set(said.values())) == 1 and said["t1"]:
        raise Declined(f"by their headers all four are {said['t1']}: give the rule's inputs a series of each contrast")


def _decline_repeated(study: Study) -> None:
    names: dict[str, str] = {}
    for name in CHANNELS:
        other = names.setdefault(study[name].SeriesInstanceUID, name)
        if other != name:
            raise declined(study, UnsuitableError(name, f"is the same series as {other}"))


def remarks(study: Study) -> list[str]:
    """For the report: inputs that are another contrast by their headers. Headers may be wrong, so it is no refusal."""
    found = ((name, classify(study[name]).name) for name in CHANNELS)
    return [
        f"By its headers {name} ({_called(study, name)}) is {kind}."
        for name, kind in found
        if kind in WEIGHTING and WEIGHTING[kind] != WEIGHTING[name]
    ]


def declined(study: Study, error: UnsuitableError) -> Declined:
    """With the series by the name that people know, and the remedy."""
    named = f"{error.channel} ({_called(study, error.channel)})"
    return Declined(f"{named} {error.reason}: give the rule's input {error.channel} another series")


def check_heads(volumes: Mapping[str, sitk.Image]) -> None:
    """Raises UnsuitableError before anything long is begun."""
    for name, volume in volumes.items():
        if reason := headless(volume):
            raise UnsuitableError(name, reason)


def headless(volume: sitk.Image) -> str:
    """Why there is no head in it; empty where there may be one."""
    covered = min(n * each for n, each in zip(volume.GetSize(), volume.GetSpacing(), strict=True))
    if covered < LEAST_MM:
        return f"covers {covered:.0f} mm, a head needs {LEAST_MM:.0f}"
    spread = _spread(volume)
    if spread == 0:
        return "is empty: all its voxels have one value"
    if _spread(sitk.SmoothingRecursiveGaussian(volume, SMOOTH_MM)) < LEAST_STRUCTURE * spread:
        return "shows noise and no head"
    return ""


def check_brain(brain: sitk.Image) -> None:
    """Of T1. Raises UnsuitableError."""
    least, most = BRAIN_ML
    ml = float(sitk.GetArrayViewFromImage(brain).sum() * np.prod(brain.GetSpacing())) / 1000
    if not least <= ml <= most:
        raise UnsuitableError("t1", f"shows no whole head: {ml:.0f} mL look like brain, not {least:.0f} to {most:.0f}")


def _called(study: Study, name: str) -> str:
    first = study[name].first
    return first.text("SeriesDescription") or f"series {first.text('SeriesNumber') or study[name].SeriesInstanceUID}"


def _spread(image: sitk.Image) -> float:
    return float(np.std(sitk.GetArrayViewFromImage(image), dtype=np.float64))
