"""mirrorfeed beside Celery, Dramatiq, FastStream and a loop of pika's: `make bench-peers`."""
