"""The tables as published in 0.1.0, where every older database begins."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: the tables are there."""
