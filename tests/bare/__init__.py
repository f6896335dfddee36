"""The README's two commands, and docs/install.md, on machines with nothing installed."""
