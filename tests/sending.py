"""Deliveries without a node around them: a ledger, files, and the part of a worker that sends them, in this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radnode.dicom.scu import OutgoingFile, read_outgoing
from radnode.domain.routing import Destination
from radnode.run.delivery import Deliverer
from radnode.run.hands import Hands
from radnode.settings import Settings, load
from radnode.state import claims, deliveries, intake, schema
from radnode.state.jobs import ResultRow
from radnode.state.ledger import Ledger, Record
from tests.databases import make_job, rows
from tests.peers import until


class Desk:
    """Sends what it is given to these destinations, as a worker would."""

    def __init__(self, folder: Path, *places: Destination) -> None:
        self.settings: Settings = load({"RADNODE_HOME": str(folder)}, folder / "none")
        self.settings.spool.mkdir(parents=True)
        self.ledger = Ledger(self.settings.home)
        self.ledger.migrate()
        self.stopping = threading.Event()
        hands = Hands(self.ledger, "worker-1")
        self.deliverer = Deliverer(self.settings, self.ledger, "worker-1", hands, self.stopping)
        self._version = 0
        self.route(*places)

    def route(self, *places: Destination) -> None:
        """These are the destinations from now on."""
        self._version += 1
        peers: dict[str, Any] = {"destinations": {each.name: asdict(each) for each in places}, "senders": None}
        with self.ledger.begin() as tx:
            intake.remember_routing(tx, f"v{self._version}", "", peers)
            deliveries.allow(tx, {each.name: each.associations for each in places})

    def job(self, name: str, files: Sequence[OutgoingFile], to: Sequence[str], **changed: Any) -> None:
        """A job that has made these files, with a delivery to each of the destinations."""
        kinds: Mapping[str, str] = changed.pop("kinds", {})
        make_job(self.ledger, name, send_to=tuple(to), **changed)
        made = [
            ResultRow(
                each.sop_instance_uid,
                each.sop_class_uid,
                each.transfer_syntax_uid,
                kinds.get(each.sop_instance_uid, "sc"),
                str(each.path),
                each.path.stat().st_size,
            )
            for each in files
        ]
        with self.ledger.begin() as tx:
            claimed = claims.claim(tx, "cpu", "worker-1")
            assert claimed is not None
            assert claims.finish(tx, claimed, made)

    def work(self) -> None:
        """Everything that waits is tried now, whatever it waits for."""
        with self.ledger.begin() as tx:
            deliveries.wake_all(tx)
        self.deliverer.drain()

    def delivery(self, destination: str = "pacs", job: str = "") -> Record:
        found = [
            each
            for each in rows(self.ledger, schema.delivery)
            if each.destination == destination and (not job or each.job_id == job)
        ]
        assert len(found) == 1
        return found[0]

    def settle(self, state: str, destination: str = "pacs") -> Record:
        """Works on until the delivery is in that state."""

        def there() -> Any:
            self.work()
            found = self.delivery(destination)
            return found.state == state and found

        return until(there, f"a delivery to {destination}, {state}")

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [each.data for each in rows(self.ledger, schema.event) if each.kind == kind]

    def sent(self) -> dict[str, Record]:
        return {each.sop_instance_uid: each for each in rows(self.ledger, schema.sent)}

    def close(self) -> None:
        self.deliverer.close()
        self.ledger.close()


def of_study(path: Path, file: Path, **attributes: str) -> OutgoingFile:
    """A copy of a file with other attributes, under a new UID where they name one."""
    from pydicom import dcmread

    ds = dcmread(file)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path)
    return read_outgoing(path)
