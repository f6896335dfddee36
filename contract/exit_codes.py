"""What the exit code of a command says; 0 is done. Nagios forms exit as plugins do instead."""

NOT_MET = 1
"""What was asked about is not so: letters remain dead, a script did not run, events are missing."""
USAGE = 2
"""The command, or the configuration of what it uses, must be put right first."""
UNREACHABLE = 3
"""A server cannot be reached, or cannot do it now."""
