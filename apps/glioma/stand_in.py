"""Answers in place of a trained network, so that everything around one can be run and seen. It is none.

It takes the largest region that is brighter on FLAIR than the brain's bulk, as far as halfway down to it; inside it,
what T1ce shows brighter than T1 enhances, and what enhancement surrounds is the core. Strokes, plaques and bright fat
of the skull are tumours to it.
"""

import numpy as np
import SimpleITK as sitk

from radnode import Model, ModelIdentity

from .labels import CORE, EDEMA, ENHANCING, SIGNATURE

BRIGHT = 3.0
"""Robust standard deviations above the median of FLAIR."""
ENHANCED = 0.35
"""By how much of its median T1ce exceeds T1."""


class StandIn(Model):
    def __init__(self) -> None:
        super().__init__(SIGNATURE, ModelIdentity("stand-in (no trained network)", "1"))

    def ask(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"mask": np.stack([labelled(each) for each in inputs["images"]])}


def labelled(images: np.ndarray) -> np.ndarray:
    """`(4, slices, rows, columns)` -> the labels of BraTS."""
    flair, t1, t1ce, _ = (each.astype(np.float32) for each in images)
    brain = flair > 0
    labels = np.zeros(flair.shape, np.uint8)
    if not brain.any():
        return labels
    median = np.median(flair[brain])
    spread = 1.4826 * np.median(np.abs(flair[brain] - median)) + 0.02 * median
    bright = _largest(_opened((flair > median + BRIGHT * spread) & brain))
    if not bright.any():
        return labels
    edge = (median + np.median(flair[bright])) / 2
    whole = _largest(_opened((flair > edge) & brain))
    labels[whole] = EDEMA
    gain = t1ce / max(np.median(t1ce[brain]), 1) - t1 / max(np.median(t1[brain]), 1)
    enhancing = _opened((gain > ENHANCED) & whole)
    filled = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(_image(enhancing), [2, 2, 2]))
    labels[(sitk.GetArrayFromImage(filled) > 0) & whole] = CORE
    labels[enhancing] = ENHANCING
    return labels


def _image(mask: np.ndarray) -> sitk.Image:
    return sitk.GetImageFromArray(mask.astype(np.uint8))


def _opened(mask: np.ndarray) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.BinaryMorphologicalOpening(_image(mask), [1, 1, 1])) > 0


def _largest(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return mask
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(_image(mask)), sortByObjectSize=True)
    return sitk.GetArrayFromImage(sitk.BinaryFillhole(parts == 1)) > 0
