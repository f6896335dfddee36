"""`mirror-consumer` and `mirror-replay`: what operators type."""
