"""A brain MR in four contrasts, made of ellipsoids, with a tumour of known extent: for routing, registration and masks.

The same arguments give the same files, byte for byte. No patient was involved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import MRImageStorage

from radnode.testing import phantom

Pose = tuple[float, float, float, float, float, float]
"""Where the head lies in a series: shift along x, y, z in mm, then turns about x, y, z in degrees, LPS."""

CENTER = np.array([0.0, 16.0, 5.0])
"""Of the brain, LPS mm: that of the MNI152 template."""
TUMOUR_AT, TUMOUR_RADII = np.array([28.0, -4.0, 20.0]), (19.0, 23.0, 17.0)
_CORE, _NECROSIS = 0.6, 0.35  # radii as shares of the tumour's

_BODIES: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float]], ...] = (
    ("scalp", (0, 0, -2), (84, 103, 90)),
    ("bone", (0, 0, -1), (78, 97, 84)),
    ("fluid", (0, 0, 0), (72, 91, 78)),
    ("grey", (0, 0, 0), (69, 88, 75)),
    ("white", (0, 0, 4), (58, 76, 60)),
    ("grey", (-14, -6, 8), (9, 14, 8)),
    ("grey", (14, -6, 8), (9, 14, 8)),
    ("fluid", (-9, 2, 16), (6, 28, 8)),
    ("fluid", (9, 2, 16), (6, 28, 8)),
    ("grey", (0, 48, -42), (42, 26, 22)),
)  # from the outside in, relative to CENTER

_TISSUES = ("scalp", "bone", "fluid", "grey", "white", "edema", "core", "rim")
_SIGNAL = {  # contrast -> of each tissue
    contrast: dict(zip(_TISSUES, signals, strict=True))
    for contrast, signals in {
        "t1": (900, 60, 180, 560, 760, 520, 430, 560),
        "t1ce": (920, 60, 180, 580, 770, 530, 440, 1400),
        "t2": (620, 50, 1500, 780, 560, 1150, 1250, 1000),
        "flair": (520, 50, 140, 640, 540, 1250, 1150, 1300),
    }.items()
}
_HEADERS: dict[str, dict[str, Any]] = {
    "t1": {"SeriesDescription": "AX T1", "RepetitionTime": 550, "EchoTime": 12, "ScanningSequence": "SE"},
    "t1ce": {
        "SeriesDescription": "AX T1 POST", "RepetitionTime": 550, "EchoTime": 12, "ScanningSequence": "SE",
        "ContrastBolusAgent": "Gadobutrol",
    },
    "t2": {"SeriesDescription": "AX T2 TSE", "RepetitionTime": 4500, "EchoTime": 100, "ScanningSequence": "SE"},
    "flair": {
        "SeriesDescription": "AX T2 FLAIR", "RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500,
        "ScanningSequence": ["SE", "IR"],
    },
}  # fmt: skip
CONTRASTS = tuple(_SIGNAL)
FIELD_OF_VIEW = 220.0
_NOISE = 12.0


def brain_mr(
    folder: Path,
    *,
    contrasts: Sequence[str] = CONTRASTS,
    slices: int = 36,
    size: int = 192,
    spacing: float = 5.0,
    poses: Mapping[str, Pose] | None = None,
    tumour: bool = True,
    tilt: float = 0.0,
    missing: Collection[int] = (),
    absent: Collection[str] = (),
    charset: str = "ascii",
    seed: int = 1,
    **attributes: Any,
) -> dict[str, list[Path]]:
    """Writes one axial series per contrast into `folder/CONTRAST`, one Part 10 file per slice, and returns their paths.

    Args:
        contrasts: of `t1`, `t1ce`, `t2`, `flair`.
        poses: contrast -> how the head lies in that series; others lie straight.
        tumour: edema around an enhancing rim around a necrotic core.
        tilt: of the slices about the x axis, in degrees: oblique slices, in MR no gantry tilt.
        missing: indices of slices left out, in every series.
        absent: keywords left out of every image.
        charset: one of `phantom.CHARSETS`.
        seed: another one is another study of another patient.
        attributes: DICOM keywords and values that replace the phantom's own in every image.
    """
    found = {}
    for number, contrast in enumerate(contrasts, 2):
        pose = (poses or {}).get(contrast, (0.0,) * 6)
        name = f"{contrast}|{slices}|{size}|{spacing}|{pose}|{tumour}|{tilt}|{charset}"
        (folder / contrast).mkdir(parents=True, exist_ok=True)
        paths = []
        for index, plane in enumerate(_planes(slices, spacing, tilt)):
            if index in missing:
                continue
            ds = _header(name, number, index, charset, seed, spacing)
            phantom.add_plane(ds, plane, FIELD_OF_VIEW / size, size)
            noise = np.random.default_rng((seed, number, index)).standard_normal((size, size)) * _NOISE
            signal = _signal(_points(plane, size), contrast, pose, tumour) + noise
            _add_pixels(ds, np.clip(np.rint(signal), 0, 4095).astype("<u2"))
            for keyword, value in {**_HEADERS[contrast], **attributes}.items():
                setattr(ds, keyword, value)
            for keyword in absent:
                ds.pop(keyword, None)
            paths.append(phantom.write(ds, folder / contrast / f"mr-{index + 1:04d}.dcm"))
        found[contrast] = paths
    return found


def in_tumour(points: NDArray[np.float64], pose: Pose = (0.0,) * 6) -> NDArray[np.bool_]:
    """Whether points of a series' space, `(…, 3)` LPS mm, lie in the tumour."""
    return np.asarray(_inside(_of_head(points, pose) - CENTER, TUMOUR_AT, TUMOUR_RADII))


def matrix(pose: Pose) -> NDArray[np.float64]:
    """`(4, 4)`: from a point of the head as it lies straight to where it lies in a series, LPS mm."""
    x, y, z = np.radians(pose[3:])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = about_z @ about_y @ about_x, pose[:3]
    return found


def _of_head(points: NDArray[np.float64], pose: Pose) -> NDArray[np.float64]:
    turned = matrix(pose)
    return (points - turned[:3, 3]) @ turned[:3, :3]  # the inverse of a rotation is its transpose


def _planes(slices: int, spacing: float, tilt: float) -> list[phantom.Plane]:
    angle = np.radians(tilt)
    row, column = np.array([1.0, 0.0, 0.0]), np.array([0.0, np.cos(angle), np.sin(angle)])
    normal = np.cross(row, column)
    places = (np.arange(slices) - (slices - 1) / 2) * spacing
    return [phantom.Plane(CENTER + normal * place, row, column) for place in places]


def _points(plane: phantom.Plane, size: int) -> NDArray[np.float64]:
    along = (np.arange(size) - (size - 1) / 2) * FIELD_OF_VIEW / size
    return np.asarray(plane.center + along[None, :, None] * plane.row + along[:, None, None] * plane.column)


def _signal(points: NDArray[np.float64], contrast: str, pose: Pose, tumour: bool) -> NDArray[np.float64]:
    """The head's signal at points of the series' space."""
    at, table = _of_head(points, pose) - CENTER, _SIGNAL[contrast]
    signal = np.zeros(points.shape[:2])
    for tissue, center, radii in _BODIES:
        signal[_inside(at, np.array(center), radii)] = table[tissue]
    for tissue, share in (("edema", 1.0), ("rim", _CORE), ("core", _NECROSIS)) if tumour else ():
        signal[_inside(at, TUMOUR_AT, tuple(share * each for each in TUMOUR_RADII))] = table[tissue]
    return signal


def _inside(at: NDArray[np.float64], center: NDArray[np.float64], radii: tuple[float, ...]) -> NDArray[np.bool_]:
    return np.asarray((((at - center) / np.array(radii)) ** 2).sum(axis=-1) <= 1)


def _header(name: str, number: int, index: int, charset: str, seed: int, thickness: float) -> Dataset:
    ds = Dataset()
    phantom.add_patient_and_study(ds, charset, seed)
    ds.StudyDescription = "MR BRAIN WITH AND WITHOUT CONTRAST"
    ds.SOPClassUID, ds.Modality, ds.BodyPartExamined, ds.PatientPosition = MRImageStorage, "MR", "HEAD", "HFS"
    ds.SeriesInstanceUID, ds.SeriesNumber = phantom.uid(f"{ds.StudyInstanceUID}|{name}"), number
    ds.SOPInstanceUID = phantom.uid(f"{ds.SeriesInstanceUID}|{index}")
    ds.InstanceNumber, ds.AcquisitionNumber = index + 1, number
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    ds.Manufacturer, ds.ManufacturerModelName, ds.StationName = "radnode", "Phantom", "MR1"
    ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType, ds.EchoTrainLength = "NONE", "", "2D", 1
    for kind in ("Series", "Acquisition", "Content"):
        setattr(ds, f"{kind}Date", "20260301")
        setattr(ds, f"{kind}Time", f"08{10 + number:02d}00")
    ds.SliceThickness, ds.SpacingBetweenSlices = thickness, thickness
    return ds


def _add_pixels(ds: Dataset, stored: NDArray[np.uint16]) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = 700, 1400
    ds.add_new("PixelData", "OW", stored.tobytes())
