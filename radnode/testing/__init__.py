"""What tests of radnode, and of apps, need: shipped, so that an app author has it too."""

from radnode.run.local import LocalRun, run_local
from radnode.testing.phantom import head_ct
from radnode.testing.sink import SinkPacs

__all__ = ["LocalRun", "SinkPacs", "head_ct", "run_local"]
