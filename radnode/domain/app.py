"""The contract between radnode and an app: about 15 lines of the author's, typed options, plain values as results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from radnode.domain.errors import OptionsError, did_you_mean
from radnode.domain.results import Result
from radnode.domain.study import Series, Study

__all__ = ["App", "AppOptions", "Field", "Resources"]


class AppOptions(BaseModel):
    """Base of an app's options: typed, validated when `routing.yaml` is read, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


OptionsT = TypeVar("OptionsT", bound=AppOptions)


@dataclass(frozen=True)
class Resources:
    """What one job of an app needs. The node holds it to them."""

    cpu: int = 1
    """Cores, counted against the worker's; a job that wants more than it has is given all of them."""
    gpu: int = 0
    """GPUs; a job with any goes to the queue `gpu`."""
    memory: int = 4096
    """MiB; a job that takes more is ended."""
    timeout: float = 600.0
    """Seconds; a job that takes longer is killed."""
    concurrent: int = 0
    """Jobs of the app that may run at once on the whole node; 0: as many as there is room for."""
    network: bool = False
    """Whether it talks to other machines. A job whose options name an address, or a model with one, may do so too."""

    def __post_init__(self) -> None:
        """What is no number would stop a worker, and all other apps with it."""
        for name, least in (("cpu", 1), ("gpu", 0), ("memory", 1), ("concurrent", 0)):
            if not isinstance(value := getattr(self, name), int) or value < least:
                raise ValueError(f"Resources({name}={value!r}) is no whole number of at least {least}")
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout < math.inf:
            raise ValueError(f"Resources(timeout={self.timeout!r}) is no number of seconds")

    @property
    def queue(self) -> str:
        return "gpu" if self.gpu else "cpu"


class App(Generic[OptionsT]):
    """Turns a Series or a Study into Results. Subclass it, name it, give it a `process`."""

    name: ClassVar[str]
    version: ClassVar[str]
    resources: ClassVar[Resources] = Resources()
    description: ClassVar[str] = ""
    listener: Callable[[str], None] = staticmethod(lambda text: None)
    """Is told what `progress` says; set by whoever runs the app."""

    def load(self) -> None:
        """Runs once per process, before the first job: the place to load a model."""

    def process(self, series: Any, options: OptionsT) -> Iterable[Result]:
        """Yields results for `series`: a Series, or a Study where the rule has `level: study`.

        Raises Declined where the input does not suit. Any other exception fails the job.
        """
        raise NotImplementedError(f"app {self.name!r} has no process()")

    def progress(self, text: str, done: float | None = None) -> None:
        """Says how far it is, in a few words: `radnode job` shows it.

        Args:
            done: the part that is done, from 0 to 1, where it is known.
        """
        self.listener(text if done is None else f"{text} ({done:.0%})")

    @classmethod
    def stays(cls) -> bool:
        """Whether its process serves job after job: it loads something, or computes on a GPU."""
        return cls.load is not App.load or cls.resources.gpu > 0

    @classmethod
    def options_type(cls) -> type[AppOptions]:
        """The options class given in `App[...]`; AppOptions itself (no options) where none was."""
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in getattr(base, "__args__", ()):
                if isinstance(argument, type) and issubclass(argument, AppOptions):
                    return argument
        return AppOptions

    @classmethod
    def options_schema(cls) -> dict[str, Any]:
        """The options as JSON Schema has them."""
        return cls.options_type().model_json_schema()

    @classmethod
    def parse_options(cls, given: dict[str, Any]) -> AppOptions:
        """Options from text, a list or a table as JSON, or typed values. Raises OptionsError naming each at fault."""
        fields = cls.options_type().model_fields
        read = {name: _read(value, fields[name].annotation if name in fields else Any) for name, value in given.items()}
        try:
            return cls.options_type().model_validate(read)
        except ValidationError as error:
            known = list(fields)
            faults = {".".join(map(str, each["loc"])): _fault(each, known) for each in error.errors()}
            told = "; ".join(f"{option}: {fault}" for option, fault in faults.items())
            remedy = f"options of {cls.name}: {', '.join(known) or 'none'}"
            raise OptionsError(f"app {cls.name!r}: {told}", remedy=remedy, faults=faults) from None


def _read(value: Any, kind: Any) -> Any:
    """What text stands for where the option is no text: the command line has no other way to name several values."""
    if not (isinstance(value, str) and value.startswith(("[", "{"))):
        return value
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        with suppress(ValueError):
            return json.loads(value)
    return value


def _fault(error: ErrorDetails, known: list[str]) -> str:
    if error["type"] != "extra_forbidden":
        return error["msg"]
    return "there is no such option" + did_you_mean(str(error["loc"][-1]), known)


Input = Series | Study
