"""The innermost process: one app, which serves the jobs that are named to it on a socket.

    {"folder": ...}   ->   {"progress": "..."} *   {"how": "done" | "error", "detail": "..."}

It is forked from the nursery for one job, or started as a program, loads its model and serves job after job.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radnode import models
from radnode.domain.app import App
from radnode.domain.errors import RadnodeError
from radnode.domain.jobs import Assignment, SeriesLabel
from radnode.run import apps as app_finder

JOB, OUT, MANIFEST, MODELS = "job.json", "out", "manifest.json", "models.json"
REFUSED = "refused"
"""In OUT: results that failed their check, with reasons."""
MESSAGE = 65536
"""Bytes of the longest message on a socket between worker and child."""
_LONGEST_ERROR = 4000
_LONGEST_PROGRESS = 200
_M_ARENA_MAX = -8


def serve(line: socket.socket, load: Callable[[], App[Any]], memory: int = 0) -> None:
    """Works until the other end of the line closes. The app is loaded when the first job has come.

    Args:
        memory: MiB that are named to the app's user where Python itself finds no more.
    """
    app: App[Any] | None = None
    while request := line.recv(MESSAGE):
        folder = Path(json.loads(request)["folder"])
        os.chdir(folder)
        _use_for_temporary_files(folder)
        try:
            app = app or load()
            answer = {"how": "done", "detail": _work(app, folder, lambda text: _progress(line, text))}
        except MemoryError:
            answer = _failed(f"out of memory: more than {memory} MiB" if memory else "out of memory")
        except RadnodeError as error:
            answer = _failed(str(error))
        except BaseException as error:  # noqa: BLE001 - the app is a stranger: whatever it raises fails its job only
            answer = _failed(_told(error))
        _tell_usage(folder)
        for each in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # an app may have put anything there
                each.flush()
        os.chdir("/")
        line.send(json.dumps(answer).encode())


def _work(app: App[Any], folder: Path, progress: Callable[[str], None]) -> str:
    from radnode.run.process import process  # noqa: PLC0415 - imported by the nursery already

    process(app, read_assignment(folder), folder / OUT, progress)
    return ""


def _use_for_temporary_files(folder: Path) -> None:
    """What an app leaves in its temporary folder goes with the job."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None


def _progress(line: socket.socket, text: str) -> None:
    print(text, flush=True)
    line.send(json.dumps({"progress": text[:_LONGEST_PROGRESS]}).encode())


def _told(error: BaseException) -> str:
    """What an exception says, also where its own `__str__` raises."""
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except BaseException:  # noqa: BLE001
        return f"{type(error).__name__}, which cannot say more"


def _failed(text: str) -> dict[str, str]:
    with contextlib.suppress(OSError):
        traceback.print_exc()
    return {"how": "error", "detail": text[:_LONGEST_ERROR]}


def _tell_usage(folder: Path) -> None:
    """What models were asked: also where the app failed, which may have been their fault."""
    with contextlib.suppress(OSError):
        (folder / MODELS).write_text(json.dumps([vars(each) for each in models.usage()]))


def limit_memory(memory: int) -> None:
    """At most so many MiB of address space beyond what the warm parent has.

    Of that glibc would reserve 64 MiB for each thread that allocates: it is told to share (mallopt(3)).
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    with contextlib.suppress(OSError):
        base = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = base + memory * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def write_assignment(folder: Path, assignment: Assignment) -> None:
    fields = {**vars(assignment), "label": vars(assignment.label)}
    (folder / JOB).write_text(json.dumps(fields))


def read_assignment(folder: Path) -> Assignment:
    fields = json.loads((folder / JOB).read_text())
    return Assignment(**{**fields, "label": SeriesLabel(**fields["label"])})


def main(fd: int, apps: Path, name: str, only: str) -> None:
    """A process that stays: it imports the app, and loads its model once, for the first job."""
    from radnode.run import process  # noqa: PLC0415, F401 - only now: a fault here is in the job's log

    def load() -> App[Any]:
        app = app_finder.find(apps, only=only).get(name)()
        app.load()
        return app

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with socket.socket(fileno=fd) as line:
        serve(line, load)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
