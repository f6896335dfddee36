"""Whether private names of pika may be used, which makes reading and writing fast.

For each of COMPARED_VERSIONS, property tests in tests/unit compare the fast paths with pika's own
code (`make test-pika-versions`). With any other version both sides use only pika's public names:
the results are the same, at a lower rate. See docs/decisions/0014-other-versions-of-pika.md.
"""

import logging
import os
from functools import cache

import pika

COMPARED_VERSIONS = frozenset({"1.3.0", "1.3.1", "1.3.2", "1.4.1", "1.4.2", "1.4.4"})
SWITCH = "MIRRORFEED_PIKA"
"""For tests: set this environment variable to `plain` to turn the fast paths off."""

logger = logging.getLogger(__name__)


@cache
def are_used() -> bool:
    """The answer stays the same for the life of the process. If it is False, it is logged once."""
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
