"""The methods of the original authserver: an XML-RPC call becomes an event in the spool."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from xmlrpc.client import Binary, DateTime, Fault

from mirrorfeed.contract.events import InvalidEvent, shown
from mirrorfeed.publisher.authserver.faults import TRUE, FaultCode, response
from mirrorfeed.publisher.authserver.request import parse_call
from mirrorfeed.publisher.client import BranchStatusClient, reason_from
from mirrorfeed.publisher.errors import AttemptNotStarted, SpoolBusy, SpoolError, SpoolFull

TIME_FIELDS = 9
"""As in Python's `utctimetuple`: year, month, day, hour, minute, second, and three unused."""
DATE_FIELDS = 6
SEE_THE_LOG = "see the log of the authserver"

logger = logging.getLogger(__name__)


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
        self._client = client
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
                self._record_success,
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

    def _record_success(
        self, name: str, hostname: str, started: datetime, completed: datetime
    ) -> None:
        """A run whose clock was set back ended when it began, as `run-script` reports it."""
        if completed < started:
            logger.warning(
                "recordSuccess: %s on %s ended %s before it began; taken as ended when it began",
                shown(name),
                shown(hostname),
                started - completed,
            )
        self._client.record_success(name, hostname, started, max(started, completed))

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
            fault = Fault(FaultCode.INVALID_PARAMETERS, f"{call.name}: {call.error}")
        case AttemptNotStarted():
            fault = Fault(FaultCode.NOT_STARTED, f"{call.name}: {not_started(call.values[0])}")
        case SpoolError():
            logger.error("%s was not taken: %s", call.name, call.error)
            fault = Fault(FaultCode.SPOOL_UNUSABLE, f"{call.name}: {spool_trouble(call.error)}")
        case _:
            logger.error("%s failed", call.name, exc_info=call.error)
            fault = Fault(FaultCode.INTERNAL_ERROR, f"internal error: {SEE_THE_LOG}")
    return response(fault)


def not_started(branch_id: int) -> str:
    return (
        f"branch {branch_id} has no attempt under way: report its start when its mirroring begins"
    )


def spool_trouble(error: SpoolError) -> str:
    """What a caller may know of it; paths on this host are nobody else's matter."""
    match error:
        case SpoolFull():
            state = "is full"
        case SpoolBusy():
            state = "is locked by another process"
        case _:
            state = "cannot be used"
    return f"the spool {state}: {SEE_THE_LOG}"


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
    """Cut to what an event can hold: an unmodified puller does not know the limit.

    A client wraps a text in a Binary if XML may not hold it.
    """
    if isinstance(value, Binary):
        return reason_from(value.data.decode(errors="replace"))
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
