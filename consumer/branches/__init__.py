"""The branch table: its rows, and what is known about each branch and script."""
