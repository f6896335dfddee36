"""What the commands answer with exit code 1."""


class ConditionNotMet(Exception):
    """What was asked for cannot be done to what is there; nothing was changed."""
