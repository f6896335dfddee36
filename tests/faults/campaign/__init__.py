"""A random history, a random schedule of faults, both from one seed, and a check of the outcome.

    python -m tests.faults.campaign --seed 7 --events 20000 --faults 20

`history` says what the pullers do, and `schedule` which faults occur. `proxy`, `puller`, `services`
and `stand` are the victims, `faults` strikes, `witness` watches and `checks` judges.
"""
