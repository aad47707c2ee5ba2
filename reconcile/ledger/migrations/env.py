"""Runs the migrations on the connection that `reconcile.ledger` hands over. There is no alembic.ini."""

from alembic import context
from sqlalchemy import Connection

from reconcile.ledger.tables import SCHEMA, metadata

connection: Connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    include_name=lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
)
context.run_migrations()
