"""The language both sides speak: events, their bytes and routes.

Knows neither a broker library nor a database.
"""
