"""Which queues there are, and which worker consumes which."""
