"""What the authserver answers: a value, or a fault that says what was wrong.

Fault codes are those of the Specification for Fault Code Interoperability
(https://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php); they do not change.
"""

import logging
from enum import IntEnum
from typing import Any
from xmlrpc.client import Fault, dumps

logger = logging.getLogger(__name__)


class FaultCode(IntEnum):
    """What was wrong, for programs; the fault's text is for people."""

    NOT_WELL_FORMED = -32700
    """The body is not XML."""
    INVALID_REQUEST = -32600
    """It is XML, but not an XML-RPC call, or it contains what only attackers send."""
    UNKNOWN_METHOD = -32601
    INVALID_PARAMETERS = -32602
    INTERNAL_ERROR = -32603
    """A bug of ours; the log has more."""
    NOT_STARTED = -32500
    """An attempt was completed that had not been started."""
    SPOOL_UNUSABLE = -32400
    """The spool is full or broken: the event was not taken."""
    TRANSPORT = -32300
    """Too large or too slow."""


def response(value: Any) -> bytes:
    if isinstance(value, Fault):
        value = Fault(int(value.faultCode), value.faultString)  # xmlrpc cannot write an enum
        logger.info("fault %d: %s", value.faultCode, value.faultString)
    # Values are quoted, so our texts have no control characters.
    return dumps(value if isinstance(value, Fault) else (value,), methodresponse=True).encode()


TRUE = response(True)
