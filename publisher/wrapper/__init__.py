"""Running somebody's command, and reporting how it ended without ever standing in its way."""
