"""The tests on each Debian's Python, PostgreSQL and RabbitMQ, and on several versions of pika."""
