"""Why the demo cannot go on."""


class DemoError(Exception):
    """What is wrong and what to do about it; `exit_code` as the commands use it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
