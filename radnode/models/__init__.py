"""Models that apps ask: on a server, or as an ONNX file in the app's own process. One interface, chosen by an address.

    http://HOST:8000/v2/models/NAME        Open Inference Protocol v2: Triton, KServe, MLServer (radnode/models/oip.py)
    http://HOST:8080/predictions/NAME      TorchServe, multi-model-server (radnode/models/predictions.py)
    onnx:FILE                              onnxruntime, in this process (radnode/models/onnx.py)

Tensors and JSON travel, never pickles: whoever can answer for a server must not be able to run code in an app.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from radnode.domain.errors import ModelError
from radnode.domain.model import ModelIdentity, Signature
from radnode.models.model import Model, Usage, used

__all__ = ["Model", "Usage", "begin", "identities", "open_model", "usage"]

TIMEOUT = 60.0
"""Seconds that one request may take."""

FORMS = "http://HOST:PORT/v2/models/NAME, http://HOST:PORT/predictions/NAME, onnx:FILE, or a name of RADNODE_MODELS"

_names: dict[str, str] = {}


def open_model(address: str, signature: Signature, *, timeout: float = TIMEOUT) -> Model:
    """The model at an address, checked against what the app gives it and expects of it.

    In one process the same address gives the same model: a file is loaded, a server's metadata asked for, only once.

    Args:
        address: one of the forms above, or a name that RADNODE_MODELS gives one of them.
        signature: names, types and shapes of the tensors, and how many items go into one request.
        timeout: seconds that one request may take.

    Raises ModelError where the address is none, or the model is not there, not ready, or another one.
    """
    address = address.strip()
    return _opened(_names.get(address, address), signature, timeout)


@lru_cache(maxsize=16)
def _opened(address: str, signature: Signature, timeout: float) -> Model:
    if address.startswith("onnx:"):
        from radnode.models.onnx import OnnxModel  # noqa: PLC0415 - a server's app has no need of it

        return OnnxModel(address, signature)
    if re.fullmatch(r"https?://[^/]+(/.*)?/v2/models/[^/]+(/versions/[^/]+)?", address):
        from radnode.models.oip import OipModel  # noqa: PLC0415

        return OipModel(address, signature, timeout)
    if re.fullmatch(r"https?://[^/]+(/.*)?/predictions/[^/]+(/[^/]+)?", address):
        from radnode.models.predictions import PredictionsModel  # noqa: PLC0415

        return PredictionsModel(address, signature, timeout)
    raise ModelError(f"{address!r} is no address of a model", remedy=f"write {FORMS}")


def begin(names: Mapping[str, str]) -> None:
    """A job begins: the names it may call models by, and nothing has been asked yet."""
    _names.clear()
    _names.update(names)
    used.clear()


def usage() -> list[Usage]:
    """What each model was asked since the job began, and how that went."""
    return [model.usage for model in used]


def identities() -> list[ModelIdentity]:
    """Which models were asked since the job began."""
    return [model.identity for model in used]
