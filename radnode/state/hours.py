"""The hours in which jobs may start (`run_between`): asked for at the claim, by the wall clock of whoever claims.

A job's row has them as text, `22:00-06:00 Europe/Berlin`, without a zone where it is the system's; empty: always. A
table has each text that was ever used, so that finding out which are open does not look at jobs.
"""

from __future__ import annotations

import time
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select

from radnode.domain.routing.hours import Hours
from radnode.state import schema
from radnode.state.ledger import insert_new

ALWAYS = ""


def remember(tx: Connection, hours: str) -> None:
    if hours != ALWAYS:
        tx.execute(insert_new(tx, schema.hours), {"run_between": hours})


def open_now(tx: Connection) -> list[str]:
    """Those in which jobs may start now."""
    known = tx.execute(select(schema.hours.c.run_between).order_by(schema.hours.c.run_between)).scalars()
    return [ALWAYS, *filter(are_open, known)]


def are_open(hours: str) -> bool:
    text, _, zone = hours.partition(" ")
    return hours == ALWAYS or Hours.of(text).open_when(time.time(), ZoneInfo(zone) if zone else None)
