"""Turns files into another transfer syntax, in a child process with limits: what strangers sent is decoded there.

`python -m radnode.run.transcoding PARENT` is the child: a line of JSON in for each file, a line out.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from radnode.dicom.scu import OutgoingFile
from radnode.run.lifeline import die_with_parent
from radnode.settings import inherited, secret_variables

_MEMORY = 4 << 30
_SECONDS = 300
_LONGEST_ERROR = 500


def transcoded(files: Sequence[OutgoingFile], syntax: str, folder: Path) -> Iterator[OutgoingFile | str]:
    """Each file in `syntax`, written into `folder`, or why that cannot be. A child that dies costs the file it had."""
    left = list(files)
    while left:
        with _child() as child:
            while left and (answer := _ask(child, left[0].path, folder / f"{len(left)}.dcm", syntax)) is not None:
                done = left.pop(0)
                target = folder / f"{len(left) + 1}.dcm"
                yield answer or replace(done, path=target, transfer_syntax_uid=syntax)
                target.unlink(missing_ok=True)
        if left and child.returncode:
            left.pop(0)
            yield f"its decoder died ({_how(child.returncode)})"


@contextlib.contextmanager
def _child() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "radnode.run.transcoding", str(os.getpid())]
    environment = inherited(without=secret_variables())
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as child:
        try:
            yield child
        except BaseException:
            child.kill()
            raise


def _ask(child: subprocess.Popen[bytes], source: Path, target: Path, syntax: str) -> str | None:
    """Empty where it is done, else what went wrong; None where the child has died."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps([str(source), str(target), syntax]).encode() + b"\n")
        child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        child.wait()
        return None
    return str(json.loads(line))


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def main() -> None:
    """The child: until its input ends, or a file takes too long."""
    die_with_parent(int(sys.argv[1]), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from radnode.dicom.transcode import transcode  # noqa: PLC0415 - only the child decodes

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin:
        source, target, syntax = json.loads(line)
        signal.alarm(_SECONDS)
        try:
            transcode(Path(source), Path(target), syntax)
            fault = ""
        except Exception as error:  # noqa: BLE001 - decoders raise whatever they like
            fault = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
        print(json.dumps(fault), flush=True)


if __name__ == "__main__":
    main()
