"""Answers in place of a trained network, so that everything around one can be run and seen. It is none.

It finds what is as dense as fresh blood inside the skull, and calls it by its distance from the skull. The same images
give the same answer. Calcification, noise and beam hardening deceive it; a real bleed may escape it.
"""

import numpy as np
import SimpleITK as sitk

from radnode import Model, ModelIdentity

from .classes import CLASSES, SIGNATURE, WINDOWS

SHRINK = 4
"""Side of the blocks that are averaged first: noise goes, and nine tenths of the time."""
BLOOD_HU = (58.0, 95.0)
BONE = 250
"""In the third channel, whose window ends at 230 HU."""
SMALLEST = 0.03
"""Share of the picture that the skull's inside has to have: close to the vertex all is half bone."""
HALF = 0.004
"""Share of the skull's inside that gives a probability of one half."""
PLACES = {  # from the middle of the skull's inside (0) to its edge (1)
    "intraventricular": (0.0, 0.2), "intraparenchymal": (0.2, 0.75), "subarachnoid": (0.75, 0.83),
    "subdural": (0.83, 0.92), "epidural": (0.92, 2.0),
}  # fmt: skip


class StandIn(Model):
    def __init__(self) -> None:
        super().__init__(SIGNATURE, ModelIdentity("stand-in (no trained network)", "1"))

    def ask(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"probabilities": np.stack([judged(each) for each in inputs["images"]])}


def judged(image: np.ndarray) -> np.ndarray:
    """The probabilities of one slice, `(512, 512, 3)` uint8."""
    side = image.shape[0] // SHRINK
    coarse = image.reshape(side, SHRINK, side, SHRINK, 3).mean(axis=(1, 3))
    depth = inside(coarse[..., 2] >= BONE)
    area = np.count_nonzero(depth)
    shares = dict.fromkeys(CLASSES, 0.0)
    if area > SMALLEST * depth.size:
        center, width = WINDOWS[1]
        hu = coarse[..., 1] * (width / 255) + (center - width / 2)
        blood = opened((depth > 2) & (hu >= BLOOD_HU[0]) & (hu <= BLOOD_HU[1]))
        place = 1 - depth / depth.max()
        for name, (near, far) in PLACES.items():
            shares[name] = np.count_nonzero(blood & (place >= near) & (place < far)) / area
        shares["any"] = np.count_nonzero(blood) / area
    return np.array([shares[name] / (shares[name] + HALF) for name in CLASSES], np.float32)


def inside(bone: np.ndarray) -> np.ndarray:
    """Distance to the skull, in coarse pixels, of what it surrounds; 0 elsewhere."""
    closed = sitk.BinaryMorphologicalClosing(sitk.GetImageFromArray(bone.astype(np.uint8)), [3, 3])
    cavity = sitk.BinaryFillhole(closed) & ~closed
    return sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(cavity, True, False)).clip(min=0)


def opened(mask: np.ndarray) -> np.ndarray:
    """Without what is thinner than three coarse pixels."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    return sitk.GetArrayFromImage(sitk.BinaryMorphologicalOpening(image, [1, 1])) > 0
