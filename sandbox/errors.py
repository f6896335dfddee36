"""What goes wrong with a sandbox."""


class SandboxError(RuntimeError):
    """A server is not available, or cannot do what was asked; the message says what to do."""
