"""What runs beside the database: the worker, and the operators' commands."""

try:
    from mirrorfeed.consumer.tables import (
        Branch,
        DeadLetter,
        MirrorAttempt,
        ScriptActivity,
        get_last_activity,
    )
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"{missing.name} is not installed: the consumer needs pip install 'mirrorfeed[consumer]'"
    ) from None

__all__ = ["Branch", "DeadLetter", "MirrorAttempt", "ScriptActivity", "get_last_activity"]
