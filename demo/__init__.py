"""Mirrors three git repositories and shows in a table how that went: `python -m demo`."""
