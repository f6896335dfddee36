"""What operators do, as rows: which letters it is about, how far it is, and who did it."""
