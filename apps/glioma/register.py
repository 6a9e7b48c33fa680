"""Registration by mutual information, coarse to fine. Transforms take points of the fixed image to the moving one.

Deterministic, bit by bit: every voxel of an even grid counts, and one thread adds up.

What a head phantom in known poses taught (tests/test_glioma.py): scales "from physical shift" weigh a turn by what it
does to the image's farthest corner, which is three times as far out as most of the head. Turns then hardly moved, and
ended 5 to 10 mm off. And less smoothing than a thick slice is high lets the grids' own pattern pull, by 1 to 2 mm.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk

LEVELS = ((8.0, 4.0, 4.0), (4.0, 3.0, 1.0), (3.0, 3.0, 1.0))
"""The grid's step, the smoothing's sigma and the first move, in mm."""
RADIUS_MM = 45.0
"""A turn by one radian moves a head's voxels about so far."""
BINS = 48
UNLIKE = -0.35
"""Mutual information, negative: two contrasts of a head came to -0.87 and less, a head and a chest to -0.22."""


class NoMatchError(Exception):
    """Two images that cannot be laid onto each other: one is empty, or they show different things."""


def rigid(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """Six parameters: the same head in another series.

    Starts from where the scanner says that both lie, and from the centres of mass, for a patient who got up in between;
    goes on from the better one. Raises NoMatchError.
    """
    starts = [sitk.Euler3DTransform(), _by_mass(fixed, moving)]
    starts[0].SetCenter(_middle(fixed))
    _, near = min(((_optimise(fixed, moving, each, LEVELS[0]), each) for each in starts), key=lambda tried: tried[0])
    told = [_optimise(fixed, moving, near, level) for level in LEVELS[1:]]
    if told[-1] > UNLIKE:
        raise NoMatchError
    return near


def rigid_by_mass(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """From the centres of mass, and coarse: for a brain to find its head, and an affine transform its start."""
    near = _by_mass(fixed, moving)
    _optimise(fixed, moving, near, LEVELS[0])
    return near


def affine(fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform) -> sitk.AffineTransform:
    """Twelve parameters: one brain to another, both cut out, from a rigid start."""
    wide = sitk.AffineTransform(3)
    wide.SetCenter(start.GetCenter())
    wide.SetMatrix(start.GetMatrix())
    wide.SetTranslation(start.GetTranslation())
    for level in LEVELS[1:]:
        _optimise(fixed, moving, wide, level)
    return wide


def chained(first: sitk.Transform, then: sitk.Transform) -> sitk.CompositeTransform:
    """One transform for both, so that an image is interpolated once: `first` is applied first."""
    return sitk.CompositeTransform([then, first])  # the last one of the list is applied first


def resampled(
    image: sitk.Image, grid: sitk.Image, transform: sitk.Transform, interpolator: int = sitk.sitkLinear
) -> sitk.Image:
    return sitk.Resample(image, grid, transform, interpolator, 0.0, image.GetPixelID())


def _by_mass(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    with _matching():
        return sitk.Euler3DTransform(sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), moments))


@contextmanager
def _matching() -> Iterator[None]:
    """SimpleITK has one class for every error; here it means that there is nothing, or nothing left, to compare."""
    try:
        yield
    except RuntimeError as error:
        raise NoMatchError from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """The method's own number of threads does not reach its metric: ITK's global one does."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


@_one_thread()
def _optimise(fixed: sitk.Image, moving: sitk.Image, near: sitk.Transform, level: tuple[float, float, float]) -> float:
    """Moves `near` to where the two images tell most of each other; returns how much, the less the better."""
    step, sigma, move = level
    turns = near.GetNumberOfParameters() - 3
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(move, 0.01, 200, relaxationFactor=0.8)
    method.SetOptimizerScales([RADIUS_MM**2] * turns + [1.0] * 3)
    method.SetInitialTransform(near, inPlace=True)
    smooth = sitk.SmoothingRecursiveGaussian
    with _matching():
        method.Execute(resampled(smooth(fixed, sigma), _even(fixed, step), sitk.Transform()), smooth(moving, sigma))
    return float(method.GetMetricValue())


def _middle(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


def _even(image: sitk.Image, step: float) -> sitk.Image:
    """An empty image where this one is, with voxels as long as they are wide and high."""
    size = [max(1, round(n * each / step)) for n, each in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing([step] * 3)
    grid.SetDirection(image.GetDirection())
    corner = [(step / each - 1) / 2 for each in image.GetSpacing()]
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(corner))
    return grid
