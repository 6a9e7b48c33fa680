"""Instances that are kept but belong to no study, for want of a UID: nobody finds them by a patient or a number."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Any

from sqlalchemy import Connection, func, select

from radnode.state import schema

_instance, _association = schema.instance.c, schema.association.c


def count(tx: Connection) -> int:
    return int(tx.execute(select(func.count()).where(_instance.series_id.is_(None))).scalar_one())


def newest(tx: Connection, zone: tzinfo | None, limit: int) -> list[dict[str, Any]]:
    """The last that came, with who sent them (empty while the association is open) and what they lack."""
    joined = schema.instance.outerjoin(schema.association, _association.id == _instance.association)
    query = select(schema.instance, _association.calling_aet, _association.peer).select_from(joined)
    unfiled = query.where(_instance.series_id.is_(None)).order_by(_instance.id.desc()).limit(limit)
    return [
        {
            "received": datetime.fromtimestamp(row.received_at).astimezone(zone).isoformat(timespec="milliseconds"),
            "CallingAETitle": row.calling_aet or "",
            "peer": row.peer or "",
            "flaw": row.flaw,
            "SOPInstanceUID": row.sop_instance_uid,
            "SOPClassUID": row.sop_class_uid,
            "path": row.path,
        }
        for row in tx.execute(unfiled)
    ]
