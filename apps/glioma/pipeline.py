"""Four contrasts of one head -> one volume in BraTS space, and a mask's way back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from . import register, strip, template
from .labels import CHANNELS
from .suitable import UnsuitableError, check_brain, check_heads

SHRINK = 4
ITERATIONS = (40, 30, 20)


@dataclass(frozen=True)
class Prepared:
    """What preprocessing gives.

    Attributes:
        channels: on the BraTS grid, int16, brain only.
        brain: the T1's brain mask on its own grid.
        kept: the mask that was applied, on the BraTS grid.
        to_channel: from a point of the BraTS grid (MNI, LPS mm) to one of the channel's own series.
    """

    channels: dict[str, sitk.Image]
    brain: sitk.Image
    kept: sitk.Image
    to_channel: dict[str, sitk.Transform]

    def array(self) -> np.ndarray:
        """`(4, 155, 240, 240)` int16."""
        return np.stack([sitk.GetArrayFromImage(self.channels[name]) for name in CHANNELS])

    def on_grid(self, values: np.ndarray) -> sitk.Image:
        """An array `(155, 240, 240)` as an image on the BraTS grid."""
        image = sitk.GetImageFromArray(values)
        image.CopyInformation(self.kept)
        return image

    def back(self, labels: np.ndarray, values: tuple[int, ...], name: str, grid: sitk.Image) -> sitk.Image:
        """Where the labels have one of these values, on a series' own grid: smooth, not in the BraTS grid's steps."""
        share = self.on_grid(np.isin(labels, values).astype(np.float32))
        return register.resampled(share, grid, self.to_channel[name].GetInverse()) >= 0.5

    def write(self, folder: Path, volumes: Mapping[str, sitk.Image], labels: np.ndarray) -> Iterator[Path]:
        """`preprocessed.nii.gz` (4-D, int16), `mask.nii.gz`, and for each channel its mask and transform."""
        images = {
            "preprocessed.nii.gz": sitk.JoinSeries([self.channels[name] for name in CHANNELS]),
            "mask.nii.gz": self.on_grid(labels),
        }
        for name in CHANNELS:
            own = register.resampled(
                self.on_grid(labels), volumes[name], self.to_channel[name].GetInverse(), sitk.sitkNearestNeighbor
            )
            images[f"mask-{name}.nii.gz"] = own
        for file, image in images.items():
            sitk.WriteImage(image, str(folder / file))
            yield folder / file
        for name, transform in self.to_channel.items():
            sitk.WriteTransform(transform, str(folder / f"brats-to-{name}.tfm"))
            yield folder / f"brats-to-{name}.tfm"


def prepare(volumes: Mapping[str, sitk.Image], options: Any, say: Callable[[str, float], None]) -> Prepared:
    """Strips the T1, registers it to MNI152 and the others to it, and interpolates each channel once.

    Args:
        volumes: by the names of `CHANNELS`.
        options: those of the app: `stripper`, `mni_mask`, `bias_correct`.
        say: told what goes on, and the part that is done.

    Raises UnsuitableError where a channel shows no head, or not the one that T1 shows.
    """
    check_heads(volumes)
    say("finding the brain", 0.0)
    brain = brain_of(volumes["t1"], options.stripper)
    say("registering", 0.3)
    transforms = to_channels(volumes, brain)
    say("resampling", 0.8)
    return in_brats_space(volumes, brain, transforms, options)


def brain_of(t1: sitk.Image, stripper: str) -> sitk.Image:
    """The mask of the brain, on T1's grid. Raises UnsuitableError."""
    with _blaming("t1", "shows no head that the template could be laid onto"):
        brain = strip.STRIPPERS[stripper](t1)
    check_brain(brain)
    return brain


@contextmanager
def _blaming(channel: str, reason: str) -> Iterator[None]:
    try:
        yield
    except register.NoMatchError:
        raise UnsuitableError(channel, reason) from None


def to_channels(volumes: Mapping[str, sitk.Image], brain: sitk.Image) -> dict[str, sitk.Transform]:
    """From the template's space to each channel's own, by way of T1."""
    t1 = volumes["t1"]
    alone = sitk.Mask(t1, brain)
    with _blaming("t1", "shows no brain that the template could be laid onto"):
        to_t1 = register.affine(template.mni(), alone, register.rigid_by_mass(template.mni(), alone))
    found: dict[str, sitk.Transform] = {"t1": to_t1}
    for name in CHANNELS:
        if name != "t1":
            with _blaming(name, "does not show the head that t1 shows"):
                found[name] = register.chained(to_t1, register.rigid(t1, volumes[name]))
    return found


def in_brats_space(
    volumes: Mapping[str, sitk.Image], brain: sitk.Image, transforms: dict[str, sitk.Transform], options: Any
) -> Prepared:
    """Each channel through its whole transform at once, cut out, and corrected if wanted."""
    grid, nearest = template.brats_grid(), sitk.sitkNearestNeighbor
    if options.mni_mask:
        kept = register.resampled(template.mni_mask(), grid, sitk.Transform(), nearest)
    else:
        kept = register.resampled(brain, grid, transforms["t1"], nearest)
    channels = {}
    for name in CHANNELS:
        image = sitk.Mask(register.resampled(volumes[name], grid, transforms[name]), kept)
        channels[name] = whole_numbers(unbiased(image, kept) if options.bias_correct else image)
    return Prepared(channels, brain, kept, transforms)


def whole_numbers(image: sitk.Image) -> sitk.Image:
    """As int16; what does not fit is made smaller, as a whole, since a model looks at MR by its own measure anyway."""
    highest = float(sitk.GetArrayViewFromImage(image).max())
    most = np.iinfo(np.int16).max
    return sitk.Cast(sitk.Round(image * (most / highest) if highest > most else image), sitk.sitkInt16)


def unbiased(image: sitk.Image, mask: sitk.Image) -> sitk.Image:
    """N4 (Tustison 2010, doi:10.1109/TMI.2010.2046908): the field is found on a coarse copy, and divided out."""
    coarse, where = (sitk.Shrink(each, [SHRINK] * 3) for each in (image, mask))
    method = sitk.N4BiasFieldCorrectionImageFilter()
    method.SetMaximumNumberOfIterations(list(ITERATIONS))
    method.Execute(coarse, where)
    return sitk.Mask(image / sitk.Exp(method.GetLogBiasFieldAsImage(image)), mask)
