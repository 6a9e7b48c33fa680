"""What lies inside the skull, and which of it is hyperdense."""

import SimpleITK as sitk

BONE_HU = 300
SKULL_GAP_MM = 6.0
"""Openings of the skull up to twice this wide are closed: sutures, foramina."""
MARGIN_MM = 3.0
"""What lies this close to bone is half bone."""


def hyperdense(volume: sitk.Image, lower_hu: float, upper_hu: float, speck_ml: float) -> sitk.Image:
    """The mask, on the volume's grid; connected parts smaller than `speck_ml` left out."""
    smooth = sitk.Median(volume, [1, 1, 0])
    dense = (smooth >= lower_hu) & (smooth <= upper_hu) & inside(volume)
    x, y, z = volume.GetSpacing()
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(dense), max(1, round(speck_ml * 1000 / (x * y * z))))
    return parts > 0


def inside(volume: sitk.Image) -> sitk.Image:
    """What bone surrounds in each slice, less a margin next to bone: in the plane, and one slice up and down."""
    bone = volume > BONE_HU
    gap, margin = ([max(1, round(mm / each)) for each in volume.GetSpacing()[:2]] for mm in (SKULL_GAP_MM, MARGIN_MM))
    flat = sitk.Image(bone)
    flat.SetDirection([1, 0, 0, 0, 1, 0, 0, 0, 1])
    slices = []
    for z in range(flat.GetDepth()):
        closed = sitk.BinaryMorphologicalClosing(flat[:, :, z], gap)
        slices.append(sitk.BinaryFillhole(closed) & ~closed)
    cavity = sitk.JoinSeries(slices, 0, volume.GetSpacing()[2])
    cavity.CopyInformation(volume)
    return cavity & ~sitk.BinaryDilate(bone, [*margin, 1])
