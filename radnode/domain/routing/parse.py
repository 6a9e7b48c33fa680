"""The text of `routing.yaml` into a Routing, or every problem in it with its line."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, cast

import yaml

from radnode.domain.errors import OptionsError, RoutingError, did_you_mean
from radnode.domain.jobs import PRIORITIES, SeriesLabel
from radnode.domain.routing import values
from radnode.domain.routing.conditions import AnyOf, Between, Condition, Test
from radnode.domain.routing.keywords import NUMERIC_VRS, known_keywords, unusable, vr_of
from radnode.domain.routing.nodes import Refused, choice_of, compose, items_of, line_of, plain_of, quoted, text_of
from radnode.domain.routing.reader import KEYS, Fields, Reader
from radnode.domain.routing.rules import Catalog, Complete, Destination, Level, Priority, Routing, Rule, Sender, Senders

_LEVELS = ("series", "study")
_NO_NODES: list[yaml.Node] = []


def parse_routing(
    text: str | bytes, *, source: str = "routing.yaml", catalog: Catalog, lenient_broken: bool = False
) -> Routing:
    """Reads a routing file.

    Args:
        source: the file's name, for the problems.
        catalog: the installed apps.
        lenient_broken: a rule with a broken app becomes a warning, and never matches, instead of refusing the file:
            for the running node, which a broken app must not stop.

    Raises:
        RoutingError: with every problem found, each with its line.
    """
    parser = _Parser(source, catalog, lenient_broken)
    try:
        routing = parser.routing(text)
    except Refused as refused:
        parser.problem(refused.line, refused.message)
    if parser.problems:
        raise RoutingError(parser.problems)
    return routing


class _Parser(Reader):
    def __init__(self, source: str, catalog: Catalog, lenient_broken: bool) -> None:
        super().__init__(source)
        self._catalog = catalog
        self._lenient_broken = lenient_broken
        self._destinations: dict[str, Destination] = {}
        self._priority: Priority = "normal"
        self._send_to: tuple[str, ...] | None = None
        self._complete = Complete()
        self._rules: dict[str, int] = {}

    def routing(self, text: str | bytes) -> Routing:
        """The whole file. Raises Refused where it is no YAML, and notes all other problems."""
        root = compose(text)
        fields = self.fields(root, "routing.yaml")
        for name, line, node in self.entries(fields.get("destinations")):
            self._destinations[name] = self._destination(name, line, node)
        self._complete = self._completeness(fields.get("complete"))
        self._set_defaults(fields.get("defaults"))
        if "rules" not in fields:
            self.problem(line_of(root), "there is no `rules`; a node without rules says so with `rules: []`")
        rules = tuple(self._rule(node) for node in self.read(fields.get("rules"), items_of, _NO_NODES))
        raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        return Routing(
            destinations=self._destinations,
            senders=self._senders(fields.get("senders")),
            complete=self._complete,
            rules=rules,
            version=hashlib.sha256(raw).hexdigest()[:12],
            text=raw.decode(errors="replace"),
            warnings=self.warnings,
        )

    # Sections

    def _destination(self, name: str, line: int, node: yaml.Node) -> Destination:
        fields = self.fields(node, "a destination")
        self.require(fields, KEYS["a destination"], line, f"destination {name}")
        aet, host = self.read(fields.get("aet"), values.aet, ""), self.read(fields.get("host"), values.host, "")
        return Destination(name, aet, host, self.read(fields.get("port"), values.port, 0), line=line)

    def _senders(self, node: yaml.Node | None) -> Senders:
        if node is None:
            return Senders()
        if isinstance(node, yaml.ScalarNode):
            if self.read(node, text_of, "any") != "any":
                self.problem(line_of(node), f"{quoted(node.value)} is neither a list of senders nor `any`")
            return Senders(listed=None)
        return Senders(tuple(self._sender(each) for each in self.read(node, items_of, _NO_NODES)))

    def _sender(self, node: yaml.Node) -> Sender:
        fields = self.fields(node, "a sender")
        if not fields:
            self.problem(line_of(node), "a sender has an aet, a host, or both; `senders: any` admits everybody")
        host = self.read(fields.get("host"), values.host_or_network, "")
        return Sender(self.read(fields.get("aet"), values.aet, ""), host)

    def _completeness(self, node: yaml.Node | None) -> Complete:
        fields = self.fields(node, "complete")
        series = self.read(fields.get("series"), values.duration, self._complete.series)
        return Complete(series, self.read(fields.get("study"), values.duration, self._complete.study))

    def _set_defaults(self, node: yaml.Node | None) -> None:
        fields = self.fields(node, "defaults")
        self._priority = self._priority_of(fields)
        self._send_to = self._names_of(fields.get("send_to"))

    def _priority_of(self, fields: Fields) -> Priority:
        read = self.read(fields.get("priority"), lambda node: choice_of(node, tuple(PRIORITIES)), self._priority)
        return cast(Priority, read)

    def _names_of(self, node: yaml.Node | None) -> tuple[str, ...] | None:
        """Destinations, each named once; None where nothing is said."""
        if node is None:
            return None
        names: dict[str, None] = {}
        for each in self.read(node, items_of, _NO_NODES):
            name = self.read(each, text_of, "")
            if name and name not in self._destinations:
                self.problem(line_of(each), f"no destination {quoted(name)}{did_you_mean(name, self._destinations)}")
            names[name] = None
        return tuple(names)

    # Rules

    def _rule(self, node: yaml.Node) -> Rule:
        fields, line = self.fields(node, "a rule"), line_of(node)
        app = self.read(fields.get("app"), text_of, None)
        state = self._app_state(app, fields)
        level = cast(Level, self.read(fields.get("level"), lambda each: choice_of(each, _LEVELS), "series"))
        self._refuse_useless(fields, level)
        return Rule(
            name=self._rule_name(fields, line),
            line=line,
            app=app,
            app_version=self._catalog.version(app) if app and state == "sound" else "",
            app_broken=(self._catalog.broken(app) or "") if app and state == "broken" else "",
            level=level,
            when=self._conditions(fields.get("when"), unless=False),
            unless=self._conditions(fields.get("unless"), unless=True),
            options=self._options(app, fields) if app and state == "sound" else {},
            priority=self._priority_of(fields),
            send_to=self._rule_send_to(fields, line),
            series=self._label(fields.get("series")),
            enabled=self.read(fields.get("enabled"), values.switch, True),
            complete=self._completeness(fields.get("complete")),
            expire=self.read(fields.get("expire"), values.duration, None),
            run_between=self.read(fields.get("run_between"), values.hours, None),
        )

    def _rule_name(self, fields: Fields, line: int) -> str:
        self.require(fields, ("name",), line, "a rule")
        name = self.read(fields.get("name"), values.name, "")
        if name and name in self._rules:
            self.problem(line, f"two rules are called {quoted(name)}: the other is in line {self._rules[name]}")
        self._rules.setdefault(name, line)
        return name

    def _app_state(self, app: str | None, fields: Fields) -> Literal["sound", "broken", "unknown"]:
        if app is None:
            return "unknown"
        line, names = line_of(fields["app"]), self._catalog.names()
        if app not in names:
            self.problem(line, f"no app {quoted(app)} is installed{did_you_mean(app, names)}")
            return "unknown"
        if (reason := self._catalog.broken(app)) is None:
            return "sound"
        note = self.warning if self._lenient_broken else self.problem
        note(line, f"app {app} is broken: {reason}")
        return "broken"

    def _refuse_useless(self, fields: Fields, level: Level) -> None:
        """A key that changes nothing is taken for a misunderstanding."""
        if "app" not in fields:
            for key in ("options", "series", "run_between"):
                if key in fields:
                    self.problem(line_of(fields[key]), f"{key} is of no use to a rule without an app")
        for key, _, node in self.entries(fields.get("complete")):
            if key in _LEVELS and key != level:
                self.problem(line_of(node), f"a rule of level {level} does not wait for `complete: {key}`")

    def _options(self, app: str, fields: Fields) -> dict[str, Any]:
        node = fields.get("options")
        lines = {key: line for key, line, _ in self.entries(node)}
        given: dict[str, Any] = self.read(node, plain_of, {}) if lines else {}
        try:
            return self._catalog.parse_options(app, given)
        except OptionsError as error:
            line = line_of(fields.get("options", fields["app"]))
            for option, fault in error.faults.items():
                self.problem(lines.get(option.split(".")[0], line), f"option {option} of app {app}: {fault}")
            if not error.faults:
                self.problem(line, error.message)
            return {}

    def _rule_send_to(self, fields: Fields, line: int) -> tuple[str, ...]:
        names = self._names_of(fields.get("send_to"))
        if names is None:
            names = self._send_to
        if names is None:
            doing = "keep the results on the node" if "app" in fields else "do nothing"
            self.problem(line, f"no send_to, here or in defaults: name destinations, or {doing} with `send_to: []`")
        return names or ()

    def _label(self, node: yaml.Node | None) -> SeriesLabel:
        fields = self.fields(node, "series")
        number = self.read(fields.get("number"), values.series_number, None)
        return SeriesLabel(number, self.read(fields.get("description"), values.description, ""))

    # Conditions

    def _conditions(self, node: yaml.Node | None, *, unless: bool) -> tuple[Condition, ...]:
        found = [self._condition(keyword, line, each, unless) for keyword, line, each in self.entries(node)]
        return tuple(each for each in found if each)

    def _condition(self, keyword: str, line: int, node: yaml.Node, unless: bool) -> Condition | None:
        vr = vr_of(keyword)
        if vr is None:
            self.problem(line, f"{quoted(keyword)} is no DICOM keyword{self.hint(keyword, known_keywords)}")
            return None
        if fault := unusable(keyword):
            self.problem(line, fault)
            return None
        negated = isinstance(node, yaml.MappingNode) and any(key == "not" for key, _, _ in self.entries(node))
        if negated:
            fields = self.fields(node, "a condition")
            if len(fields) > 1:
                self.problem(line, f"{keyword}: put min and max inside `not`")
            node = fields["not"]
        test = self._range(keyword, vr, node) if isinstance(node, yaml.MappingNode) else self._patterns(keyword, node)
        return Condition(keyword, test, negated != unless, line)

    def _patterns(self, keyword: str, node: yaml.Node) -> Test:
        nodes = self.read(node, items_of, _NO_NODES)
        if isinstance(node, yaml.SequenceNode) and not nodes:
            self.problem(line_of(node), f"{keyword}: a list of no values can never hold")
        return AnyOf(tuple(self.read(each, text_of, "") for each in nodes))

    def _range(self, keyword: str, vr: str, node: yaml.Node) -> Test:
        fields = self.fields(node, "a condition")
        lowest = self.read(fields.get("min"), values.number, None)
        highest = self.read(fields.get("max"), values.number, None)
        if "not" in fields:
            self.problem(line_of(node), f"{keyword}: `not` inside `not`")
        elif not node.value:
            self.problem(line_of(node), f"{keyword}: a value is missing")
        elif fields and vr not in NUMERIC_VRS:
            self.problem(line_of(node), f"{keyword} is no number (VR {vr}): min and max do not apply")
        elif lowest is not None and highest is not None and lowest > highest:
            self.problem(line_of(node), f"{keyword}: min is more than max: no value can be that")
        return Between(lowest, highest)
