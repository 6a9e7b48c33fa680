"""`POST /predictions/NAME`, as TorchServe and multi-model-server have it: a batch in as `.npy`, numbers back as JSON.

The body is one array as numpy writes it (`.npy`; several inputs: `.npz`), never a pickle. The answer is a JSON object,
output name -> nested lists, or only the lists where there is one output. The protocol has no metadata: what comes back
is checked, nothing before.
"""

from __future__ import annotations

import json
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np

from radnode.domain.errors import ModelError
from radnode.domain.model import ModelIdentity, Signature
from radnode.models.model import Arrays, Model
from radnode.models.web import Server


class PredictionsModel(Model):
    def __init__(self, address: str, signature: Signature, timeout: float) -> None:
        self._server = Server(address, timeout)
        self._path = urlsplit(address).path
        prefix, _, rest = self._path.partition("/predictions/")
        name, _, version = rest.partition("/")
        ping = self._server.get(f"{prefix}/ping")
        if ping.status != 200:
            raise ModelError(f"model server {self._server.name} is not ready: {ping.status} {ping.said}")
        super().__init__(signature, ModelIdentity(name, version or "unknown"))

    def ask(self, inputs: Arrays) -> Arrays:
        body = BytesIO()
        if len(inputs) == 1:
            np.save(body, next(iter(inputs.values())), allow_pickle=False)
        else:
            np.savez(body, **inputs, allow_pickle=False)
        answer = self._server.post(self._path, body.getvalue(), {"Content-Type": "application/octet-stream"})
        if answer.status != 200:
            raise ModelError(f"model {self.identity.name} answers {answer.status}: {answer.said}")
        try:
            found = json.loads(answer.body)
            if not isinstance(found, dict):
                (only,) = self.signature.outputs
                found = {only.name: found}
            return {each.name: np.array(found[each.name], each.dtype) for each in self.signature.outputs}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ModelError(
                f"model {self.identity.name} answers what is no prediction: {type(error).__name__}: {answer.said}",
                remedy="it has to answer JSON: output name -> nested lists",
            ) from None
