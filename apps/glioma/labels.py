"""What a model of this app takes and gives, and what its labels mean."""

from radnode import Code, Signature, Tensor

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
