"""Apps and destinations that a person has paused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from radnode.state import schema
from radnode.state.ledger import insert_new, note


def pause(tx: Connection, kind: str, name: str, who: str) -> None:
    """`kind` is `app` or `destination`. Pausing twice is pausing once."""
    tx.execute(insert_new(tx, schema.pause), {"kind": kind, "name": name, "who": who, "at": time.time()})
    note(tx, "paused", what=kind, name=name, who=who)


def resume(tx: Connection, name: str) -> str | None:
    """Lets it go on; returns its kind, None where it was not paused."""
    kind = tx.execute(delete(schema.pause).where(schema.pause.c.name == name).returning(schema.pause.c.kind)).scalar()
    if kind is not None:
        note(tx, "resumed", what=kind, name=name)
    return kind


def all_paused(tx: Connection) -> Sequence[Row[Any]]:
    """What is paused now, with who did it and when, the longest paused first."""
    return tx.execute(select(schema.pause).order_by(schema.pause.c.at)).all()
