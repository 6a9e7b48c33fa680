"""What tests of radnode, and of apps, need: shipped, so that an app author has it too."""

from radnode.testing.sink import SinkPacs

__all__ = ["SinkPacs"]
