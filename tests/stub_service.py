"""A service that is as a test tells it to be."""


class Stub:
    """Well, until told otherwise."""

    hangs: str | None = None
    waits: str | None = None

    def why_not_live(self) -> str | None:
        return self.hangs

    def why_not_ready(self) -> str | None:
        return self.waits
