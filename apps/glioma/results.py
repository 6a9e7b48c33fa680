"""The model's answer as objects: regions and pictures on the slices of FLAIR and T1ce, a report with volumes."""

from collections.abc import Iterator, Mapping

import numpy as np
import SimpleITK as sitk

from radnode import Code, Finding, Measurement, MeasurementReport, SecondaryCapture, Segment, Segmentation, Study

from .labels import REGIONS
from .pipeline import Prepared

BRAIN = Code("12738006", "SCT", "Brain")
NEOPLASM = REGIONS["Whole tumor"][0]


def objects(
    study: Study,
    volumes: Mapping[str, sitk.Image],
    made: Prepared,
    labels: np.ndarray,
    said: list[str],
    *,
    demonstration: bool,
) -> Iterator[Segmentation | MeasurementReport | SecondaryCapture]:
    """Volumes are those in the patient, on FLAIR's slices: in BraTS space every brain is stretched to one size."""
    kind = " (stand-in)" if demonstration else ""
    for name in ("flair", "t1ce"):
        back = {region: made.back(labels, values, name, volumes[name]) for region, (_, values) in REGIONS.items()}
        segments = [Segment(REGIONS[region][0], mask, site=BRAIN, tracking=region) for region, mask in back.items()]
        drawn = Segmentation(segments, study[name], description=f"tumor on {name}{kind}")
        yield drawn
        if name == "flair":
            yield MeasurementReport(
                [Measurement.volume_ml(region, mask, series=study[name]) for region, mask in back.items()],
                [Finding(NEOPLASM, bool(labels.any()), site=BRAIN)],
                description=f"tumor volumes{kind}",
                comment=" ".join([*said, "Volumes are those on the slices of FLAIR."]),
                site=BRAIN,
            )
        yield SecondaryCapture.overlay(
            volumes[name], drawn, window=window_of(volumes[name]), description=f"tumor on {name}{kind}"
        )


def window_of(volume: sitk.Image) -> tuple[float, float]:
    """Center and width that show what is not air: MR has no units."""
    values = sitk.GetArrayViewFromImage(volume)
    most = max(float(np.percentile(values[values > values.mean()], 99)), 1.0)
    return most / 2, most
