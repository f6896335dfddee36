"""Whatever comes in is taken or refused, and nothing crashes or hangs."""
