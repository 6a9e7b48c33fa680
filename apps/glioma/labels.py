"""What a model of this app takes and gives, and what its labels mean."""

import numpy as np

from radnode import Code, ModelError, Signature, Tensor

CHANNELS = ("flair", "t1", "t1ce", "t2")
"""In the order of the model's input, that of the first such app."""

CORE, EDEMA, ENHANCING = 1, 2, 4
"""As in BraTS: necrotic and non-enhancing core, edema, enhancing tumour."""

REGIONS = {
    "Whole tumor": (Code("108369006", "SCT", "Neoplasm"), (CORE, EDEMA, ENHANCING)),
    "Tumor core": ("Tumor core", (CORE, ENHANCING)),
    "Enhancing tumor": (Code("C113842", "NCIt", "Enhancing Lesion"), (ENHANCING,)),
}
"""Name -> what it is called in the objects, and the labels it is made of. They lie within each other, as in BraTS."""

SIGNATURE = Signature(
    inputs=(Tensor("images", "int16", (4, 155, 240, 240)),),
    outputs=(Tensor("mask", "uint8", (155, 240, 240)),),
    batch=1,
)


def checked(labels: np.ndarray) -> np.ndarray:
    """The labels of one head, `(155, 240, 240)`; ModelError where some mean nothing here (BraTS 2023 calls 4 3)."""
    unknown = sorted(set(np.unique(labels).tolist()) - {0, CORE, EDEMA, ENHANCING})
    if unknown:
        raise ModelError(f"the model answered with labels {unknown}; known are 1 core, 2 edema, 4 enhancing")
    return labels
