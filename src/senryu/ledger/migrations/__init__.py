"""The schema's revisions; nothing that would import Alembic."""


class NewerSchema(Exception):
    """The database has a revision that this version does not know; it is the message."""
