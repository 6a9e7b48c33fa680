"""An ONNX file, run by onnxruntime in the app's own process: for sites without a model server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from radnode.domain.errors import ModelError
from radnode.domain.model import ModelIdentity, Signature
from radnode.models.model import Arrays, Model, refuse

_TYPES = {
    "tensor(bool)": "bool", "tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


class OnnxModel(Model):
    def __init__(self, address: str, signature: Signature) -> None:
        path = Path(address.removeprefix("onnx:"))
        if not path.is_absolute() or not path.is_file():
            raise ModelError(f"{address}: there is no such file", remedy="write onnx: and the file's absolute path")
        try:
            import onnxruntime  # noqa: PLC0415
        except ImportError:
            raise ModelError("onnxruntime is not installed", remedy="pip install 'radnode[onnx]'") from None
        try:
            providers = onnxruntime.get_available_providers()
            self._session: Any = onnxruntime.InferenceSession(str(path), providers=providers)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors share no base
            raise ModelError(f"{path} cannot be loaded: {error}", remedy="is it an ONNX file?") from None
        name = path.stem
        for kind, wanted, found in (
            ("input", signature.inputs, self._session.get_inputs()),
            ("output", signature.outputs, self._session.get_outputs()),
        ):
            refuse(name, kind, wanted, {each.name: (_TYPES.get(each.type, each.type), _shape(each)) for each in found})
        digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        identity = ModelIdentity(name, str(self._session.get_modelmeta().version), digest)
        self._fixed = _batch(self._session.get_inputs())
        super().__init__(signature, identity, self._fixed)

    def ask(self, inputs: Arrays) -> Arrays:
        names = [each.name for each in self.signature.outputs]
        count = len(next(iter(inputs.values())))
        short = max(self._fixed - count, 0)  # exported for a batch of its own: filled up, and the surplus dropped
        filled = {name: np.concatenate([array, np.repeat(array[-1:], short, 0)]) for name, array in inputs.items()}
        try:
            answers = self._session.run(names, filled)
        except Exception as error:  # noqa: BLE001 - as above
            raise ModelError(f"model {self.identity.name} failed: {error}") from None
        return {name: array[: len(array) - short] for name, array in zip(names, answers, strict=True)}


def _shape(tensor: Any) -> tuple[int, ...]:
    """Lengths that are names, or nothing, may be any: -1."""
    return tuple(n if isinstance(n, int) else -1 for n in tensor.shape)


def _batch(inputs: Any) -> int:
    """The batch a model was exported for, 0 where any will do."""
    return max(0, *(_shape(each)[0] for each in inputs if each.shape))
