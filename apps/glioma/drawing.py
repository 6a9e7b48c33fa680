"""What the steps in between look like, for a person who asks why."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from .labels import CORE, EDEMA, ENHANCING

_COLORS = {EDEMA: (64, 208, 96), CORE: (255, 208, 0), ENHANCING: (255, 64, 32)}


def intermediates(folder: Path, volumes, made, labels: np.ndarray) -> Iterator[Path]:
    """Each series as it came, the brain on T1, each channel in BraTS space, the labels there and back: NIfTI and PNG.

    Args:
        folder: has what `Prepared.write` wrote.
    """
    for name, volume in volumes.items():
        yield _nifti(volume, folder / f"1-{name}.nii.gz")
        yield _png(_three(volume), folder / f"1-{name}.png")
    yield _nifti(made.brain, folder / "2-brain.nii.gz")
    yield _png(_three(volumes["t1"], made.brain), folder / "2-brain.png")
    for name, channel in made.channels.items():
        yield _nifti(channel, folder / f"3-{name}-brats.nii.gz")
        yield _png(_three(channel), folder / f"3-{name}-brats.png")
    mask = sitk.GetImageFromArray(labels)
    mask.CopyInformation(made.kept)
    yield _png(_three(made.channels["flair"], mask), folder / "4-labels.png")
    for name, volume in volumes.items():
        yield _png(_three(volume, sitk.ReadImage(str(folder / f"mask-{name}.nii.gz"))), folder / f"5-{name}.png")


def _nifti(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def _three(image: sitk.Image, mask: sitk.Image | None = None) -> np.ndarray:
    """The middle planes along each axis, side by side, in proportion; a mask's labels in colour over them."""
    spacing = image.GetSpacing()
    grey = sitk.GetArrayFromImage(image).astype(np.float32)
    grey = np.clip(grey * (255 / max(float(np.percentile(grey, 99.5)), 1)), 0, 255).astype(np.uint8)
    labels = np.zeros_like(grey) if mask is None else sitk.GetArrayFromImage(mask).astype(np.uint8)
    found = np.argwhere(labels) if labels.any() else np.array([[n // 2 for n in grey.shape]])
    planes = []
    for axis, at in enumerate(found.mean(axis=0).round().astype(int)):
        plane = _coloured(np.take(grey, at, axis), np.take(labels, at, axis))
        down, across = (each for number, each in enumerate(spacing[::-1]) if number != axis)
        shown = Image.fromarray(plane).resize((round(plane.shape[1] * across), round(plane.shape[0] * down)))
        planes.append(np.asarray(shown)[:: 1 if axis == 0 else -1])
    height = max(len(each) for each in planes)
    padded = [np.pad(each, ((0, height - len(each)), (0, 8), (0, 0))) for each in planes]
    return np.concatenate(padded, axis=1)


def _coloured(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    shown = np.repeat(grey[..., None], 3, axis=2)
    for label in np.unique(labels[labels > 0]):
        color = np.array(_COLORS.get(int(label), (64, 160, 255)))
        shown[labels == label] = (shown[labels == label] * 0.5 + color * 0.5).astype(np.uint8)
    return shown


def _png(picture: np.ndarray, path: Path) -> Path:
    Image.fromarray(picture).save(path)
    return path
