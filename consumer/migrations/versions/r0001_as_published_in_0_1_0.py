"""The tables as 0.1.0 published them: where every older database begins."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: they are there."""
