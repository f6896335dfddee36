"""Who reports, what has arrived from each, and what operators have settled about it."""
