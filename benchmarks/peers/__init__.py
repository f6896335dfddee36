"""mirrorfeed compared with Celery, Dramatiq, FastStream and a pika loop: `make bench-peers`."""
