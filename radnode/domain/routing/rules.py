"""`routing.yaml` as values: which rules there are, and what they do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from radnode.domain import series_class
from radnode.domain.errors import Problem
from radnode.domain.generations import Late
from radnode.domain.jobs import SeriesLabel
from radnode.domain.routing.completeness import Complete
from radnode.domain.routing.conditions import Condition
from radnode.domain.routing.destinations import Destination
from radnode.domain.routing.hours import Hours
from radnode.domain.routing.inputs import CHOSEN_BY, Input, Wait
from radnode.domain.routing.keywords import CONTEXT_KEYWORDS
from radnode.domain.routing.least import Least
from radnode.domain.routing.senders import Senders

Level = Literal["series", "study"]
Priority = Literal["urgent", "normal", "low"]


class Catalog(Protocol):
    """The installed apps, as far as `routing.yaml` has to know them."""

    def names(self) -> Collection[str]:
        """All of them, the broken ones too."""

    def broken(self, name: str) -> str | None:
        """Why the app cannot be used; None where it can."""

    def parse_options(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """All options of the app as values JSON can hold. Raises OptionsError."""

    def version(self, name: str) -> str: ...

    def queue(self, name: str) -> str: ...


@dataclass(frozen=True)
class Rule:
    """Which series or studies, which app, and where its results go.

    Attributes:
        app: None forwards the originals.
        inputs: the series the app receives by name; empty: all that the conditions choose.
        wait: how long a missing input is waited for; None: a study that lacks one is not taken.
        options: all options of the app, as values JSON can hold.
        send_to: destinations; empty keeps the results on the node.
        complete: the rule's own times, those of `routing.yaml` where it has none.
        notify: events of its jobs that others are told of: `delivered`, `failed`, `declined`, `late`.
        mail_to: addresses that are told by mail.
        notice: seconds after which a page says that there is no result; None: never.
        expire: seconds after which a result is parked instead of sent; None: never.
        late: what becomes of images that come after its job was made.
        shadow: the app runs and its results are kept, but nothing is sent.
        app_broken: why the app cannot be used; such a rule never matches.
    """

    name: str
    line: int
    app: str | None = None
    app_version: str = ""
    app_broken: str = ""
    level: Level = "series"
    when: tuple[Condition, ...] = ()
    unless: tuple[Condition, ...] = ()
    min_instances: Least = field(default_factory=Least)
    inputs: tuple[Input, ...] = ()
    wait: Wait | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    priority: Priority = "normal"
    send_to: tuple[str, ...] = ()
    series: SeriesLabel = field(default_factory=SeriesLabel)
    enabled: bool = True
    shadow: bool = False
    complete: Complete = field(default_factory=Complete)
    expire: float | None = None
    notify: tuple[str, ...] = ()
    mail_to: tuple[str, ...] = ()
    notice: float | None = None
    run_between: Hours | None = None
    late: Late = "rerun"

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        return self.when + self.unless


@dataclass(frozen=True)
class Routing:
    """A `routing.yaml` that was read and found good.

    Attributes:
        version: the first 12 hexadecimal characters of the SHA-256 of its text.
        warnings: rules that were kept though their app is broken.
    """

    destinations: Mapping[str, Destination]
    senders: Senders
    complete: Complete
    rules: tuple[Rule, ...]
    version: str
    text: str = field(repr=False)
    warnings: tuple[Problem, ...] = ()

    @property
    def keywords(self) -> frozenset[str]:
        """Every attribute a condition names, and those inputs are chosen by: what has to be read from the headers."""
        named = {condition.keyword for rule in self.rules for condition in rule.conditions}
        named |= {one.keyword for rule in self.rules for each in rule.inputs for one in each.conditions}
        named |= CHOSEN_BY if any(rule.inputs for rule in self.rules) else set()
        derived = series_class.KEYWORDS if named.intersection(series_class.DERIVED_KEYWORDS) else ()
        return frozenset(named.difference(CONTEXT_KEYWORDS, series_class.DERIVED_KEYWORDS).union(derived))
