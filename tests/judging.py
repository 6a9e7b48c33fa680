"""Core's judgement without a core: files in a spool, a real ledger, and time that passes when a test says so."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from radnode.dicom.headers import FileMeta
from radnode.domain.assembly import Situation
from radnode.domain.routing import Catalog, Routing, parse_routing
from radnode.domain.study_assembly import StudySituation
from radnode.run.completion import Completion
from radnode.settings import load
from radnode.state import intake
from radnode.state.arrivals import Arrival
from radnode.state.ledger import Ledger, Record
from radnode.state.views import View, Views

BUCKET = "20260101T10"
STUDY = "1.2.3"
TITLES = {"calling_aet": "CT1", "called_aet": "RADNODE"}


class Apps:
    """A catalog with one app that takes no options."""

    def names(self) -> list[str]:
        return ["test"]

    def broken(self, name: str) -> str | None:
        return None

    def parse_options(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return given

    def version(self, name: str) -> str:
        return "1.0"

    def queue(self, name: str) -> str:
        return "cpu"


class Tickets:
    """What would go to the broker."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, queue: str, count: int = 1) -> None:
        self.sent.append(queue)


class Judge:
    """What core decides by this routing file. Another Judge on the same ledger is core after a restart."""

    def __init__(self, home: Path, ledger: Ledger, text: str, catalog: Catalog | None = None) -> None:
        self.settings = load({"RADNODE_HOME": str(home), "RADNODE_TZ": "Europe/Berlin"}, home / "no.env")
        self.ledger, self.tickets = ledger, Tickets()
        self.completion = Completion(self.settings, ledger, catalog or Apps(), self.tickets)  # type: ignore[arg-type]
        self.routing: Routing = parse_routing(text, catalog=catalog or Apps())
        self._began, self._numbers = time.time(), count(1)

    def receives(self, uid: str, images: int = 2, *, study: str = STUDY, copy: str = "a", **attributes: Any) -> None:
        """Instances of a series with these attributes arrive."""
        titles = {key: attributes.pop(key, value) for key, value in TITLES.items()}
        arrivals = []
        for number in range(images):
            sop, path = f"{uid}.{number}", f"instances/{BUCKET}/{copy}-{uid}-{number}.dcm"
            size = self._write(self.settings.spool / path, sop, study, uid, number, attributes, titles)
            arrivals.append(
                Arrival(path, sop, CTImageStorage, uid, study, ExplicitVRLittleEndian, size,
                        self._began + next(self._numbers), self.ledger.now(), peer="10.1.2.3", association="a1",
                        **titles)
            )  # fmt: skip
        with self.ledger.begin() as tx:
            intake.record(tx, arrivals, [])

    def _write(
        self, path: Path, sop: str, study: str, series: str, number: int, attributes: Any, titles: dict[str, str]
    ) -> int:
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, sop
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.InstanceNumber = study, series, number
        for keyword, value in {"PatientID": "P1", "AccessionNumber": "A1", **attributes}.items():
            setattr(ds, keyword, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(FileMeta(CTImageStorage, ExplicitVRLittleEndian, *titles.values()).encode(sop))
            ds.save_as(stream, implicit_vr=False, little_endian=True)
        return path.stat().st_size

    def series_quiet(self, uid: str, seconds: float = 1e6) -> None:
        """Nothing of the series has come for so long."""
        row = self._series(uid)
        self.completion.judge_series(row, self.routing, Situation(seconds))

    def study_quiet(self, seconds: float = 1e6, study: str = STUDY) -> None:
        for row in self._rows(study):
            if row.state == "receiving":
                self.series_quiet(row.series_instance_uid)
        with self.ledger.read() as tx:
            found = intake.study_of(tx, self._rows(study)[0].study_id)
        self.completion.judge_study(found, self.routing, StudySituation(seconds))

    def view(self, study: str = STUDY) -> View:
        with self.ledger.read() as tx:
            (found,) = Views(tx, None).studies(study)
        return found

    def jobs(self, study: str = STUDY) -> list[View]:
        return list(self.view(study)["jobs"])

    def inputs(self, job: View) -> dict[str, set[str]]:
        """Input name -> UIDs of the series that serve it."""
        from radnode.state import jobs

        with self.ledger.read() as tx:
            named = jobs.inputs(tx, job["id"])
        return {name: {Path(each).name.split("-")[1] for each in paths} for name, paths in named.items()}

    def events(self, kind: str, study: str = STUDY) -> list[View]:
        return [each for each in self.view(study)["timeline"] if each["event"] == kind]

    def _series(self, uid: str) -> Record:
        return next(each for each in self._rows() if each.series_instance_uid == uid)

    def _rows(self, study: str = "") -> list[Record]:
        from sqlalchemy import select

        from radnode.state import schema

        query = select(schema.series).join(schema.study, schema.study.c.id == schema.series.c.study_id)
        query = query.where(schema.study.c.study_instance_uid == study) if study else query
        with self.ledger.read() as tx:
            return list(tx.execute(query.order_by(schema.series.c.id)).all())
