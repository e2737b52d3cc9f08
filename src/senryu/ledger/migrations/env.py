"""What Alembic runs to reach the database: the connection that `upgrade.py` has."""

from alembic import context

from senryu.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
