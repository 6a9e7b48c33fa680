"""`radnode up --demo`: a sink PACS beside the node, a phantom pushed through it over real DICOM, and what happened."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from radnode.dicom.scu import Peer, read_outgoing, send
from radnode.domain.errors import RadnodeError
from radnode.run.lifeline import StopSignal
from radnode.run.look import studies
from radnode.run.node import Node
from radnode.run.tools import PHANTOM_BLEED_ML
from radnode.settings import Settings
from radnode.testing.phantom import head_ct
from radnode.testing.sink import SinkPacs

_ROUTING = """\
# Made by `radnode up --demo`: a quiet time of one second, everything to the demo's own sink PACS.
destinations:
  sink: {{aet: DEMOSINK, host: 127.0.0.1, port: {port}}}
complete: {{series: 1s, study: 2s}}
defaults: {{send_to: [sink]}}
rules:
  - name: wiring
    app: test
    level: study
    when: {{Modality: CT}}
  - name: head-ct-hyperdense
    app: hyperdense
    when: {{Modality: CT, StudyDescription: "*HEAD*"}}
    priority: urgent
"""
_SECONDS = 180.0
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


class Demo:
    """Watches one study on its road. `turn` is called by the supervisor; it says True when the show is over."""

    def __init__(self, settings: Settings, sink: SinkPacs, out: Console) -> None:
        self.settings, self.sink, self.out = settings, sink, out
        self.ok = False
        self._node: Node | None = None
        self._thread = threading.Thread(target=self._show, name="demo", daemon=True)
        self._over = threading.Event()
        self._shown = 0
        self._started = 0.0

    def turn(self, node: Node) -> bool:
        if not self._thread.is_alive() and not self._over.is_set() and node.ready():
            self._thread.start()
        return self._over.is_set()

    def _show(self) -> None:
        try:
            self._push()
            delivered = self._follow()
            self._results()
            self.ok = delivered
        except RadnodeError as error:
            self.out.print(str(error), style="red", markup=False)
        finally:
            self._over.set()

    def _push(self) -> None:
        folder = self.settings.home / "phantom"
        self._say("phantom", f"28 images of a head CT with a bleed of {PHANTOM_BLEED_ML:g} mL, in {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        files = [read_outgoing(each) for each in head_ct(folder, bleed_ml=PHANTOM_BLEED_ML, seed=int(time.time()))]
        me = Peer(self.settings.aet[0], "127.0.0.1", self.settings.port)
        self._started = time.monotonic()
        stored = sum(answer.status == 0 for answer in send(files, me, calling_aet="WORKSTATION"))
        self._say("pushed", f"{stored} of {len(files)} instances acknowledged by {me}")

    def _follow(self) -> bool:
        """Prints the timeline as it grows; True when everything was delivered."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            for study in studies(self.settings, limit=1):
                self._new_events(study["timeline"])
                ended = study["state"] in ("done", "attention")
                if ended and len(study["jobs"]) >= 2:
                    return bool(study["state"] == "done")
            time.sleep(0.1)
        self.out.print("not everything has arrived in time: `radnode studies --attention` says more", style="red")
        return False

    def _new_events(self, timeline: list[dict[str, Any]]) -> None:
        for each in timeline[self._shown :]:
            self._say(each["event"], _told(each))
        self._shown = len(timeline)

    def _results(self) -> None:
        from radnode.run.preview import preview  # noqa: PLC0415 - needs Pillow

        files = [each.path for each in self.sink.received if each.path is not None]
        pictures = [preview(each) for each in files if read_outgoing(each).sop_class_uid == _SECONDARY_CAPTURE]
        self.out.print()
        self.out.print(f"{len(files)} results arrived in the sink: {self.sink.folder}", markup=False, highlight=False)
        for each in [*files[:4], *pictures[:1], *pictures[len(pictures) // 2 : len(pictures) // 2 + 1]]:
            self.out.print(f"  {each}", markup=False, highlight=False)
        typed = sys.argv[0] if Path(sys.argv[0]).name == "radnode" else "radnode"  # it need not be in the PATH
        self.out.print(
            f"look again: RADNODE_HOME={self.settings.home} {typed} studies", markup=False, highlight=False
        )

    def _say(self, stage: str, text: str) -> None:
        at = f"{time.monotonic() - self._started:7.2f} s" if self._started else "         "
        self.out.print(Text.assemble((at, "dim"), "  ", (f"{stage:<15}", "bold"), text))


def _told(event: dict[str, Any]) -> str:
    """An event in words."""
    if event["event"] in ("complete", "study complete"):
        fired = [rule["rule"] for rule in event.get("rules", []) if rule["matched"]]
        return f"matched: {', '.join(fired) or 'no rule at this level'}"
    hidden = (
        "at",
        "event",
        "job",
        "delivery",
        "seconds",
        "association",
        "worker",
        "SeriesInstanceUID",
        "routing_version",
    )
    return ", ".join(f"{key} {value}" for key, value in event.items() if key not in hidden and value not in ("", None))


def run(settings: Settings, stop: StopSignal, out: Console) -> int:
    """The whole show, in a home of its own: phantoms have no place among patients. Returns 0 when all has arrived."""
    folder = settings.home / "sink"
    shutil.rmtree(folder, ignore_errors=True)
    with SinkPacs(folder, aet="DEMOSINK") as sink:
        routing = settings.home / "routing.yaml"
        routing.write_text(_ROUTING.format(port=sink.port), encoding="utf-8")
        node = Node(dataclasses.replace(settings, routing=routing, host="127.0.0.1"))
        demo = Demo(node.settings, sink, out)
        out.print("starting a node and a sink PACS; this takes some seconds", style="dim")
        code = node.run(stop, lambda: demo.turn(node))
    return code or (0 if demo.ok else 1)
