"""One line a batch, and what Lago said once

The journal takes down a whole batch in one line, and a delivery names its batch. What 0.1 wrote stays as it is: one
line per event, and `taken` at the delivery.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("litellm", sa.Text(), nullable=False, server_default=""), schema="reconcile")
    op.add_column(
        "deliveries", sa.Column("batch", sa.Integer(), nullable=False, server_default="0"), schema="reconcile"
    )
    op.add_column("journal", sa.Column("events", sa.Integer(), nullable=False, server_default="1"), schema="reconcile")
    op.create_table(
        "remembered",
        sa.Column("organization", sa.Text(), nullable=False),
        sa.Column("event_code", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("stamp", sa.Text(), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("value", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("organization", "event_code", "key"),
        schema="reconcile",
    )
    op.drop_index("deliveries_transaction", table_name="deliveries", schema="reconcile")
    op.drop_index("journal_transaction", table_name="journal", schema="reconcile")
    op.create_index("deliveries_run", "deliveries", ["run_id", "batch"], schema="reconcile")
