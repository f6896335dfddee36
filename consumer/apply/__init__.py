"""A batch of messages becomes one transaction. Knows no AMQP."""
