"""What tests of radnode, and of apps, need: shipped, so that an app author has it too."""

from radnode.testing.phantom import head_ct
from radnode.testing.sink import SinkPacs

__all__ = ["SinkPacs", "head_ct"]
