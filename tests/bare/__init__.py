"""The README's two commands on machines with nothing installed."""
