"""When a series or a study counts as all here, and the keys of `complete` in `routing.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import yaml

from radnode.domain.assembly import Times
from radnode.domain.routing import values
from radnode.domain.routing.reader import Reader

KEYS = ("series", "study", "released", "give_up")


@dataclass(frozen=True)
class Complete:
    """In seconds.

    Attributes:
        series: for how long nothing new may have come until a series counts as complete.
        study: the same for a study.
        released: after which what a sender has released counts as the whole series; None: never.
        give_up: after which a series or a study is taken as it is, though instances are known to be missing.
        said: the keys that were given there; the others are those of the place above.
    """

    series: float = 60.0
    study: float = 300.0
    released: float | None = None
    give_up: float = 600.0
    said: frozenset[str] = field(default=frozenset(), compare=False)

    def of_sender(self, sender: Complete | None) -> Complete:
        """These, of a rule or of the file, for what a sender sends that has some of its own: a rule's go before."""
        if sender is None:
            return self
        return replace(self, **{key: getattr(sender, key) for key in sender.said - self.said})

    @property
    def times(self) -> Times:
        """Those of a series."""
        return Times(self.series, self.released, self.give_up)

    @property
    def study_times(self) -> Times:
        return Times(self.study, give_up=self.give_up)


def read_complete(reader: Reader, node: yaml.Node | None, otherwise: Complete) -> Complete:
    """What is not said is as in `otherwise`."""
    fields = reader.fields(node, "complete", KEYS)
    given = {key: reader.read(each, values.duration, getattr(otherwise, key)) for key, each in fields.items()}
    return replace(otherwise, **given, said=frozenset(given))
