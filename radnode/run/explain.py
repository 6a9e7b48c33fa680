"""What `radnode route` and `radnode check` find out, and how it looks: nothing is printed here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from radnode.dicom.headers import read_attributes
from radnode.domain.errors import NotDicomError, NotFoundError, PeerError, RoutingError, SettingsError, did_you_mean
from radnode.domain.routing import (
    Catalog,
    Context,
    Destination,
    Evaluation,
    Routing,
    evaluate_series,
    evaluate_study,
)
from radnode.domain.study import Instance, Series, Study
from radnode.run import broker as brokers
from radnode.run.live import tls_of
from radnode.run.probes import probe, refuses
from radnode.run.reload import read_routing
from radnode.run.runner import no_walls
from radnode.settings import Settings

_SHOWN = ("StudyInstanceUID", "SeriesInstanceUID", "StudyDescription", "SeriesDescription", "SeriesNumber", "Modality")
_CALLING = ("SendingApplicationEntityTitle", "SourceApplicationEntityTitle")  # PS3.10 7.1, as the spool writes them
_SKIPPED_SHOWN = 5
_CALLED = ("ReceivingApplicationEntityTitle",)


@dataclass(frozen=True)
class StudyRoute:
    """One study of the files: what the rules say about each series, and about the study."""

    study: Study
    series: tuple[tuple[Series, tuple[Evaluation, ...]], ...]
    evaluations: tuple[Evaluation, ...]

    def __iter__(self) -> Iterator[Evaluation]:
        for _, evaluations in self.series:
            yield from evaluations
        yield from self.evaluations

    def to_json(self) -> dict[str, Any]:
        series = [
            {"SeriesInstanceUID": each.SeriesInstanceUID, "instances": len(each), "rules": _json(evaluations)}
            for each, evaluations in self.series
        ]
        return {"StudyInstanceUID": self.study.StudyInstanceUID, "series": series, "rules": _json(self.evaluations)}


@dataclass(frozen=True)
class Explanation:
    """What a routing does with the files of a folder; `skipped` holds the files left out, and why."""

    routing: Routing
    studies: tuple[StudyRoute, ...]
    skipped: tuple[tuple[Path, str], ...]

    def matches(self, rule: str) -> bool:
        """Whether the rule matches anywhere. Raises NotFoundError where there is no such rule."""
        names = [each.name for each in self.routing.rules]
        if rule not in names:
            raise NotFoundError(f"no rule {rule!r}{did_you_mean(rule, names)}", remedy=f"rules: {', '.join(names)}")
        return any(each.matched and each.rule.name == rule for route in self.studies for each in route)

    def to_json(self) -> dict[str, Any]:
        skipped = [{"path": str(path), "reason": reason} for path, reason in self.skipped]
        return {
            "routing": self.routing.version,
            "studies": [each.to_json() for each in self.studies],
            "skipped": skipped,
        }


def explain(path: Path, routing: Routing, *, calling_aet: str = "", called_aet: str = "") -> Explanation:
    """Holds the rules against the DICOM files at `path`, a file or a folder.

    Args:
        calling_aet, called_aet: as if the files came by such an association; by default as their File Meta says.

    Raises NotFoundError where there are no files, NotDicomError where none of them belongs to a study.
    """
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    if not files:
        raise NotFoundError(f"{path} holds no files", remedy="name a DICOM file, or a folder of them")
    keywords = frozenset({*_SHOWN, *_CALLING, *_CALLED, *routing.keywords})
    studies: dict[str, dict[str, list[Instance]]] = {}
    skipped: list[tuple[Path, str]] = []
    for file in files:
        try:
            instance = Instance(file, read_attributes(file, keywords))
        except NotDicomError as error:
            skipped.append((file, error.message))
            continue
        study, series = instance.text("StudyInstanceUID"), instance.text("SeriesInstanceUID")
        if study and series:
            studies.setdefault(study, {}).setdefault(series, []).append(instance)
        else:
            skipped.append((file, f"{file} has no StudyInstanceUID or no SeriesInstanceUID"))
    if not studies:
        raise _nothing(path, skipped)
    routes = (_route(list(each.values()), routing, calling_aet, called_aet) for each in studies.values())
    return Explanation(routing, tuple(routes), tuple(skipped))


def _nothing(path: Path, skipped: Sequence[tuple[Path, str]]) -> NotDicomError:
    rest = f", and none of the {len(skipped)} files in {path} belongs to a study" if len(skipped) > 1 else ""
    return NotDicomError(f"{skipped[0][1]}{rest}", remedy="name a DICOM file, or a folder of them")


def render(explanation: Explanation, *, verdicts: bool = False) -> RenderableType:
    """For a terminal: every series with the rules that match it; with `verdicts`, all rules and their conditions."""
    trees: list[RenderableType] = [_study_tree(each, verdicts) for each in explanation.studies]
    if explanation.skipped:
        trees.append(Text(f"left out: {len(explanation.skipped)}", style="yellow"))
        trees += [_line(f"  {reason}") for _, reason in explanation.skipped[:_SKIPPED_SHOWN]]
    return Group(*trees)


@dataclass(frozen=True)
class Finding:
    """One thing `radnode check` looked at."""

    state: Literal["ok", "warning", "problem"]
    message: str


def check(settings: Settings, catalog: Catalog, *, with_echo: bool = False) -> tuple[Finding, ...]:
    """Looks at the home, the ports, what holds apps in, the apps, the routing file and, `with_echo`, whether
    Redis/Valkey and the destinations answer."""
    return (
        *_check_home(settings),
        *_check_ports(settings),
        *_check_broker(settings, with_echo),
        _check_walls(settings),
        *_check_apps(catalog),
        *_check_routing(settings, catalog, with_echo),
    )


def render_findings(findings: tuple[Finding, ...]) -> RenderableType:
    marks = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}
    return Group(*(Text.assemble(marks[each.state], " ", each.message) for each in findings))


def _check_home(settings: Settings) -> Iterator[Finding]:
    there = next(each for each in (settings.home, *settings.home.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("problem", f"RADNODE_HOME={settings.home}: {there} is no folder that can be written")


def _check_ports(settings: Settings) -> Iterator[Finding]:
    if not settings.tls_port:
        if not settings.port:
            yield Finding("problem", "there is no DICOM port: set RADNODE_PORT or RADNODE_TLS_PORT")
        return
    try:
        tls_of(settings)
    except SettingsError as error:
        yield Finding("problem", str(error))
    else:
        yield Finding("ok", f"TLS on port {settings.tls_port}: {settings.tls_cert}")


def _check_broker(settings: Settings, with_echo: bool) -> Iterator[Finding]:
    """A site's own: without a password that fits everything starts, and no job does."""
    if not settings.redis_url:
        return
    try:
        broker = brokers.connect(settings.redis_url)
        fault = brokers.reachable(broker) if with_echo else ""
    except SettingsError as error:
        fault = str(error)
    if fault:
        yield Finding("problem", fault)
    elif with_echo:
        yield Finding("ok", "Redis/Valkey answers")


def _check_apps(catalog: Catalog) -> Iterator[Finding]:
    for name in sorted(catalog.names()):
        reason = catalog.broken(name)
        if reason is None:
            yield Finding("ok", f"app {name} {catalog.version(name)}")
        else:
            yield Finding("problem", f"app {name} is broken: {reason}")


def _check_walls(settings: Settings) -> Finding:
    reason = no_walls(settings)
    if reason:
        return Finding("warning", f"apps are not walled in, and see all that the node's user sees: {reason}")
    return Finding("ok", "apps are walled in: each sees its own job only")


def _check_routing(settings: Settings, catalog: Catalog, with_echo: bool) -> Iterator[Finding]:
    try:
        routing = read_routing(settings.routing, catalog, lenient_broken=False)
    except RoutingError as error:
        yield from (Finding("problem", str(problem)) for problem in error.problems)
        return
    yield Finding("ok", f"{settings.routing}: {len(routing.rules)} rules, version {routing.version}")
    if routing.senders.any:
        yield Finding("warning", "senders: any - every machine that reaches the DICOM port may push")
    for rule in routing.rules:
        if rule.notify and not rule.mail_to and not settings.webhook_url:
            yield Finding("warning", f"rule {rule.name} has `notify`, but WEBHOOK_URL is not set: nobody is told")
        if rule.mail_to and not settings.smtp_host:
            yield Finding("warning", f"rule {rule.name} has `mail_to`, but RADNODE_SMTP_HOST is not set")
    for place in routing.destinations.values():
        rules = [each.name for each in routing.rules if each.app and place.name in each.send_to]
        yield from _check_destination(place, rules, settings) if with_echo else (_named(place),)


def _named(place: Destination) -> Finding:
    return Finding("ok", f"destination {place.name}: {place}")


def _check_destination(place: Destination, rules: Sequence[str], settings: Settings) -> Iterator[Finding]:
    """Whether it answers, and what it would refuse of what these rules may send there."""
    try:
        yield Finding("ok", f"destination {place.name}: {probe(place, settings)}")
        refused = refuses(place, settings)
    except PeerError as error:
        yield Finding("problem", f"destination {place.name}: {error}")
        return
    if refused and rules:
        whose = f"results of these kinds from {', '.join(rules)} would be parked"
        yield Finding("warning", f"destination {place.name} does not take {', '.join(refused)}: {whose}")


def _route(study: list[list[Instance]], routing: Routing, calling_aet: str, called_aet: str) -> StudyRoute:
    series = tuple(Series(tuple(instances)) for instances in study)
    contexts = {each.SeriesInstanceUID: _context(each, calling_aet, called_aet) for each in series}
    evaluated = ((each, evaluate_series(routing, each, contexts[each.SeriesInstanceUID])) for each in series)
    whole = Study(series)
    return StudyRoute(whole, tuple(evaluated), evaluate_study(routing, whole, contexts))


def _context(series: Series, calling_aet: str, called_aet: str) -> Context:
    def titles(given: str, keywords: tuple[str, ...]) -> tuple[str, ...]:
        if given:
            return (given,)
        found = (next((each.text(k) for k in keywords if each.text(k)), "") for each in series)
        return tuple(dict.fromkeys(title for title in found if title))

    return {"CallingAETitle": titles(calling_aet, _CALLING), "CalledAETitle": titles(called_aet, _CALLED)}


def _study_tree(route: StudyRoute, verdicts: bool) -> Tree:
    first = route.study.first
    tree = Tree(_line(f"study {route.study.StudyInstanceUID} {_quoted(first.text('StudyDescription'))}"))
    for series, evaluations in route.series:
        _add_rules(tree.add(_line(_label(series))), evaluations, verdicts, {})
    if route.evaluations:
        labels = {series.SeriesInstanceUID: _label(series) for series, _ in route.series}
        _add_rules(tree.add("the study as a whole"), route.evaluations, verdicts, labels)
    return tree


def _add_rules(branch: Tree, evaluations: tuple[Evaluation, ...], verdicts: bool, labels: Mapping[str, str]) -> None:
    if not verdicts and not any(each.matched for each in evaluations):
        branch.add(Text("no rule matches (--explain says why)", style="yellow"))
    for each in evaluations:
        if verdicts or each.matched:
            node = branch.add(_line(_mark(each.matched), f"{each.rule.name} (line {each.rule.line}): {_outcome(each)}"))
        for verdict in each.verdicts if verdicts else ():
            whose = f"input {verdict.input}: " if verdict.input else ""
            where = f" in {labels[verdict.series_uid]}" if verdict.series_uid in labels else ""
            node.add(_line(_mark(verdict.holds), f"{whose}{verdict}{where} (line {verdict.line})"))


def _outcome(evaluation: Evaluation) -> str:
    if not evaluation.matched:
        said = evaluation.rule.inputs or all(each.holds for each in evaluation.verdicts)
        return evaluation.reason if said else "does not match"
    rule = evaluation.rule
    what = f"app {rule.app} {rule.app_version}" if rule.app else "the originals"
    where = f"to {', '.join(rule.send_to)}" if rule.send_to else "results stay here"
    where = "shadow: nothing is sent" if rule.shadow else where
    some = f", {len(evaluation.series)} of its series" if rule.level == "study" else ""
    some = f", {evaluation.reason}" if rule.inputs else some
    return f"{what}, {rule.priority}, {where}{some}"


def _label(series: Series) -> str:
    modality, number, description = map(series.first.text, ("Modality", "SeriesNumber", "SeriesDescription"))
    return f"{modality} series {number} {_quoted(description)}, {len(series)} instances"


def _mark(holds: bool) -> tuple[str, str]:
    return ("✓ ", "green") if holds else ("✗ ", "red")


def _quoted(text: str) -> str:
    return f'"{text}"' if text else "without description"


def _line(*parts: str | tuple[str, str]) -> Text:
    """Peers' words are text, never markup, and never control a terminal."""
    line = Text()
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        line.append("".join(c if c.isprintable() else "�" for c in text), style)
    return line


def _json(evaluations: tuple[Evaluation, ...]) -> list[dict[str, Any]]:
    return [each.to_json() for each in evaluations]
