"""What goes wrong with a sandbox."""


class SandboxError(RuntimeError):
    """A server cannot be had, or cannot do what was asked; the message says what to do."""
