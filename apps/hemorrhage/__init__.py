"""Looks for acute intracranial hemorrhage on a non-contrast head CT, slice by slice, by asking a model.

No trained network comes with it. Unless a site names its own model in the options, a stand-in answers (stand_in.py): it
knows brightness and place, nothing of medicine, and every result says so. Nobody may be treated by it.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from radnode import (
    App,
    AppOptions,
    EncapsulatedPdf,
    Field,
    File,
    Finding,
    KeyImages,
    Measurement,
    MeasurementReport,
    Resources,
    SecondaryCapture,
    Series,
    Study,
    open_model,
)

from .classes import BRAIN, CODES, SIGNATURE, Scores
from .selection import pick


class HemorrhageOptions(AppOptions):
    model: str = Field("", description="address of the model, see docs/models.md; empty: the stand-in")
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which any hemorrhage counts as present")
    type_threshold: float = Field(0.5, gt=0, lt=1, description="the same for each of the five types")
    most_key_images: int = Field(10, ge=0, le=100, description="how many slices above the threshold are marked")
    pdf: bool = Field(True, description="whether the page goes out as a PDF, too")


class Hemorrhage(App[HemorrhageOptions]):
    name, version = "hemorrhage", "1.1.0"
    description = "Probabilities of acute intracranial hemorrhage on a head CT, by a model of the site's own."
    resources = Resources(cpu=1, memory=6144, timeout=300)

    def process(self, source: Series | Study, options: HemorrhageOptions):
        from .slices import windowed  # noqa: PLC0415 - numpy and SimpleITK are for jobs, not for listing the apps
        from .stand_in import StandIn  # noqa: PLC0415

        series, remarks = pick(source)
        model = open_model(options.model, SIGNATURE) if options.model else StandIn()
        print(f"{len(series)} slices, model {model.identity}")
        images = windowed(series)
        self.progress("asking the model", 0.2)
        answer = model.predict(images=images)["probabilities"]
        self.progress("reporting", 0.8)
        scores = Scores(series, answer, options.threshold, options.type_threshold)
        said = [f"Model: {model.identity}.", *remarks]
        if not options.model:
            said.insert(0, "STAND-IN, NO TRAINED NETWORK: not for diagnosis.")
        yield report(scores, said, demonstration=not options.model)
        yield from pictures(scores, said, options)
        with TemporaryDirectory() as folder:
            yield File(scores.write_csv(Path(folder) / "probs.csv"))


def report(scores: Scores, said: list[str], *, demonstration: bool) -> MeasurementReport:
    """Six findings, present or absent, each with its probability; the rest in words."""
    return MeasurementReport(
        [
            Measurement("Slices judged", len(scores.series)),
            Measurement("Slices above the threshold", len(scores.suspicious())),
        ],
        [Finding(code, scores.present(name), scores.of_series[name], site) for name, (code, site) in CODES.items()],
        description="hemorrhage (stand-in)" if demonstration else "hemorrhage",
        comment=" ".join(said),
        site=BRAIN,
    )


def pictures(scores: Scores, said: list[str], options: HemorrhageOptions) -> Iterator:
    from .page import drawn, pdf  # noqa: PLC0415

    page = drawn(scores, said)
    yield SecondaryCapture(page, description="hemorrhage summary")
    marked = scores.suspicious()[: options.most_key_images]
    if marked:
        yield KeyImages(
            [each.image for each in marked], note=f"Hemorrhage suspected in {len(marked)} slices. {said[0]}"
        )
    if options.pdf:
        yield EncapsulatedPdf(pdf(page), title="Hemorrhage", description="hemorrhage summary", shows_identity=False)
