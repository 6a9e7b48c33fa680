"""Slices as the model wants them: HU through three windows, 512 x 512, in the order of their place."""

import numpy as np
import SimpleITK as sitk

from radnode import Declined, Instance, Series

from .classes import SIZE, WINDOWS

LEAST_TISSUE = 0.02
"""Share of all pixels that the widest window does not show black; a head has a fifth and more."""


def windowed(series: Series) -> np.ndarray:
    """`(slices, 512, 512, 3)` uint8. The windows are fixed: what a grey value means does not depend on the slice.

    Raises Declined where there is no head in them.
    """
    images = np.empty((len(series), SIZE, SIZE, len(WINDOWS)), np.uint8)
    for index, instance in enumerate(series):
        hu = fitted(hounsfield(instance))
        for channel, (center, width) in enumerate(WINDOWS):
            images[index, ..., channel] = grey(hu, center, width)
    center, width = WINDOWS[-1]
    share = np.count_nonzero(images[:, ::4, ::4, -1]) / images[:, ::4, ::4, -1].size
    if share < LEAST_TISSUE:
        raise Declined(f"shows no head: {share:.1%} of its pixels are denser than {center - width / 2:.0f} HU")
    return images


def hounsfield(instance: Instance) -> np.ndarray:
    slope, intercept = instance.get("RescaleSlope", 1.0), instance.get("RescaleIntercept", 0.0)
    return instance.pixels().astype(np.float32) * np.float32(slope) + np.float32(intercept)


def grey(hu: np.ndarray, center: float, width: float) -> np.ndarray:
    return np.clip((hu - (center - width / 2)) * (255 / width), 0, 255).astype(np.uint8)


def fitted(hu: np.ndarray) -> np.ndarray:
    """Resampled to 512 x 512 where it is not that, the longer side filling it, air around."""
    rows, columns = hu.shape
    if (rows, columns) == (SIZE, SIZE):
        return hu
    image = sitk.GetImageFromArray(hu)
    step = max(rows, columns) / SIZE
    origin = [((columns - 1) - (SIZE - 1) * step) / 2, ((rows - 1) - (SIZE - 1) * step) / 2]
    filled = sitk.Resample(
        image, [SIZE, SIZE], sitk.Transform(), sitk.sitkLinear, origin, [step, step], [1, 0, 0, 1], float(hu.min())
    )
    return sitk.GetArrayFromImage(filled)
