"""What lies inside the skull, and which of it is hyperdense."""

import SimpleITK as sitk

BONE_HU = 300
SKULL_GAP_MM = 6.0
"""Openings of the skull up to twice this wide are closed: sutures, foramina."""
MARGIN_MM = 3.0
"""What lies this close to bone is half bone."""
COARSE_MM = 2.0
"""Pixels large enough to find the cavity with: a sixteenth of the work at 0.5 mm."""


def hyperdense(volume: sitk.Image, lower_hu: float, upper_hu: float, speck_ml: float) -> sitk.Image:
    """The mask, on the volume's grid; connected parts smaller than `speck_ml` left out."""
    dense = (volume >= lower_hu) & (volume <= upper_hu) & inside(volume)
    x, y, z = volume.GetSpacing()
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(dense), max(1, round(speck_ml * 1000 / (x * y * z))))
    return parts > 0


def inside(volume: sitk.Image) -> sitk.Image:
    """What bone surrounds in each slice, less a margin next to bone: in the plane, and one slice up and down."""
    coarse = sitk.BinShrink(volume, [max(1, int(COARSE_MM / each)) for each in volume.GetSpacing()[:2]] + [1])
    cavity = sitk.Resample(cavities(coarse), volume, sitk.Transform(), sitk.sitkNearestNeighbor)
    margin = [max(1, round(MARGIN_MM / each)) for each in volume.GetSpacing()[:2]]
    return cavity & ~sitk.BinaryDilate(volume > BONE_HU, [*margin, 1])


def cavities(volume: sitk.Image) -> sitk.Image:
    """What bone surrounds in each slice."""
    bone = volume > BONE_HU
    bone.SetDirection([1, 0, 0, 0, 1, 0, 0, 0, 1])  # so that the slices can be joined again
    gap = [max(1, round(SKULL_GAP_MM / each)) for each in volume.GetSpacing()[:2]]
    slices = []
    for z in range(bone.GetDepth()):
        closed = sitk.BinaryMorphologicalClosing(bone[:, :, z], gap)
        slices.append(sitk.BinaryFillhole(closed) & ~closed)
    joined = sitk.JoinSeries(slices, 0, volume.GetSpacing()[2])
    joined.CopyInformation(volume)
    return joined
