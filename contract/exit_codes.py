"""What the exit code of a command means; 0 is success. Nagios forms exit as plugins do instead."""

NOT_MET = 1
"""The condition does not hold: letters remain dead, a script did not run, events are missing."""
USAGE = 2
"""The command, or the configuration of what it uses, must be corrected first."""
UNREACHABLE = 3
"""A server cannot be reached, or cannot do it right now."""

HELP = """\b
Exit codes:
  0  done
  1  the answer is no, or part of the work failed: letters remain dead,
     a script did not run, events are missing, the spool is full
  2  the command, its configuration or its output must be put right first
  3  a server cannot be reached, or cannot do it right now
"""
"""For the end of a command's `--help`."""
