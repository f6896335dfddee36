"""Three git repositories are mirrored, and a table shows how that went: `python -m demo`."""
