"""Whatever comes in: each input is taken or refused, and nothing crashes or hangs."""
