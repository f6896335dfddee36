"""What runs beside the database: the worker, and the operators' commands."""

from mirrorfeed.extras import needs_extra

with needs_extra("consumer"):
    from mirrorfeed.consumer.tables import (
        Branch,
        DeadLetter,
        MirrorAttempt,
        ScriptActivity,
        get_last_activity,
    )

__all__ = ["Branch", "DeadLetter", "MirrorAttempt", "ScriptActivity", "get_last_activity"]
