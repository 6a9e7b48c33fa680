"""Which series is judged, and why one is not: from attributes alone."""

import numpy as np

from radnode import Declined, Series, Study

FEWEST_SLICES = 8
LEAST_COVERAGE_MM = 70.0
STEEPEST_DEGREES = 35.0
"""Between a slice's normal and the body's axis. Gantries tilt up to 30 degrees."""
HOLE = 3.0
"""A gap of more than this many times the median: slices are missing, and a bleed may be where they were."""
THICKEST_MM = 10.0
USUAL_MM = 5.0
HOUNSFIELD = ("HU", "US")
"""US, unspecified, is what old scanners say."""
SHARP = ("BONE", "EDGE", "SHARP", "LUNG", "DETAIL")


def pick(source: Series | Study) -> tuple[Series, list[str]]:
    """The series to judge, with remarks for the report. Raises Declined, with every series' reason."""
    given = list(source) if isinstance(source, Study) else [source]
    choices = [Series(each.planes, each.reader) for each in given]  # of a multi-frame image its frames
    reasons = [unsuitable(each) for each in choices]
    suitable = [each for each, reason in zip(choices, reasons, strict=True) if not reason]
    if not suitable:
        named = (
            f"{each.first.text('SeriesDescription') or each.first.text('SeriesNumber') or 'unnamed'}: {reason}"
            for each, reason in zip(choices, reasons, strict=True)
        )
        raise Declined(reasons[0] if len(choices) == 1 else "; ".join(named))
    best = min(suitable, key=_rank)
    return best, remarks(best)


def unsuitable(series: Series) -> str:
    """Why a series is not one to judge; empty where it is."""
    first = series.first
    if first.get("Modality") != "CT":
        return f"modality is {first.text('Modality') or 'unknown'}, not CT"
    if first.get("SamplesPerPixel", 1) != 1:
        return "its images are in colour"
    if "LOCALIZER" in first.text("ImageType").upper():
        return "a localizer"
    if "SECONDARY" in first.text("ImageType").upper().split("\\")[1:2]:
        return "not from the scanner itself (SECONDARY)"
    if series.distinct("ContrastBolusAgent"):
        return "contrast-enhanced"
    if any(each.get(keyword) is None for each in series for keyword in ("RescaleSlope", "RescaleIntercept")):
        return "its values are no Hounsfield units (RescaleSlope, RescaleIntercept)"
    if first.get("RescaleType", "HU") not in HOUNSFIELD:
        return f"its values are no Hounsfield units (RescaleType {first.text('RescaleType')})"
    if len(series) < FEWEST_SLICES:
        return f"{len(series)} slices, fewer than {FEWEST_SLICES}"
    thickness = first.get("SliceThickness")
    if isinstance(thickness, int | float) and thickness > THICKEST_MM:
        return f"slices of {thickness:g} mm, thicker than {THICKEST_MM:g}"
    return _misplaced(series)


def _misplaced(series: Series) -> str:
    orientations = series.distinct("ImageOrientationPatient")
    if not orientations or any(len(each) != 6 for each in orientations):
        return "no usable ImageOrientationPatient"
    normals = np.array([np.cross(each[:3], each[3:]) for each in np.array(orientations, float)])
    if np.abs(normals - normals[0]).max() > 0.01:
        return "images are not parallel"
    if abs(normals[0][2]) < np.cos(np.radians(STEEPEST_DEGREES)):
        return "not axial"
    places = [each.get("ImagePositionPatient") for each in series]
    if any(not isinstance(each, tuple) or len(each) != 3 for each in places):
        return "images without ImagePositionPatient"
    along = np.array(places, float) @ normals[0]
    gaps = np.diff(along)
    if gaps.min() < 0.01:
        return "several images at one place"
    if gaps.max() > HOLE * np.median(gaps):
        return f"images are missing: a gap of {gaps.max():.1f} mm, the others are {np.median(gaps):.1f} mm"
    if along[-1] - along[0] < LEAST_COVERAGE_MM:
        return f"covers {along[-1] - along[0]:.0f} mm, less than {LEAST_COVERAGE_MM:.0f}"
    return ""


def _rank(series: Series) -> tuple[bool, float, int]:
    """Soft kernels first, then those near the usual thickness, then the longest."""
    said = f"{series.first.text('SeriesDescription')} {series.first.text('ConvolutionKernel')}".upper()
    thickness = series.first.get("SliceThickness")
    away = abs(thickness - USUAL_MM) if isinstance(thickness, int | float) else USUAL_MM
    return any(each in said for each in SHARP), away, -len(series)


def remarks(series: Series) -> list[str]:
    """What a reader should know of the geometry."""
    row_column = np.array(series.first.get("ImageOrientationPatient"), float)
    normal = np.cross(row_column[:3], row_column[3:])
    gaps = np.diff(np.array([each.get("ImagePositionPatient") for each in series], float) @ normal)
    tilt = np.degrees(np.arccos(min(abs(normal[2]), 1.0)))
    found = [f"{len(series)} slices, {gaps.min():.1f} to {gaps.max():.1f} mm apart."]
    if tilt > 1:
        found.append(f"Tilted by {tilt:.1f} degrees.")
    return found
