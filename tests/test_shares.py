"""Connections spread over the receivers of a node."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

from radnode.dicom.negotiation import Policy
from radnode.run.receiver import NoMetrics, Receiver, accept
from radnode.run.shares import Shares, shared_counts
from radnode.state.spool import Spool
from tests.peers import until

CALLERS = 8


def test_a_receiver_is_ahead_while_another_has_fewer_connections() -> None:
    fd = shared_counts(2)
    first, second = (Shares(os.dup(fd), number) for number in range(2))
    assert not first.ahead()
    first.set(1)
    assert first.ahead()
    assert not second.ahead()
    second.set(1)
    assert not first.ahead()


def test_a_receiver_that_takes_a_dead_ones_place_has_no_connections() -> None:
    fd = shared_counts(2)
    dead, other = (Shares(os.dup(fd), number) for number in range(2))
    dead.set(7)
    other.set(1)
    Shares(os.dup(fd), 0)
    assert other.ahead()


def test_who_calls_while_one_receiver_has_connections_is_served_by_the_other(tmp_path: Path) -> None:
    fd, stop = shared_counts(2), threading.Event()
    policy = Policy(aets=("RADNODE",), allowed=lambda calling, peer: True)
    first, second = (
        Receiver(Spool(tmp_path / str(number)), lambda _: policy, NoMetrics(), shares=Shares(os.dup(fd), number))
        for number in range(2)
    )
    with socket.create_server(("127.0.0.1", 0), backlog=CALLERS) as listener, ExitStack() as callers:
        for each in (first, second):
            thread = threading.Thread(target=accept, args=(listener, each, stop))
            thread.start()
            callers.callback(thread.join)
            callers.callback(stop.set)
            for _ in range(CALLERS):
                callers.enter_context(socket.create_connection(listener.getsockname()))
            until(lambda one=each: len(one.sockets) >= CALLERS - 1, "it serves them, but for one at the most")  # type: ignore[misc]
        until(lambda: len(first.sockets) + len(second.sockets) == 2 * CALLERS, "all are served")
