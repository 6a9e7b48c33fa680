"""The ledger's tables. A change here needs a migration in `migrations/versions`; a test compares the two.

Times ending in `_at` are seconds since the epoch, for people. `seen`, `until` and `not_before` are seconds on the
ledger's own clock (`Ledger.now`), which a step of the wall clock does not move: only those are ever compared with each
other.
"""

from __future__ import annotations

import re

import sqlalchemy
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class Text(TypeDecorator[str]):
    """Text from anywhere: PostgreSQL takes no NUL, and neither database takes half of a surrogate pair."""

    impl = sqlalchemy.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value if value is None else _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Compared byte by byte, whatever the database's collation: see `intake.known_paths`.
Path = sqlalchemy.Text().with_variant(sqlalchemy.Text(collation="C"), "postgresql")

Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in a column typed INTEGER

study = Table(
    "study",
    metadata,
    Column("id", Key, primary_key=True),
    Column("study_instance_uid", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    Column("seen", Float, nullable=False),
    Column("changes", Integer, nullable=False, default=0),
    Column("first_received_at", Float, nullable=False),
    Column("last_received_at", Float, nullable=False),
    Column("accession_number", Text, nullable=False, default="", index=True),
    Column("patient_id", Text, nullable=False, default="", index=True),
    Column("missing", Integer, nullable=False, default=0),
    Column("headers", JSON, nullable=False, default=dict),
    Column("held", Text, nullable=False, default=""),
    Column("purge", Text, nullable=False, default=""),
    Column("purged_at", Float),
    Index("ix_study_state_seen", "state", "seen"),
    Index("ix_study_purge_last_received_at", "purge", "last_received_at"),
)

series = Table(
    "series",
    metadata,
    Column("id", Key, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False, index=True),
    Column("series_instance_uid", Text, nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("generation", Integer, nullable=False, default=0),
    Column("seen", Float, nullable=False),
    Column("changes", Integer, nullable=False, default=0),
    Column("first_received_at", Float, nullable=False),
    Column("last_received_at", Float, nullable=False),
    Column("calling_aet", Text, nullable=False, default=""),
    Column("called_aet", Text, nullable=False, default=""),
    Column("peer", Text, nullable=False, default=""),
    Column("instances", Integer, nullable=False, default=0),
    Column("missing", Integer, nullable=False, default=0),
    Column("headers", JSON, nullable=False, default=dict),
    Column("kept", JSON, nullable=False, default=dict),
    UniqueConstraint("study_id", "series_instance_uid"),
    Index("ix_series_state_seen", "state", "seen"),
)

instance = Table(
    "instance",
    metadata,
    Column("id", Key, primary_key=True),
    Column("series_id", ForeignKey("series.id")),
    Column("sop_instance_uid", Text, nullable=False, index=True),
    Column("sop_class_uid", Text, nullable=False),
    Column("transfer_syntax_uid", Text, nullable=False),
    Column("path", Path, nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("association", Text, nullable=False, default=""),
    Column("generation", Integer, nullable=False, default=0),
    Column("flaw", Text, nullable=False, default=""),
    Column("own", Boolean, nullable=False, default=False),
    Column("differs", Text, nullable=False, default=""),
    Column("purged", Boolean, nullable=False, default=False),
    Column("fingerprint", Text, nullable=False, default=""),
    Index("ix_instance_series_id_association", "series_id", "association"),
)

# What rejection notes (IHE IOCM) took out; `instance_id` is the note's: what came before it is meant.
rejection = Table(
    "rejection",
    metadata,
    Column("study_instance_uid", Text, primary_key=True),
    Column("sop_instance_uid", Text, primary_key=True),
    Column("instance_id", ForeignKey("instance.id", ondelete="CASCADE"), primary_key=True),
    Column("code", Text, nullable=False),
)

association = Table(
    "association",
    metadata,
    Column("id", Text, primary_key=True),
    Column("how", Text, nullable=False),
    Column("calling_aet", Text, nullable=False),
    Column("called_aet", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("closed_at", Float, nullable=False),
)

# What peers were promised by Storage Commitment. `association` is empty once the one it was asked on has ended.
commitment = Table(
    "commitment",
    metadata,
    Column("id", Key, primary_key=True),
    Column("transaction_uid", Text, nullable=False),
    Column("calling_aet", Text, nullable=False),
    Column("called_aet", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("refs", JSON, nullable=False),
    Column("state", Text, nullable=False),
    Column("association", Text, nullable=False, default=""),
    Column("owner", Text, nullable=False, default=""),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("error", Text, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    UniqueConstraint("calling_aet", "transaction_uid"),
    Index("ix_commitment_state_not_before", "state", "not_before"),
)

# `work` is what is computed; the id follows from it, from the `identity` of the patient and study it is labelled with
# (counted up by corrections) and from the `predecessor`. `supersedes` names the job whose results somebody has seen
# and these replace, `reissues` the one whose objects get a new identity instead of being computed again.
job = Table(
    "job",
    metadata,
    Column("id", Text, primary_key=True),
    Column("work", Text, nullable=False, default=""),
    Column("revision", Integer, nullable=False, default=0),
    Column("identity", Integer, nullable=False, default=0),
    Column("predecessor", Text, nullable=False, default=""),
    Column("supersedes", Text, nullable=False, default=""),
    Column("reissues", Text, nullable=False, default=""),
    Column("superseded_by", Text, nullable=False, default=""),
    Column("flag", Text, nullable=False, default=""),
    Column("purged", Boolean, nullable=False, default=False),
    Column("study_id", ForeignKey("study.id"), nullable=False, index=True),
    Column("series_id", ForeignKey("series.id")),
    Column("rule", Text, nullable=False),
    Column("routing_version", Text, nullable=False),
    Column("app", Text, nullable=False),
    Column("app_version", Text, nullable=False),
    Column("level", Text, nullable=False),
    Column("options", JSON, nullable=False),
    Column("label", JSON, nullable=False),
    Column("send_to", JSON, nullable=False),
    Column("shadow", Boolean, nullable=False, default=False),
    Column("expire", Float),
    Column("notify", JSON, nullable=False, default=list),
    Column("mail_to", JSON, nullable=False, default=list),
    Column("queue", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),
    Column("losses", Integer, nullable=False, default=0),
    Column("owner", Text, nullable=False, default=""),
    Column("run_between", Text, nullable=False, default=""),
    Column("error", Text, nullable=False, default=""),
    Column("progress", Text, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("last_image_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Index("ix_job_claim", "queue", "state", "run_between", "priority", "created_at"),
    Index("ix_job_state_app", "state", "app"),
)

# Every `run_between` that a job was made with: see `hours`.
hours = Table("hours", metadata, Column("run_between", Text, primary_key=True))

# Which rules want a job, for which series (none: the study), and where to. A rule leaves it for a newer generation.
asked = Table(
    "asked",
    metadata,
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False),
    Column("series_id", ForeignKey("series.id")),
    Column("send_to", JSON, nullable=False),
    Column("superseded_by", Text, nullable=False, default=""),
    Index("ix_asked_study_id_rule", "study_id", "rule"),
)

job_input = Table(
    "job_input",
    metadata,
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("instance_id", ForeignKey("instance.id"), primary_key=True),
)

# What a job made: results, or the originals themselves where the rule forwards.
result = Table(
    "result",
    metadata,
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("sop_instance_uid", Text, primary_key=True, index=True),
    Column("sop_class_uid", Text, nullable=False),
    Column("transfer_syntax_uid", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("position", Integer, nullable=False),
)

delivery = Table(
    "delivery",
    metadata,
    Column("id", Key, primary_key=True),
    Column("job_id", ForeignKey("job.id"), nullable=False),
    Column("destination", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("failures", Integer, nullable=False, default=0),
    Column("owner", Text, nullable=False, default=""),
    Column("withdrawn", Boolean, nullable=False, default=False),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("expires_at", Float),
    Column("receipts_asked", Integer, nullable=False, default=0),
    Column("receipt_since", Float),
    Column("transaction_uid", Text, nullable=False, default="", index=True),
    Column("error", Text, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    UniqueConstraint("job_id", "destination"),
    Index("ix_delivery_claim", "state", "priority", "created_at"),
    Index("ix_delivery_destination", "destination", "state"),
)

# What one destination answered for one instance: what it has taken is not sent to it again. What is `left_out` it is
# not to have, and the comment says why; `confirmed` is what it has given the receipt for that its routing asks.
sent = Table(
    "sent",
    metadata,
    Column("delivery_id", ForeignKey("delivery.id"), primary_key=True),
    Column("sop_instance_uid", Text, primary_key=True),
    Column("status", Integer),
    Column("comment", Text, nullable=False, default=""),
    Column("stored", Boolean, nullable=False),
    Column("left_out", Boolean, nullable=False, default=False),
    Column("confirmed", Boolean, nullable=False, default=False),
    Column("at", Float, nullable=False),
)

# What a delivery sends in place of a result, whatever is taken later; `sent` knows it by the UID it is sent under.
substitute = Table(
    "substitute",
    metadata,
    Column("delivery_id", ForeignKey("delivery.id"), primary_key=True),
    Column("original_uid", Text, primary_key=True),
    Column("sop_instance_uid", Text, nullable=False, index=True),
    Column("sop_class_uid", Text, nullable=False),
    Column("transfer_syntax_uid", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
)

# Whom a rule lets know of a job's end, by which `channel`; `detail` tells repeated events of a job apart.
notification = Table(
    "notification",
    metadata,
    Column("id", Key, primary_key=True),
    Column("job_id", ForeignKey("job.id"), nullable=False),
    Column("channel", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("error", Text, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    UniqueConstraint("job_id", "channel", "event", "detail"),
    Index("ix_notification_state_not_before", "state", "not_before"),
)

destination = Table(
    "destination",
    metadata,
    Column("name", Text, primary_key=True),
    Column("associations", Integer, nullable=False, default=1),
    Column("failures", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0.0),
)

# A study rule that waits for an input: see `waits`.
wait = Table(
    "wait",
    metadata,
    Column("study_id", ForeignKey("study.id"), primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("missing", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("until", Float, nullable=False),
    Column("began_at", Float, nullable=False),
)

# A job whose rule wants a page in the study when no result came in `seconds`: see `notices`.
notice = Table(
    "notice",
    metadata,
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("seconds", Float, nullable=False),
    Column("until", Float, index=True),
)

pause = Table(
    "pause",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("who", Text, nullable=False),
    Column("at", Float, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("id", Key, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", Text, nullable=False),
    Column("study_id", ForeignKey("study.id"), index=True),
    Column("series_id", ForeignKey("series.id")),
    Column("job_id", Text, index=True),
    Column("delivery_id", Key),
    Column("data", JSON, nullable=False, default=dict),
)

routing = Table(
    "routing",
    metadata,
    Column("version", Text, primary_key=True),
    Column("text", Text, nullable=False),
    Column("peers", JSON, nullable=False),
    Column("applied_at", Float, nullable=False),
    Column("number", Integer, nullable=False),
)

sealed_bucket = Table(
    "sealed_bucket",
    metadata,
    Column("name", Text, primary_key=True),
    Column("changed_ns", BigInteger, nullable=False),
)

node = Table(
    "node",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
