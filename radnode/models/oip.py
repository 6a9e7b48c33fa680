"""Open Inference Protocol v2 over HTTP: Triton, KServe, MLServer.

https://github.com/kserve/open-inference-protocol and, for tensors as bytes, Triton's "binary tensor data extension".
"""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import numpy as np

from radnode.domain.errors import ModelError
from radnode.domain.model import ModelIdentity, Signature
from radnode.models.model import Arrays, Model, refuse
from radnode.models.web import Answer, Server

_TYPES = {
    "BOOL": "bool",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_HEADER_LENGTH = "Inference-Header-Content-Length"


class OipModel(Model):
    """A model on such a server. Its metadata are asked for once."""

    def __init__(self, address: str, signature: Signature, timeout: float) -> None:
        base, _, rest = address.partition("/v2/models/")
        self._server = Server(address, timeout)
        self._prefix = "/" + base.split("/", 3)[3] if base.count("/") > 2 else ""
        self._path = f"{self._prefix}/v2/models/{rest}"
        name, _, version = rest.partition("/versions/")
        self._binary = "binary_tensor_data" in self._json("/v2", "server metadata").get("extensions", [])
        ready = self._server.get(f"{self._path}/ready")
        if ready.status != 200:
            raise ModelError(
                f"model {name} at {self._server.name} is not ready: {ready.status} {ready.said}",
                remedy="is it loaded, under this name?",
            )
        metadata = self._json(f"/v2/models/{rest}", f"metadata of {name}")
        for kind, wanted in (("input", signature.inputs), ("output", signature.outputs)):
            if offered := _tensors(metadata.get(f"{kind}s") or []):  # MLServer's runtimes need not state them
                refuse(f"{name} at {self._server.name}", kind, wanted, offered)
        version = version or ", ".join(map(str, metadata.get("versions") or [])) or "unknown"
        super().__init__(signature, ModelIdentity(name, version, _digest(metadata)), self._largest_batch(rest))

    def ask(self, inputs: Arrays) -> Arrays:
        body, headers = self._encoded(inputs)
        answer = self._server.post(f"{self._path}/infer", body, headers)
        if answer.status != 200:
            raise ModelError(f"model {self.identity.name} answers {answer.status}: {answer.said}")
        try:
            return _decoded(answer)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"model {self.identity.name} answers what is no inference response: {type(error).__name__}: {error}"
            ) from None

    def _json(self, path: str, what: str) -> dict[str, Any]:
        answer = self._server.get(self._prefix + path)
        try:
            found = answer.json() if answer.status == 200 else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ModelError(
                f"no {what} at {self._server.name}: {answer.status} {answer.said}",
                remedy="is this a server of the Open Inference Protocol, and the model's name right?",
            )
        return found

    def _largest_batch(self, rest: str) -> int:
        """Triton's `max_batch_size`; 0 where the server does not tell."""
        answer = self._server.get(f"{self._prefix}/v2/models/{rest}/config")
        try:
            return int(answer.json().get("max_batch_size", 0)) if answer.status == 200 else 0
        except (ValueError, AttributeError, TypeError):
            return 0

    def _encoded(self, inputs: Arrays) -> tuple[bytes, dict[str, str]]:
        request: dict[str, Any] = {"id": uuid.uuid4().hex, "inputs": []}
        tensors = []
        for name, array in inputs.items():
            item: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": _NAMES[str(array.dtype)]}
            if self._binary:
                tensors.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
                item["parameters"] = {"binary_data_size": len(tensors[-1])}
            else:
                item["data"] = array.ravel().tolist()
            request["inputs"].append(item)
        if not self._binary:
            return json.dumps(request).encode(), {"Content-Type": "application/json"}
        request["parameters"] = {"binary_data_output": True}
        head = json.dumps(request).encode()
        return b"".join([head, *tensors]), {
            "Content-Type": "application/octet-stream",
            _HEADER_LENGTH: str(len(head)),
        }


def _tensors(described: list[dict[str, Any]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        str(each["name"]): (_TYPES.get(str(each["datatype"]), str(each["datatype"])), tuple(map(int, each["shape"])))
        for each in described
    }


def _digest(metadata: dict[str, Any]) -> str:
    """Of what the server says of the model: the protocol tells nothing of its weights."""
    return "sha256:" + hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def _decoded(answer: Answer) -> Arrays:
    length = answer.headers.get(_HEADER_LENGTH)
    at = int(length) if length else len(answer.body)
    found = {}
    for each in json.loads(answer.body[:at])["outputs"]:
        dtype = np.dtype(_TYPES[each["datatype"]]).newbyteorder("<")
        size = (each.get("parameters") or {}).get("binary_data_size")
        if size is None:
            array = np.array(each["data"], dtype)
        else:
            array = np.frombuffer(answer.body[at : at + int(size)], dtype)
            at += int(size)
        found[str(each["name"])] = array.reshape([int(n) for n in each["shape"]])
    return found
