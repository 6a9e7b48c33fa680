"""A chest CT made of ellipsoids, with a nodule of known volume in the right lung: for routing, volumes and sample apps.

The same arguments give the same files, byte for byte. No patient was involved.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from radnode.testing import phantom
from radnode.testing.phantom import Ellipsoid

FIELD_OF_VIEW = 380.0
NODULE_HU = 35.0
NODULE_AT = (-75.0, 15.0, 20.0)
"""LPS mm: in the right lung, with lung around it up to 50 mL."""
LUNG_HU = -850.0

_CHEST = (
    Ellipsoid((0, 0, 0), (172, 122, 900), -100),  # fat under the skin
    Ellipsoid((0, 0, 0), (158, 108, 900), 45),  # muscle
    Ellipsoid((-76, 0, 0), (62, 84, 140), LUNG_HU),
    Ellipsoid((76, 0, 0), (62, 84, 140), LUNG_HU),
    Ellipsoid((18, -28, -45), (52, 42, 60), 40),  # heart
    Ellipsoid((0, 0, 110), (9, 9, 70), -1000),  # trachea
    Ellipsoid((24, 48, 0), (13, 13, 900), 40),  # aorta
    Ellipsoid((0, 78, 0), (19, 19, 900), 300),  # spine
)


def chest_ct(
    folder: Path,
    *,
    slices: int = 60,
    size: int = 512,
    spacing: float = 5.0,
    tilt: float = 0.0,
    uneven: bool = False,
    missing: Collection[int] = (),
    absent: Collection[str] = (),
    charset: str = "ascii",
    nodule_ml: float = 0.0,
    seed: int = 1,
    **attributes: Any,
) -> list[Path]:
    """Writes a chest CT series into `folder`, one Part 10 file per slice, and returns their paths.

    Args:
        size: rows and columns.
        spacing: mm between slices along the table.
        tilt: of the gantry, in degrees.
        uneven: the upper half of the slices lies 1.75 times as far apart.
        missing: indices of slices left out.
        absent: keywords left out of every image.
        charset: one of `phantom.CHARSETS`.
        nodule_ml: volume of the nodule, 0 for none.
        seed: another one is another study of another patient.
        attributes: DICOM keywords and values that replace the phantom's own in every image.
    """
    name = f"chest|{slices}|{size}|{spacing}|{tilt}|{uneven}|{charset}|{nodule_ml}"
    bodies = (*_CHEST, *phantom.ball(nodule_ml, NODULE_AT, NODULE_HU))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, plane in enumerate(phantom.axial(phantom.places(slices, spacing, uneven), tilt)):
        if index in missing:
            continue
        ds = _header(name, index, charset, seed)
        phantom.add_plane(ds, plane, FIELD_OF_VIEW / size, size)
        ds.SliceThickness, ds.GantryDetectorTilt = spacing, tilt
        noise = np.random.default_rng((seed, index))
        phantom.add_hounsfield(ds, phantom.hounsfield(plane, size, FIELD_OF_VIEW, bodies, noise))
        ds.WindowCenter, ds.WindowWidth = [-600, 40], [1500, 400]
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        for keyword in absent:
            ds.pop(keyword, None)
        paths.append(phantom.write(ds, folder / f"ct-{index + 1:04d}.dcm"))
    return paths


def _header(name: str, index: int, charset: str, seed: int) -> Dataset:
    ds = Dataset()
    phantom.add_patient_and_study(ds, charset, seed)
    ds.StudyInstanceUID, ds.StudyDescription = phantom.uid(f"chest|{seed}"), "CT CHEST WITHOUT CONTRAST"
    ds.SOPClassUID, ds.Modality, ds.BodyPartExamined, ds.PatientPosition = CTImageStorage, "CT", "CHEST", "HFS"
    ds.SeriesInstanceUID, ds.SeriesNumber = phantom.uid(f"{ds.StudyInstanceUID}|{name}"), 2
    ds.SOPInstanceUID = phantom.uid(f"{ds.SeriesInstanceUID}|{index}")
    ds.InstanceNumber, ds.AcquisitionNumber = index + 1, 1
    ds.SeriesDescription, ds.ImageType = "CHEST 5MM STD", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Manufacturer, ds.ManufacturerModelName, ds.StationName = "radnode", "Phantom", "CT1"
    for kind in ("Series", "Acquisition", "Content"):
        setattr(ds, f"{kind}Date", "20260301")
        setattr(ds, f"{kind}Time", "081700")
    ds.KVP, ds.ConvolutionKernel, ds.RescaleType = 120, "STD", "HU"
    return ds
