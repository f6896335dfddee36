"""The methods of the original authserver: an XML-RPC call becomes an event in the spool.

Fault codes are those of the Specification for Fault Code Interoperability
(https://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php); they do not change.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any
from xml.parsers.expat import ExpatError
from xmlrpc.client import Binary, DateTime, Fault, Unmarshaller, dumps

from defusedxml.common import DefusedXmlException
from defusedxml.xmlrpc import DefusedExpatParser

from mirrorfeed.contract.events import InvalidEvent, shown
from mirrorfeed.contract.secrets import masked_start
from mirrorfeed.publisher.client import BranchStatusClient, reason_from
from mirrorfeed.publisher.errors import AttemptNotStarted, SpoolError

TIME_FIELDS = 9
"""As in Python's `utctimetuple`: year, month, day, hour, minute, second, and three unused."""
DATE_FIELDS = 6
MAX_DETAIL_LENGTH = 200
XML = (b"content-type", b"text/xml")

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


class InvalidParameter(ValueError):
    """A value has the wrong type for its parameter; the text follows the parameter's name."""


@dataclass(frozen=True)
class Method:
    """How a method is called: its parameters in order, each with what converts its value."""

    parameters: Mapping[str, Callable[[Any], Any]]
    run: Callable[..., Any]
    help: str


@dataclass
class Call:
    """A call and, once it has been made, its result or error."""

    name: str
    run: Callable[..., Any]
    values: Sequence[Any]
    result: Any = None
    error: Exception | None = None

    @property
    def is_report(self) -> bool:
        """Whether it needs the spool; other calls ask what the server can do."""
        return not self.name.startswith("system.")

    def make(self) -> None:
        self.error = None
        try:
            self.result = self.run(*self.values)
        except Exception as error:
            self.error = error


class XmlRpcCalls:
    """The methods, carried out by one client."""

    def __init__(self, client: BranchStatusClient) -> None:
        self._methods = {
            "startMirroring": Method(
                {"id": whole_number},
                client.start_mirroring,
                "A mirror attempt of a branch begins now.",
            ),
            "mirrorComplete": Method(
                {"id": whole_number, "revision": text_or_nil},
                client.mirror_complete,
                "The branch's latest attempt succeeded, up to this revision.",
            ),
            "mirrorFailed": Method(
                {"id": whole_number, "reason": reason},
                client.mirror_failed,
                "The branch's latest attempt failed, for this reason.",
            ),
            "recordSuccess": Method(
                {
                    "name": text,
                    "hostname": text,
                    "started": xmlrpc_instant,
                    "completed": xmlrpc_instant,
                },
                client.record_success,
                "A script ran and ended normally. A time is a dateTime, or an array of nine"
                " integers as made by Python's utctimetuple(), in UTC.",
            ),
            "system.listMethods": Method({}, self._list_methods, "The names of all methods."),
            "system.methodHelp": Method(
                {"method": text}, self._method_help, "What a method is for."
            ),
        }

    def call_of(self, body: bytes) -> Call:
        """The call that a request asks for, not made yet. Raises Fault."""
        name, values = parse_call(body)
        method = self._method(name)
        if len(values) != len(method.parameters):
            raise Fault(
                FaultCode.INVALID_PARAMETERS,
                f"{signature(name, method)} takes {len(method.parameters)} parameters,"
                f" got {len(values)}",
            )
        pairs = zip(method.parameters.items(), values, strict=True)
        try:
            fit = [accepted(parameter, accept, value) for (parameter, accept), value in pairs]
        except InvalidParameter as error:
            raise Fault(FaultCode.INVALID_PARAMETERS, f"{name}: {error}") from error
        return Call(name, method.run, fit)

    def _method(self, name: str) -> Method:
        method = self._methods.get(name)
        if method is None:
            raise Fault(
                FaultCode.UNKNOWN_METHOD,
                f"there is no method {shown(name)}: the methods are {', '.join(self._methods)}",
            )
        return method

    def _list_methods(self) -> list[str]:
        return sorted(self._methods)

    def _method_help(self, name: str) -> str:
        method = self._method(name)
        return f"{signature(name, method)}: {method.help}"


def answer_of(call: Call) -> bytes:
    """The response to a call that has been made: its result, True for a report, or a fault."""
    match call.error:
        case None:
            return TRUE if call.result is None else response(call.result)
        case Fault():
            return response(call.error)
        case InvalidEvent():
            code = FaultCode.INVALID_PARAMETERS
        case AttemptNotStarted():
            code = FaultCode.NOT_STARTED
        case SpoolError():
            code = FaultCode.SPOOL_UNUSABLE
        case _:
            return internal_error(call.error)
    return response(Fault(code, f"{call.name}: {call.error}"))


def internal_error(error: Exception) -> bytes:
    logger.error("a call failed", exc_info=error)
    return response(
        Fault(FaultCode.INTERNAL_ERROR, "internal error: see the log of the authserver")
    )


def parse_call(body: bytes) -> tuple[str, tuple[Any, ...]]:
    """The method and its values. Raises Fault."""
    unmarshaller = Unmarshaller()
    parser = DefusedExpatParser(unmarshaller, forbid_dtd=True)
    try:
        parser.feed(body)
        parser.close()
        values, name = unmarshaller.close(), unmarshaller.getmethodname()
    except DefusedXmlException as error:
        raise Fault(
            FaultCode.INVALID_REQUEST,
            "the request has a document type declaration or entities: send it without them",
        ) from error
    except ExpatError as error:
        raise Fault(
            FaultCode.NOT_WELL_FORMED, f"the request is not well-formed XML: {error}"
        ) from error
    except Exception as error:  # the standard library raises many kinds on strange input
        detail = masked_start(str(error), MAX_DETAIL_LENGTH) or type(error).__name__
        raise Fault(
            FaultCode.INVALID_REQUEST, f"the request is not an XML-RPC call: {detail!r}"
        ) from error
    if name is None:
        raise Fault(
            FaultCode.INVALID_REQUEST, "the request is not an XML-RPC call: it has no method"
        )
    return name, values


def response(value: Any) -> bytes:
    if isinstance(value, Fault):
        value = Fault(int(value.faultCode), value.faultString)  # xmlrpc cannot write an enum
        logger.info("fault %d: %s", value.faultCode, value.faultString)
    # Values are quoted, so our texts have no control characters; a path may have surrogates.
    text = dumps(value if isinstance(value, Fault) else (value,), methodresponse=True)
    return text.encode(errors="replace")


TRUE = response(True)


def signature(name: str, method: Method) -> str:
    return f"{name}({', '.join(method.parameters)})"


def accepted(parameter: str, accept: Callable[[Any], Any], value: Any) -> Any:
    try:
        return accept(value)
    except InvalidParameter as error:
        raise InvalidParameter(f"{parameter} must be {error}, got {described(value)}") from error


def whole_number(value: Any) -> int:
    if type(value) is not int:  # to Python a bool is an int
        raise InvalidParameter("an int")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidParameter("a string")
    return value


def text_or_nil(value: Any) -> str | None:
    return None if value is None else text(value)


def reason(value: Any) -> str:
    """Cut to what an event can hold: an unmodified puller does not know the limit."""
    return reason_from(text(value))


def xmlrpc_instant(value: Any) -> datetime:
    """A time without an offset is UTC, as it was for the original authserver."""
    if isinstance(value, DateTime):
        try:
            time = datetime.fromisoformat(value.value)
        except ValueError as error:
            raise InvalidParameter("a dateTime such as 20070705T19:32:01") from error
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    if (
        not isinstance(value, list)
        or len(value) != TIME_FIELDS
        or any(type(field) is not int for field in value)
    ):
        raise InvalidParameter("a dateTime or an array of nine ints (utctimetuple)")
    try:
        year, month, day, hour, minute, second = value[:DATE_FIELDS]
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidParameter("a time that exists: year, month, day, hour, minute, second") from (
            error
        )


def described(value: Any) -> str:
    """The value as a message quotes it, with its XML-RPC type. For a container only the size: what
    is nested deeply cannot be shown."""
    match value:
        case None:
            return "nil"
        case bool():
            return f"the boolean {value}"
        case str():
            return f"the string {shown(value)}"
        case DateTime():
            return f"the dateTime {shown(value.value)}"
        case Binary():
            return f"base64 of {len(value.data)} bytes"
        case list() if len(value) == TIME_FIELDS and all(type(field) is int for field in value):
            return f"the array {shown(value)}"
        case list():
            return f"an array of {len(value)}"
        case dict():
            return f"a struct of {len(value)}"
    return f"{type(value).__name__} {shown(value)}"
