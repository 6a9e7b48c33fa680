"""Body part and side of what is shown, in the source's own words (PS3.3 C.7.3.1.1, C.7.6.1)."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom import Dataset

from radnode.dicom.encode import common
from radnode.dicom.encode.common import Context
from radnode.domain.study import Instance

SINGLE = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "AORTA", "BACK", "BLADDER", "BRAIN", "CEREBELLUM", "CERVIX", "CHEST",
    "CHESTABDOMEN", "CHESTABDPELVIS", "CIRCLEOFWILLIS", "COCCYX", "COLON", "CSPINE", "CTSPINE", "DUODENUM",
    "ESOPHAGUS", "FACE", "GALLBLADDER", "HEAD", "HEADNECK", "HEART", "ILEUM", "JAW", "JEJUNUM", "LARYNX", "LIVER",
    "LSPINE", "LSSPINE", "MAXILLA", "MEDIASTINUM", "MOUTH", "NECK", "NECKCHEST", "NECKCHESTABDOMEN",
    "NECKCHESTABDPELV", "NOSE", "PANCREAS", "PELVIS", "PENIS", "PHARYNX", "PROSTATE", "RECTUM", "SKULL", "SPINE",
    "SPLEEN", "SSPINE", "STERNUM", "STOMACH", "THYMUS", "THYROID", "TLSPINE", "TONGUE", "TRACHEA", "TSPINE",
    "URETHRA", "UTERUS", "VAGINA", "WHOLEBODY",
})  # fmt: skip
"""Body parts of which there is one, so that a side makes no sense (PS3.16 annex L). Any other may be of a pair."""
_SIDES = {"L", "R", "B", "U"}


def add_body_part(ds: Dataset, context: Context) -> None:
    """Where all its series are of one."""
    if context.agreed("BodyPartExamined"):
        common.copy(context.header, ds, "BodyPartExamined")


def add_side(ds: Dataset, context: Context, images: Iterable[Instance] = ()) -> None:
    """The side that the images themselves state, both where they differ; or else the side of their series.

    The latter has to be there, be it empty, unless there is one of the body part, or an image's own side (Type 2C).
    Call it after `add_body_part`.
    """
    said = {each.text("ImageLaterality") or each.text("FrameLaterality") for each in images} & _SIDES
    if sides := said - {"U"} or said:
        ds.ImageLaterality = sides.pop() if len(sides) == 1 else "B"
        return
    side = context.agreed("Laterality")
    if side in ("L", "R"):
        ds.Laterality = side
    elif ds.get("BodyPartExamined") not in SINGLE:
        ds.Laterality = ""
