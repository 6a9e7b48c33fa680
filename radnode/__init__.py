"""Runs algorithms on the studies a PACS pushes, and stores their results back.

What stands here is what an app may import, and nothing else. Each name is fetched when first used, so that the parts
of the node that run no app do not pay for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radnode.domain.app import App, AppOptions, Field, Resources
    from radnode.domain.codes import Code
    from radnode.domain.errors import Declined, GeometryError, ModelError, PixelsError
    from radnode.domain.findings import Finding, Location, Measurement, MeasurementReport, Region
    from radnode.domain.model import ModelIdentity, Signature, Tensor
    from radnode.domain.results import (
        EncapsulatedPdf,
        File,
        KeyImages,
        ParametricMap,
        SecondaryCapture,
        Segment,
        Segmentation,
    )
    from radnode.domain.series_class import classify
    from radnode.domain.study import Instance, Series, Study
    from radnode.models import Model, open_model

__all__ = [
    "App",
    "AppOptions",
    "Code",
    "Declined",
    "EncapsulatedPdf",
    "Field",
    "File",
    "Finding",
    "GeometryError",
    "Instance",
    "KeyImages",
    "Location",
    "Measurement",
    "MeasurementReport",
    "Model",
    "ModelError",
    "ModelIdentity",
    "ParametricMap",
    "PixelsError",
    "Region",
    "Resources",
    "SecondaryCapture",
    "Segment",
    "Segmentation",
    "Series",
    "Signature",
    "Study",
    "Tensor",
    "classify",
    "open_model",
]

_HOMES = {
    "radnode.domain.app": ("App", "AppOptions", "Field", "Resources"),
    "radnode.domain.codes": ("Code",),
    "radnode.domain.errors": ("Declined", "GeometryError", "ModelError", "PixelsError"),
    "radnode.domain.findings": ("Finding", "Location", "Measurement", "MeasurementReport", "Region"),
    "radnode.domain.model": ("ModelIdentity", "Signature", "Tensor"),
    "radnode.domain.results": (
        "EncapsulatedPdf",
        "File",
        "KeyImages",
        "ParametricMap",
        "SecondaryCapture",
        "Segment",
        "Segmentation",
    ),
    "radnode.domain.series_class": ("classify",),
    "radnode.domain.study": ("Instance", "Series", "Study"),
    "radnode.models": ("Model", "open_model"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'radnode' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOME_OF[name]), name)
