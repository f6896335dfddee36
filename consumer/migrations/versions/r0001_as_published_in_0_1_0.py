"""The tables as published in 0.1.0, where every older database starts."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Does nothing: the tables are already there."""
