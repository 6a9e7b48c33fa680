"""Results as they lie published: the manifest says what they are, and `origin.json` what they are the results of.

Core reads both where the ledger does not know the job: it is new because one was lost, or a copy older than the spool.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from radnode.dicom.rejection import KEY_OBJECT_SELECTION
from radnode.domain.routing.destinations import FILE
from radnode.run.child import MANIFEST
from radnode.state import jobs, origins
from radnode.state.ledger import Ledger, Unavailable
from radnode.state.origins import Ended, Origin
from radnode.state.spool import Spool
from radnode.telemetry import log

ORIGIN = "origin.json"


def describe(out: Path, origin: Origin) -> None:
    """Writes `origin.json` beside the results in `out`. An app may have left something of that name."""
    place = out / ORIGIN
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    with place.open("x", encoding="utf-8") as file:
        json.dump(origin, file, indent=1)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises OSError, ValueError."""
    return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def rows_of(folder: Path, manifest: dict[str, Any], root: Path) -> list[jobs.ResultRow]:
    """What lies in a folder of the spool at `root`, for the ledger."""
    return [
        jobs.ResultRow(
            sop_instance_uid=each["SOPInstanceUID"],
            sop_class_uid=each["SOPClassUID"],
            transfer_syntax_uid=each["TransferSyntaxUID"],
            kind=each["kind"],
            path=str((folder / each["file"]).relative_to(root)),
            size=each["size"],
        )
        for each in manifest["objects"]
        if each.get("SOPInstanceUID")
    ] + [_file_row(folder / name, root) for name in manifest.get("files", ())]


def _file_row(path: Path, root: Path) -> jobs.ResultRow:
    """A `File` result, for folders: its name stands where an object's UID does."""
    return jobs.ResultRow(path.name, "", "", FILE, str(path.relative_to(root)), path.stat().st_size)


def put_back(ledger: Ledger, spool: Spool) -> int:
    """Puts jobs back whose results lie in the spool and that the ledger does not know; returns how many.

    After what lies in the spool has been adopted, and before anything is judged: their work is found done then, and
    what came back of their results is known for what it is.
    """
    names = spool.all_published()
    with ledger.read() as tx:
        unsettled = origins.unsettled(tx, names)
    found = sorted(_ended(spool, unsettled), key=_order)
    if mute := len(unsettled) - len(found):
        log().warning("published results say nothing of their job", results=mute, see="docs/deployment.md, Restore")
    return sum(_put_study_back(ledger, spool, names, list(each)) for _, each in itertools.groupby(found, _study_of))


def _put_study_back(ledger: Ledger, spool: Spool, names: Mapping[str, list[str]], ended: list[Ended]) -> int:
    """0 where something is wrong with them: core has to start, and all that is lost is that they are put back."""
    try:
        with ledger.begin("put back") as tx:
            count = origins.put_back(tx, _study_of(ended[0]), ended, KEY_OBJECT_SELECTION)
            for name in (name for each in ended for name in names[each.origin["id"]]):
                jobs.recognize(tx, [row.sop_instance_uid for row in _rows(spool, name)])  # also what was sent instead
    except Unavailable:
        raise
    except Exception:  # noqa: BLE001
        log().exception("results cannot be put back", jobs=[each.origin["id"] for each in ended])
        return 0
    return count


def _study_of(ended: Ended) -> str:
    return str(ended.origin["StudyInstanceUID"])


def _order(ended: Ended) -> tuple[str, float]:
    return _study_of(ended), float(ended.origin["created_at"])


def _ended(spool: Spool, job_ids: Collection[str]) -> Iterator[Ended]:
    """Without those that say nothing of their origin, or not in these words: of another version, or notices."""
    for each in job_ids:
        folder = spool.results / each
        with suppress(OSError, ValueError, LookupError, TypeError):
            origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
            manifest = read_manifest(folder)
            ended = Ended(origin, manifest["state"], manifest["reason"], rows_of(folder, manifest, spool.root))
            if origin["id"] == each and _order(ended):
                yield ended


def _rows(spool: Spool, name: str) -> list[jobs.ResultRow]:
    """None where what was published is broken: the worker that looks at it says so."""
    folder = spool.results / name
    with suppress(OSError, ValueError, LookupError, TypeError):
        return rows_of(folder, read_manifest(folder), spool.root)
    return []
