"""The keys of a rule in `routing.yaml`, and of the `defaults` for those that a rule leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import yaml

from radnode.domain.errors import OptionsError, did_you_mean
from radnode.domain.generations import Late
from radnode.domain.jobs import PRIORITIES, SeriesLabel
from radnode.domain.routing import values
from radnode.domain.routing.completeness import Complete, read_complete
from radnode.domain.routing.condition_keys import read_conditions
from radnode.domain.routing.destinations import Destination, read_names
from radnode.domain.routing.inputs import read_inputs, read_wait
from radnode.domain.routing.least import read_least
from radnode.domain.routing.nodes import choice_of, items_of, line_of, plain_of, quoted, text_of
from radnode.domain.routing.reader import NO_NODES, Fields, Reader
from radnode.domain.routing.rules import Catalog, Level, Priority, Rule

KEYS = (
    "name",
    "app",
    "level",
    "when",
    "unless",
    "min_instances",
    "inputs",
    "wait",
    "options",
    "priority",
    "send_to",
    "series",
    "complete",
    "expire",
    "notify",
    "mail_to",
    "notice",
    "run_between",
    "late",
    "mode",
    "enabled",
)
DEFAULTS_KEYS = ("priority", "send_to")
LABEL_KEYS = ("number", "description")

_LEVELS = ("series", "study")
EVENTS = ("delivered", "failed", "declined", "late")
_LATE = ("rerun", "ignore", "hold")
_MODES = ("live", "shadow")


@dataclass(frozen=True)
class Defaults:
    """What rules have that do not say it themselves. `send_to` None: each has to say it."""

    complete: Complete
    priority: Priority = "normal"
    send_to: tuple[str, ...] | None = None


def read_defaults(
    reader: Reader, node: yaml.Node | None, complete: Complete, destinations: dict[str, Destination]
) -> Defaults:
    fields = reader.fields(node, "defaults", DEFAULTS_KEYS)
    priority = _priority(reader, fields, "normal")
    return Defaults(complete, priority, read_names(reader, fields.get("send_to"), destinations))


class RuleReader:
    """Reads the rules of one file, one after the other."""

    def __init__(
        self,
        reader: Reader,
        destinations: dict[str, Destination],
        defaults: Defaults,
        catalog: Catalog,
        lenient_broken: bool,
    ) -> None:
        self._reader, self._destinations, self._defaults = reader, destinations, defaults
        self._catalog, self._lenient_broken = catalog, lenient_broken
        self._names: dict[str, int] = {}

    def read(self, node: yaml.Node) -> Rule:
        reader = self._reader
        fields, line = reader.fields(node, "a rule", KEYS), line_of(node)
        app = reader.read(fields.get("app"), text_of, None)
        state = self._app_state(app, fields)
        level = cast(Level, reader.read(fields.get("level"), lambda each: choice_of(each, _LEVELS), "series"))
        self._refuse_useless(fields, level)
        return Rule(
            name=self._name(fields, line),
            line=line,
            app=app,
            app_version=self._catalog.version(app) if app and state == "sound" else "",
            app_broken=(self._catalog.broken(app) or "") if app and state == "broken" else "",
            level=level,
            when=read_conditions(reader, fields.get("when"), unless=False),
            unless=read_conditions(reader, fields.get("unless"), unless=True),
            min_instances=read_least(reader, fields.get("min_instances")),
            inputs=read_inputs(reader, fields.get("inputs")),
            wait=read_wait(reader, fields.get("wait")),
            options=self._options(app, fields) if app and state == "sound" else {},
            priority=_priority(reader, fields, self._defaults.priority),
            send_to=self._send_to(fields, line),
            series=_label(reader, fields.get("series")),
            shadow=reader.read(fields.get("mode"), lambda each: choice_of(each, _MODES), "live") == "shadow",
            enabled=reader.read(fields.get("enabled"), values.switch, True),
            complete=read_complete(reader, fields.get("complete"), self._defaults.complete),
            expire=reader.read(fields.get("expire"), values.duration, None),
            notify=_notify(reader, fields.get("notify")),
            mail_to=_addresses(reader, fields.get("mail_to")),
            notice=reader.read(fields.get("notice"), values.duration, None),
            run_between=reader.read(fields.get("run_between"), values.hours, None),
            late=cast(Late, reader.read(fields.get("late"), lambda each: choice_of(each, _LATE), "rerun")),
        )

    def _name(self, fields: Fields, line: int) -> str:
        self._reader.require(fields, ("name",), line, "a rule")
        name = self._reader.read(fields.get("name"), values.name, "")
        if name and name in self._names:
            fault = f"two rules are called {quoted(name)}: the other is in line {self._names[name]}"
            self._reader.problem(line, fault)
        self._names.setdefault(name, line)
        return name

    def _app_state(self, app: str | None, fields: Fields) -> Literal["sound", "broken", "unknown"]:
        if app is None:
            return "unknown"
        line, names = line_of(fields["app"]), self._catalog.names()
        if app not in names:
            self._reader.problem(line, f"no app {quoted(app)} is installed{did_you_mean(app, names)}")
            return "unknown"
        if (reason := self._catalog.broken(app)) is None:
            return "sound"
        note = self._reader.warning if self._lenient_broken else self._reader.problem
        note(line, f"app {app} is broken: {reason}")
        return "broken"

    def _refuse_useless(self, fields: Fields, level: Level) -> None:
        """A key that changes nothing is taken for a misunderstanding."""
        if "app" not in fields:
            for key in ("options", "series", "notice", "run_between", "late", "inputs", "mode"):
                if key in fields:
                    self._reader.problem(line_of(fields[key]), f"{key} is of no use to a rule without an app")
        if "inputs" in fields and level != "study":
            self._reader.problem(line_of(fields["inputs"]), "inputs are chosen from a study: add `level: study`")
        if "mail_to" in fields and "notify" not in fields:
            self._reader.problem(line_of(fields["mail_to"]), "mail_to does nothing without `notify`: which events?")
        if "wait" in fields and "inputs" not in fields:
            self._reader.problem(line_of(fields["wait"]), "wait is for named inputs: without `inputs` it does nothing")
        for key, _, node in self._reader.entries(fields.get("complete")):
            if key != level and (key in _LEVELS or level == "study"):
                self._reader.problem(line_of(node), f"a rule of level {level} does not wait for `complete: {key}`")

    def _options(self, app: str, fields: Fields) -> dict[str, Any]:
        node = fields.get("options")
        lines = {key: line for key, line, _ in self._reader.entries(node)}
        given: dict[str, Any] = self._reader.read(node, plain_of, {}) if lines else {}
        try:
            return self._catalog.parse_options(app, given)
        except OptionsError as error:
            line = line_of(fields.get("options", fields["app"]))
            for option, fault in error.faults.items():
                place = lines.get(option.split(".")[0], line)
                self._reader.problem(place, f"option {option} of app {app}: {fault}")
            if not error.faults:
                self._reader.problem(line, error.message)
            return {}

    def _send_to(self, fields: Fields, line: int) -> tuple[str, ...]:
        names = read_names(self._reader, fields.get("send_to"), self._destinations)
        if names is None:
            names = self._defaults.send_to
        if names is None:
            doing = "keep the results on the node" if "app" in fields else "do nothing"
            fault = f"no send_to, here or in defaults: name destinations, or {doing} with `send_to: []`"
            self._reader.problem(line, fault)
        return names or ()


def _notify(reader: Reader, node: yaml.Node | None) -> tuple[str, ...]:
    nodes = NO_NODES if node is None else reader.read(node, items_of, NO_NODES)
    read = [reader.read(each, lambda one: choice_of(one, EVENTS), "") for each in nodes]
    return tuple(dict.fromkeys(each for each in read if each))


def _addresses(reader: Reader, node: yaml.Node | None) -> tuple[str, ...]:
    nodes = NO_NODES if node is None else reader.read(node, items_of, NO_NODES)
    return tuple(dict.fromkeys(each for each in (reader.read(one, values.mail_address, "") for one in nodes) if each))


def _priority(reader: Reader, fields: Fields, otherwise: Priority) -> Priority:
    read = reader.read(fields.get("priority"), lambda node: choice_of(node, tuple(PRIORITIES)), otherwise)
    return cast(Priority, read)


def _label(reader: Reader, node: yaml.Node | None) -> SeriesLabel:
    fields = reader.fields(node, "series", LABEL_KEYS)
    return SeriesLabel(
        number=reader.read(fields.get("number"), values.series_number, None),
        description=reader.read(fields.get("description"), values.description, ""),
    )
