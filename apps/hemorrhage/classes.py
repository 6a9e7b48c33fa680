"""What is looked for, and how slices become a verdict on the series.

Aggregation. A bleed is rarely seen in one slice alone, noise often is: each slice's probability becomes the weighted
mean of its own (1/2) and its neighbours' (1/4 each; at the ends, what is there). The series' probability is the highest
of these. `any` is never less than the most probable type. Key images go by the slices' own probabilities of `any`.
"""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from radnode import Code, Instance, Series, Signature, Tensor

CLASSES = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
"""In the order in which the model answers, that of the RSNA 2019 challenge's models as the first such app had them."""

BRAIN = Code("12738006", "SCT", "Brain")
CODES = {
    "any": (Code("1386000", "SCT", "Intracranial hemorrhage"), BRAIN),
    "epidural": (Code("82999001", "SCT", "Epidural intracranial hemorrhage"), BRAIN),
    "intraparenchymal": (Code("274100004", "SCT", "Cerebral hemorrhage"), BRAIN),
    "intraventricular": (Code("50960005", "SCT", "Hemorrhage"), Code("35764002", "SCT", "Brain ventricle")),
    "subarachnoid": (Code("21454007", "SCT", "Subarachnoid intracranial hemorrhage"), BRAIN),
    "subdural": (Code("35486000", "SCT", "Subdural intracranial hemorrhage"), BRAIN),
}
"""What each is called in the report, and where it lies."""

WINDOWS = ((40.0, 80.0), (80.0, 200.0), (40.0, 380.0))
"""Center and width in HU of the three channels: brain, subdural, soft tissue and bone."""
SIZE = 512

SIGNATURE = Signature(
    inputs=(Tensor("images", "uint8", (SIZE, SIZE, len(WINDOWS))),),
    outputs=(Tensor("probabilities", "float32", (len(CLASSES),)),),
    batch=16,
)


@dataclass(frozen=True)
class Slice:
    number: int
    image: Instance
    probabilities: dict[str, float]


class Scores:
    """Probabilities per slice, and of the series.

    Args:
        answer: `(slices, classes)`, in the order of the series.
    """

    def __init__(self, series: Series, answer: np.ndarray, threshold: float, type_threshold: float) -> None:
        self.series = series
        self.answer = np.clip(answer, 0, 1).astype(float)
        self.threshold, self.type_threshold = threshold, type_threshold

    @cached_property
    def slices(self) -> list[Slice]:
        rows = (dict(zip(CLASSES, map(float, row), strict=True)) for row in self.answer)
        return [Slice(number, *each) for number, each in enumerate(zip(self.series, rows, strict=True), 1)]

    @cached_property
    def of_series(self) -> dict[str, float]:
        highest = aggregated(self.answer)
        highest[0] = highest.max()
        return dict(zip(CLASSES, map(float, highest), strict=True))

    def threshold_of(self, name: str) -> float:
        return self.threshold if name == "any" else self.type_threshold

    def present(self, name: str) -> bool:
        return self.of_series[name] >= self.threshold_of(name)

    def suspicious(self) -> list[Slice]:
        """Slices above the threshold, the most probable first."""
        return [each for each in self.by_probability() if each.probabilities["any"] >= self.threshold]

    def by_probability(self) -> list[Slice]:
        return sorted(self.slices, key=lambda each: -each.probabilities["any"])

    def write_csv(self, path: Path) -> Path:
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["slice", "SOPInstanceUID", "InstanceNumber", *CLASSES])
            for each in self.slices:
                numbers = [f"{each.probabilities[name]:.6f}" for name in CLASSES]
                image = each.image
                table.writerow([each.number, image.SOPInstanceUID, image.text("InstanceNumber"), *numbers])
            table.writerow(["series", "", "", *(f"{self.of_series[name]:.6f}" for name in CLASSES)])
        return path


def aggregated(answer: np.ndarray) -> np.ndarray:
    """`(slices, classes)` -> per class the highest mean of a slice and its neighbours, weighted 1/4, 1/2, 1/4."""
    weights = np.full(len(answer), 0.5)
    total = answer * 0.5
    for one, other in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        total[one] += answer[other] * 0.25
        weights[one] += 0.25
    return (total / weights[:, None]).max(axis=0)
