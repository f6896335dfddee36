"""Whether private names of pika may be used, which is what makes reading and writing fast.

With each of COMPARED_VERSIONS the tests in tests/unit compare, by property, what the fast paths do
with what pika does by itself (`make test-pika-versions`). With any other version both sides use
only what pika shows: the results are the same, at a lower rate. See
docs/decisions/0014-other-versions-of-pika.md.
"""

import logging
import os
from functools import cache

import pika

COMPARED_VERSIONS = frozenset({"1.3.0", "1.3.1", "1.3.2", "1.4.1", "1.4.2", "1.4.4"})
SWITCH = "MIRRORFEED_PIKA"
"""For tests: an environment variable that is `plain` turns the fast paths off with any version."""

logger = logging.getLogger(__name__)


@cache
def are_used() -> bool:
    """The same answer for the life of the process; the first `False` is logged."""
    if os.environ.get(SWITCH) == "plain":
        logger.info("%s=plain: sending and receiving in pika's own, slower way", SWITCH)
        return False
    if pika.__version__ not in COMPARED_VERSIONS:
        logger.info(
            "pika %s is not a version that mirrorfeed's fast paths were compared with (%s):"
            " sending and receiving in pika's own, slower way",
            pika.__version__,
            ", ".join(sorted(COMPARED_VERSIONS)),
        )
        return False
    return True
