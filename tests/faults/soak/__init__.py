"""The fault campaign for hours: everything a deployment runs, upkeep included, and what it uses.

    python -m tests.faults.soak --minutes 60 --cluster

`life` runs it, on the campaign's stand. `household` adds the services that the campaign does
without, and the people who use them. `gauges` measures what all of it uses, `verdict` says what has
grown, and `picture` draws it.
"""
