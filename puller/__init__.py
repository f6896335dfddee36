"""The branch puller: mirrors a list of branches, and reports every attempt by the client.

Uses the publisher's side, and knows nothing of the consumer's.
"""
