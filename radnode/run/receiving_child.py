"""One receiver as a process of its own: logs and metrics first, then what has metrics."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack

from radnode import settings
from radnode.state import crash
from radnode.telemetry import set_up


def main(number: int, plain: int, secure: int) -> None:
    """Receiver `number` on the ports with these descriptors; -1: none."""
    node = settings.load()
    crash.arm(node.crash_at)
    set_up(node, "receiver")
    from radnode.run.receiving import receive  # noqa: PLC0415 - the client decides at import where values live

    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket(fileno=fd)) if fd >= 0 else None for fd in (plain, secure)]
        receive(node, number, *listeners)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
