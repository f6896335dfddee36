"""RabbitMQ for both sides: addresses, connections, and the reading and writing of frames.

Everything that relies on a private name of pika is in this package.
"""
