"""What tests of radnode, and of apps, need: shipped, so that an app author has it too."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from radnode.testing.brain import brain_mr
from radnode.testing.chest import chest_ct
from radnode.testing.phantom import head_ct

if TYPE_CHECKING:
    from radnode.run.local import LocalRun, run_local
    from radnode.testing.sink import SinkPacs

__all__ = ["LocalRun", "SinkPacs", "brain_mr", "chest_ct", "head_ct", "run_local"]

_HOME_OF = {"SinkPacs": "radnode.testing.sink", "LocalRun": "radnode.run.local", "run_local": "radnode.run.local"}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:  # what needs more than the others is fetched when it is first used
        raise AttributeError(f"module 'radnode.testing' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
