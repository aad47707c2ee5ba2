"""The tables of schema `reconcile`. The migrations lead to exactly these (a test compares them)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "reconcile"

metadata = MetaData(schema=SCHEMA)

# One entry per run of any command that works on a window. `lago` is the address, `organization` Lago's own ID of the
# organization (the address where Lago does not tell it). `document` is the result document without secrets. `litellm`
# names the database that the rows came from ('' where the run is older than 0.2).
runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("lago", Text, nullable=False),
    Column("organization", Text, nullable=False),
    Column("event_code", Text, nullable=False),
    Column("charge_by", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("window_from", DateTime(timezone=True), nullable=False),
    Column("window_to", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True)),
    Column("status", Text),
    Column("exit_code", Integer),
    Column("document", JSONB),
    Column("litellm", Text, nullable=False, server_default=""),
    Index("runs_stream", "organization", "event_code", "charge_by", "started_at"),
)

# One entry per request and event code, whatever charge ID it has: a request is billed once per event code. Written
# before the event is sent, with the run and the batch that it goes out with. `taken` says that Lago answered that it
# has the event; of a batch that was accepted as a whole the journal alone says so.
deliveries = Table(
    "deliveries",
    metadata,
    Column("organization", Text, primary_key=True),
    Column("event_code", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("start_ms", BigInteger, primary_key=True),
    Column("charge_by", Text, nullable=False),
    Column("charge_id", Text, nullable=False),
    Column("subscription_id", Text, nullable=False),
    Column("transaction_id", Text, nullable=False),
    Column("usage_ms", BigInteger, nullable=False),
    Column("spend", Float(53), nullable=False),
    Column("run_id", Text, nullable=False),
    Column("sent_at", DateTime(timezone=True), nullable=False),
    Column("taken", Boolean, nullable=False),
    Column("batch", Integer, nullable=False, server_default="0"),
    Index("deliveries_usage", "organization", "event_code", "usage_ms"),
    Index("deliveries_run", "run_id", "batch"),
)

# What happened, never changed. A line is about a whole batch (transaction_id is '', `events` says how many it held):
# sent, accepted, read_back; or about one event of a batch that was not accepted as a whole: accepted, exists, refused,
# unknown. One of batch 0 is about the run itself: killed, as a later run found. 0.1 wrote a line per event, and
# `verified` for `read_back`.
journal = Table(
    "journal",
    metadata,
    Column("entry", BigInteger, primary_key=True, autoincrement=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("run_id", Text, nullable=False),
    Column("batch", Integer, nullable=False),
    Column("transaction_id", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("http_status", Integer),
    Column("reason", Text),
    Column("events", Integer, nullable=False, server_default="1"),
    Index("journal_run", "run_id", "batch"),
)

# Rows that are missing in Lago and were kept back; tried again by every later run of their stream. `row` holds what
# the event is made from, since LiteLLM may delete the row.
held = Table(
    "held",
    metadata,
    Column("organization", Text, primary_key=True),
    Column("event_code", Text, primary_key=True),
    Column("charge_by", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("start_ms", BigInteger, primary_key=True),
    Column("usage_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("row", JSONB, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Index("held_usage", "organization", "event_code", "charge_by", "usage_ms"),
)

# How many of the rows that began in an hour have been reconciled, and the most rows that it ever had: an hour that has
# more rows than were reconciled holds late ones, one that has fewer than ever was cut by LiteLLM's retention.
hours = Table(
    "hours",
    metadata,
    Column("organization", Text, primary_key=True),
    Column("event_code", Text, primary_key=True),
    Column("charge_by", Text, primary_key=True),
    Column("hour", DateTime(timezone=True), primary_key=True),
    Column("rows", BigInteger, nullable=False),
    Column("peak", BigInteger, nullable=False),
    Column("run_id", Text, nullable=False),
)

# Calls longer than RECONCILE_MAX_CALL that a recount of old hours has found: their end alone does not lead to them.
long_calls = Table(
    "long_calls",
    metadata,
    Column("organization", Text, primary_key=True),
    Column("event_code", Text, primary_key=True),
    Column("charge_by", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("start_ms", BigInteger, primary_key=True),
    Column("usage_ms", BigInteger, nullable=False),
)

# What Lago said once and is not asked for in every run: true of the thing as `stamp` describes it.
remembered = Table(
    "remembered",
    metadata,
    Column("organization", Text, primary_key=True),
    Column("event_code", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("stamp", Text, nullable=False),
    Column("asked_ms", BigInteger, nullable=False),
    Column("value", JSONB, nullable=False),
)

# The figures of slices that agreed, so that an unchanged one needs no reading. `fingerprint` covers the settings and
# the row counts of every hour in which a row of the slice may have begun; `events` are those that Lago listed; `totals`
# is JSON (compressed JSON of another form where 0.1 wrote it, which no fingerprint meets any more).
slices = Table(
    "slices",
    metadata,
    Column("organization", Text, primary_key=True),
    Column("event_code", Text, primary_key=True),
    Column("charge_by", Text, primary_key=True),
    Column("slice_from", DateTime(timezone=True), primary_key=True),
    Column("slice_to", DateTime(timezone=True), primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("totals", LargeBinary, nullable=False),
    Column("run_id", Text, nullable=False),
)

# What `reconcile schedule` has done, by job name. Every firing up to `fired_to` is settled; `window_to` is how far the
# job's last finished run reached, so that a run after missed nights begins there.
schedule = Table(
    "schedule",
    metadata,
    Column("lago", Text, primary_key=True),
    Column("event_code", Text, primary_key=True),
    Column("charge_by", Text, primary_key=True),
    Column("job", Text, primary_key=True),
    Column("fired_to", DateTime(timezone=True), nullable=False),
    Column("window_to", DateTime(timezone=True)),
    Column("run_id", Text),
)
