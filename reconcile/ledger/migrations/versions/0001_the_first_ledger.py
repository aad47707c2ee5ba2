"""The first ledger"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "deliveries",
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("event_code", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("start_ms", sa.BigInteger(), nullable=False),
        sa.Column("charge_by", sa.Text(), nullable=False),
        sa.Column("charge_id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("transaction_id", sa.Text(), nullable=False),
        sa.Column("usage_ms", sa.BigInteger(), nullable=False),
        sa.Column("spend", sa.Float(precision=53), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("taken", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "event_code", "request_id", "start_ms"),
        schema="reconcile",
    )
    op.create_index("deliveries_transaction", "deliveries", ["transaction_id"], unique=False, schema="reconcile")
    op.create_index(
        "deliveries_usage", "deliveries", ["organization", "event_code", "usage_ms"], unique=False, schema="reconcile"
    )
    op.create_table(
        "held",
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("event_code", sa.Text(), nullable=False),
        sa.Column("charge_by", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("start_ms", sa.BigInteger(), nullable=False),
        sa.Column("usage_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("row", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization", "event_code", "charge_by", "request_id", "start_ms"),
        schema="reconcile",
    )
    op.create_index(
        "held_usage", "held", ["organization", "event_code", "charge_by", "usage_ms"], unique=False, schema="reconcile"
    )
    op.create_table(
        "hours",
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("event_code", sa.Text(), nullable=False),
        sa.Column("charge_by", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("peak", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "event_code", "charge_by", "hour"),
        schema="reconcile",
    )
    op.create_table(
        "journal",
        sa.Column("entry", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("transaction_id", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("entry"),
        schema="reconcile",
    )
    op.create_index("journal_run", "journal", ["run_id", "batch"], unique=False, schema="reconcile")
    op.create_index("journal_transaction", "journal", ["transaction_id"], unique=False, schema="reconcile")
    op.create_table(
        "long_calls",
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("event_code", sa.Text(), nullable=False),
        sa.Column("charge_by", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("start_ms", sa.BigInteger(), nullable=False),
        sa.Column("usage_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "event_code", "charge_by", "request_id", "start_ms"),
        schema="reconcile",
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("lago", sa.Text(), nullable=False),
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("event_code", sa.Text(), nullable=False),
        sa.Column("charge_by", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("window_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("run_id"),
        schema="reconcile",
    )
    op.create_index(
        "runs_stream",
        "runs",
        ["organization", "event_code", "charge_by", "started_at"],
        unique=False,
        schema="reconcile",
    )
    op.create_table(
        "slices",
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("event_code", sa.Text(), nullable=False),
        sa.Column("charge_by", sa.Text(), nullable=False),
        sa.Column("slice_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("slice_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("totals", sa.LargeBinary(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "event_code", "charge_by", "slice_from", "slice_to"),
        schema="reconcile",
    )
