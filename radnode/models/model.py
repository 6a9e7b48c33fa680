"""What every model has in common: batches, checks of what comes back, counting."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from radnode.domain.errors import ModelError
from radnode.domain.model import ModelIdentity, Signature, Tensor

Arrays = dict[str, np.ndarray]


@dataclass
class Usage:
    """What one model was asked during a job."""

    model: str
    requests: int = 0
    failures: int = 0
    seconds: float = 0.0


class Model:
    """A model as an app sees it. Kinds differ in how they are asked: `ask`.

    An app may have one of its own: whatever answers is checked and counted, and named in the results.
    """

    def __init__(self, signature: Signature, identity: ModelIdentity, largest_batch: int = 0) -> None:
        self.signature = signature
        self.identity = identity
        self.usage = Usage(identity.name)
        self._batch = min(filter(None, (signature.batch, largest_batch)))

    def ask(self, inputs: Arrays) -> Arrays:
        """One request: arrays of one batch in, arrays of the same length out. Raises ModelError."""
        raise NotImplementedError

    def predict(self, **inputs: Any) -> Arrays:
        """The outputs by name for all items, asked batch by batch, in their order.

        Args:
            inputs: by name, arrays whose first axis counts the items.

        Raises ModelError: what was given does not fit, the model does not answer in time, or not as agreed.
        """
        arrays = self.signature.checked(inputs)
        count = len(next(iter(arrays.values())))
        parts = [
            self._counted({name: array[at : at + self._batch] for name, array in arrays.items()})
            for at in range(0, count, self._batch)
        ]
        if not parts:
            raise ModelError(f"model {self.identity.name}: nothing to ask about")
        return {each.name: np.concatenate([part[each.name] for part in parts]) for each in self.signature.outputs}

    def _counted(self, batch: Arrays) -> Arrays:
        start = time.monotonic()
        if self not in used:
            used.append(self)
            self.usage = Usage(self.identity.name)
        self.usage.requests += 1
        try:
            answer = self.ask(batch)
            return {each.name: self._checked(each, answer, batch) for each in self.signature.outputs}
        except ModelError:
            self.usage.failures += 1
            raise
        finally:
            self.usage.seconds += time.monotonic() - start

    def _checked(self, wanted: Tensor, answer: Arrays, batch: Arrays) -> np.ndarray:
        found = answer.get(wanted.name)
        if found is None:
            raise ModelError(f"model {self.identity.name} answers {sorted(answer)}, not {wanted}")
        count = len(next(iter(batch.values())))
        if found.ndim == 0 or len(found) != count or not wanted.fits(found.shape[1:]):
            raise ModelError(f"model {self.identity.name} answers {count} items with shape {found.shape}, not {wanted}")
        array = found.astype(wanted.dtype, copy=False)
        if not np.isfinite(array).all():
            raise ModelError(f"model {self.identity.name} answers numbers that are not finite")
        return array


used: list[Model] = []
"""Those asked since the job began. A process has one job at a time."""


def refuse(model: str, kind: str, wanted: tuple[Tensor, ...], offered: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises ModelError unless what a model says of its tensors, name -> (dtype, shape), is what the app wants.

    A length below 0 stands for any. Both shapes are held against each other with the batch axis.
    """
    faults = []
    for each in wanted:
        if each.name not in offered:
            faults.append(f"it has no {kind} {each.name!r}")
            continue
        dtype, shape = offered[each.name]
        fits = len(shape) == len(each.shape) + 1 and all(
            found < 0 or length in (None, found) for length, found in zip(each.shape, shape[1:], strict=True)
        )
        if dtype != each.dtype or not fits:
            faults.append(f"its {kind} {each.name!r} is {dtype} {list(shape)}, the app's is {each}")
    faults += [
        f"the app knows nothing of its input {name!r}"
        for name in offered
        if kind == "input" and name not in {each.name for each in wanted}
    ]
    if faults:
        names = ", ".join(f"{name}: {dtype} {list(shape)}" for name, (dtype, shape) in offered.items())
        raise ModelError(f"model {model} does not suit: {'; '.join(faults)}", remedy=f"its {kind}s: {names or 'none'}")
