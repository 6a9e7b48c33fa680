"""A node whose processes die at crash labels, one after the other, and all that is around it."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from radnode.domain.errors import RadnodeError
from radnode.testing.sink import SinkPacs
from tests.crashes import Armed
from tests.peers import Node, until
from tests.road import apps_folder, settled, small_ct, study_uid, uids
from tests.test_commitment import Modality
from tests.test_life import assert_once
from tests.test_power_loss import data_set_digest

ROUTING = """\
destinations:
  a: {{aet: {sink.aet}, host: 127.0.0.1, port: {sink.port}}}
  reports: {{aet: {sink.aet}, host: 127.0.0.1, port: {sink.port}, wants: [sr]}}
  pages: {{aet: {sink.aet}, host: 127.0.0.1, port: {sink.port}, wants: [sc], fallback: {{sr: sc}}}}
  modality: {{aet: {modality.aet}, host: 127.0.0.1, port: {modality.port}}}
complete: {{series: 1s, study: 1s}}
rules:
  - {{name: results, app: test, send_to: [a], when: {{CallingAETitle: WHOLE}}}}
  - {{name: copies, level: study, send_to: [a], when: {{CallingAETitle: WHOLE}}}}
  - {{name: late, app: test, send_to: [a], expire: 0.1s, when: {{CallingAETitle: LATE}}}}
  - {{name: slow, app: test, send_to: [], options: {{sleep: 600}}, when: {{CallingAETitle: SLOW}}}}
  - {{name: declined, app: test, options: {{fail: declined}}, when: {{CallingAETitle: DECLINED}}}}
  - {{name: failed, app: test, options: {{fail: error}}, when: {{CallingAETitle: FAILED}}}}
  - {{name: crashed, app: test, options: {{fail: crash}}, when: {{CallingAETitle: CRASHED}}}}
  - {{name: talker, app: talker, send_to: [a], when: {{CallingAETitle: TALKER}}}}
  - {{name: partly, app: test, send_to: [reports], when: {{CallingAETitle: PARTLY}}}}
  - {{name: pages, app: test, send_to: [pages], when: {{CallingAETitle: PAGES}}}}
  - {{name: noticed, app: test, notice: 1s, options: {{fail: declined}}, when: {{CallingAETitle: NOTICED}}}}
  - name: waits
    app: test
    level: study
    send_to: []
    when: {{CallingAETitle: WAITS}}
    inputs: {{there: {{Modality: CT}}, missing: {{Modality: MR}}}}
    wait: {{for: 1s, then: run}}
defaults: {{send_to: [a]}}
"""
TALKER = """\
import time
import radnode

class Talker(radnode.App):
    name, version = "talker", "1"

    def process(self, series, options):
        self.progress("half way", 0.5)
        time.sleep(1)
        yield radnode.MeasurementReport([radnode.Measurement("Number of images", len(series))])
"""
DEATHS_MOST = 4  # the supervisor waits longer and longer before it starts again what keeps dying


class Stage(Armed):
    """A node whose processes die at the labels that are armed, its sink, and its modality."""

    def __init__(self, folder: Path, sink: SinkPacs) -> None:
        super().__init__(folder / "crash")
        self.folder, self.sink, self.modality = folder, sink, Modality()
        routing = ROUTING.format(sink=sink, modality=self.modality)
        apps = apps_folder(folder / "apps", talker=TALKER)
        self.node = Node(folder / "node", routing, apps=apps, env={"RADNODE_CRASH_AT": str(self.crash_at)})
        self._seeds = count(5000)

    def rested(self) -> None:
        """A fresh supervisor, once the parts have died so often that it hesitates to start them."""
        if self.deaths > DEATHS_MOST:
            self.node.stop()
            self.node.start()
            self.deaths = 0
        self.disarm()  # of a test that failed
        until(self.node.ready, "every part is up")

    def study(self) -> list[Path]:
        seed = next(self._seeds)
        return small_ct(self.folder / f"study{seed}", seed, slices=3, size=16)

    def push(self, calling_aet: str = "WHOLE", files: list[Path] | None = None) -> list[Path]:
        """A study of its own, pushed again and again until all of it is acknowledged, as a modality does."""
        files = files or self.study()

        def acknowledged() -> bool:
            try:
                return {each.status for each in self.node.send(files, calling_aet=calling_aet)} == {0}
            except RadnodeError:
                return False

        until(acknowledged, "all of it is acknowledged")
        return files

    def assert_as_if_nothing_had_happened(self, files: list[Path], arrived: int) -> None:
        """All of it is kept, its copies and its two results have come, and nothing else is left of it anywhere."""
        settled(self.node, study_uid(files), timeout=120)
        assert_once(self.sink, arrived, len(files) + 2, again=True)
        came = {each.sop_instance_uid for each in self.sink.received[arrived:]}
        assert set(uids(files)) < came
        self.assert_kept(files)
        self.assert_tidy()

    def assert_kept(self, files: list[Path]) -> None:
        assert {data_set_digest(each) for each in files} <= self.digests()

    def digests(self) -> set[str]:
        return {data_set_digest(each) for each in self.spool("instances/**/*.dcm")}

    def assert_tidy(self) -> None:
        until(lambda: not self.spool("instances/**/*.part") + self.spool("work/*"), "nothing is left lying about")

    def spool(self, pattern: str) -> list[Path]:
        return list((self.node.home / "spool").glob(pattern))
