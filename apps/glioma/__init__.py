"""Brings four MR contrasts of a head into BraTS space, asks a model for the tumour, and takes its answer back.

No trained network comes with it. Unless a site names its own model in the options, a stand-in answers (stand_in.py): it
knows brightness, nothing of medicine, and every result says so. Nobody may be treated by it.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from radnode import App, AppOptions, Field, File, Resources, Study, open_model

from .labels import CHANNELS, SIGNATURE, checked


class GliomaOptions(AppOptions):
    model: str = Field("", description="address of the model, see docs/models.md; empty: the stand-in")
    mni_mask: bool = Field(False, description="cut out the template's brain, not the patient's own")
    bias_correct: bool = Field(False, description="N4 bias field correction of each channel")
    stripper: Literal["template", "robex"] = Field("template", description="how the brain is found on T1")
    keep: bool = Field(False, description="also yield every intermediate, as NIfTI and as PNG")


class Glioma(App[GliomaOptions]):
    name, version = "glioma", "1.1.0"
    description = "Tumour regions and volumes from four MR contrasts, by a model of the site's own."
    resources = Resources(cpu=1, memory=8192, timeout=1800)

    def process(self, study: Study, options: GliomaOptions):
        from .pipeline import prepare  # noqa: PLC0415 - SimpleITK is for jobs, not for listing the apps
        from .results import objects  # noqa: PLC0415
        from .stand_in import StandIn  # noqa: PLC0415
        from .suitable import UnsuitableError, decline_unsuitable, declined, remarks  # noqa: PLC0415

        decline_unsuitable(study)
        volumes = {name: study[name].volume() for name in CHANNELS}
        try:
            made = prepare(volumes, options, self.progress)
        except UnsuitableError as error:
            raise declined(study, error) from error
        model = open_model(options.model, SIGNATURE) if options.model else StandIn()
        print(f"model {model.identity}")
        self.progress("asking the model", 0.85)
        labels = checked(model.predict(images=made.array()[None])["mask"][0])
        said = [f"Model: {model.identity}.", *remarks(study)]
        if not options.model:
            said.insert(0, "STAND-IN, NO TRAINED NETWORK: not for diagnosis.")
        self.progress("taking the labels back", 0.9)
        yield from objects(study, volumes, made, labels, said, demonstration=not options.model)
        with TemporaryDirectory() as folder:
            yield from files(Path(folder), volumes, made, labels, keep=options.keep)


def files(folder: Path, volumes, made, labels, *, keep: bool) -> Iterator[File]:
    """For destinations that are folders: the volume, the masks and the transforms; with `keep` every step between."""
    from .drawing import intermediates  # noqa: PLC0415

    for path in made.write(folder, volumes, labels):
        yield File(path)
    for path in intermediates(folder, volumes, made, labels) if keep else ():
        yield File(path)
