"""The page that operators keep open: what is the matter, and why, in a browser."""
