"""What an app and a model agree on: names, types and shapes of tensors; and who a model says it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from radnode.domain.errors import ModelError


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model.

    Attributes:
        name: as the model calls it.
        dtype: numpy's name of the type: `uint8`, `float32`.
        shape: of one item, without the batch axis; None where any length will do.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the array of one item has this shape."""
        return len(shape) == len(self.shape) and all(
            wanted in (None, found) for wanted, found in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} [n, {', '.join('any' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """What an app gives a model, and what it expects back.

    Attributes:
        batch: items that go into one request, at the most; the model's own limit, where it states one, counts too.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batch: int = 16

    def checked(self, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The inputs as arrays of the right type. Raises ModelError where a name, a shape or a count is wrong."""
        if set(given) != {each.name for each in self.inputs}:
            raise ModelError(f"given {sorted(given)}, but the model takes {[str(each) for each in self.inputs]}")
        arrays = {each.name: np.ascontiguousarray(given[each.name], dtype=each.dtype) for each in self.inputs}
        for each in self.inputs:
            if not each.fits(arrays[each.name].shape[1:]):
                raise ModelError(f"an array of shape {arrays[each.name].shape} is no input {each}")
        if len({len(each) for each in arrays.values()}) != 1:
            raise ModelError("inputs of different lengths")
        return arrays


@dataclass(frozen=True)
class ModelIdentity:
    """Who computed: ends up in a report's algorithm identification.

    Attributes:
        digest: `sha256:…` of the file, or of what the server says of the model; empty where it says nothing.
    """

    name: str
    version: str
    digest: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.version, self.digest)))
