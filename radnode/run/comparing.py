"""`radnode job A --compare B`: in what the results of two jobs differ, such as a shadow job's and the live one's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import dcmread
from rich.console import RenderableType
from rich.tree import Tree

from radnode.dicom.encode.page import of_report
from radnode.domain.errors import NotFoundError
from radnode.run import look
from radnode.run.look import plain
from radnode.settings import Settings
from radnode.state import jobs
from radnode.state.views import View

_REPORT, _PICTURES = "sr", ("sc", "seg", "pm")


@dataclass(frozen=True)
class Comparison:
    """Two jobs, the first and the second.

    Attributes:
        jobs: as `radnode job` shows them.
        same_images: whether they ran on the same.
        said: what the reports of each say: statement -> value.
    """

    jobs: tuple[View, View]
    same_images: bool
    said: tuple[dict[str, str], dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        first, second = self.said
        kinds = [Counter(each["kind"] for each in job["results"]) for job in self.jobs]
        return {
            "jobs": [{key: job[key] for key in ("id", "rule", "app", "app_version", "state")} for job in self.jobs],
            "same_images": self.same_images,
            "objects": {kind: [each[kind] for each in kinds] for kind in sorted(kinds[0] | kinds[1])},
            "alike": sum(first.get(name) == value for name, value in second.items()),
            "differences": [
                {"what": name, "values": [first.get(name), second.get(name)]}
                for name in dict.fromkeys([*first, *second])
                if first.get(name) != second.get(name)
            ],
            "pictures": [[each["path"] for each in job["results"] if each["kind"] in _PICTURES] for job in self.jobs],
        }


def compare(settings: Settings, first: str, second: str) -> Comparison:
    """Reads the reports both have published. Raises NotFoundError where there is no such job, or a report is gone."""
    one, other = look.job(settings, first), look.job(settings, second)
    with look.ledger_of(settings) as ledger, ledger.read() as tx:
        images = [{row.id for row in jobs.input_rows(tx, each["id"])} for each in (one, other)]
    return Comparison((one, other), images[0] == images[1], (_said(settings, one), _said(settings, other)))


def render(found: Comparison) -> RenderableType:
    shown = found.to_json()
    tree = Tree("two jobs")
    for job in shown["jobs"]:
        tree.add(plain(f"{job['id'][:12]} {job['app']} {job['app_version']} by rule {job['rule']}, {job['state']}"))
    if not shown["same_images"]:
        tree.add(plain("they ran on different images"))
    for kind, (one, other) in shown["objects"].items():
        tree.add(plain(f"{kind}: {one} and {other} objects"))
    branch = tree.add(f"{shown['alike']} statements of their reports are alike, {len(shown['differences'])} differ")
    for each in shown["differences"]:
        one, other = ("nothing" if value is None else value for value in each["values"])
        branch.add(plain(f"{each['what']}: {one}, then {other}"))
    for job, pictures in zip(shown["jobs"], shown["pictures"], strict=True):
        for path in pictures:
            tree.add(plain(f"picture of {job['id'][:12]}: {path}"))
    return tree


def _said(settings: Settings, job: View) -> dict[str, str]:
    said: dict[str, str] = {}
    for each in job["results"]:
        if each["kind"] == _REPORT:
            try:
                title, lines = of_report(dcmread(settings.spool / each["path"]))
            except OSError as error:
                raise NotFoundError(
                    f"a report of job {job['id'][:12]} cannot be read: {error.strerror}", remedy="has it been removed?"
                ) from None
            said |= _statements(title, lines)
    return said


def _statements(title: str, lines: Sequence[str]) -> dict[str, str]:
    """Where in the report -> what it says there; what is said again under the same names is numbered."""
    said: dict[str, str] = {}
    above = [title]
    seen = Counter[str]()
    for line in lines:
        depth = (len(line) - len(line.lstrip())) // 2 + 1
        name, _, value = line.strip().partition(": ")
        place = " / ".join([*above[:depth], name])
        seen[place] += 1
        if seen[place] > 1:
            name, place = f"{name} {seen[place]}", f"{place} {seen[place]}"
        above[depth:] = [name]
        if value:
            said[place] = value
    return said
