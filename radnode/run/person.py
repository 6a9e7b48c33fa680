"""Who acts: the name that stands on timelines."""

from __future__ import annotations

import getpass
import os


def who() -> str:
    """The user's name; their number where the system knows none, as of a container's user that was made up."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # Python 3.13 on: OSError
        return f"user {os.getuid()}"
