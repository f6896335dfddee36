"""Distributed traces, for those who want them.

An event carries the trace that its call was part of, as the CloudEvents extension for distributed
tracing says: `traceparent` and `tracestate` of W3C Trace Context. Spans need `mirrorfeed[otel]`,
and are named after OpenTelemetry's semantic conventions for messaging. Without it, nothing of
OpenTelemetry is imported.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext, Tracer

TRACEPARENT = "TRACEPARENT"
TRACESTATE = "TRACESTATE"
"""As CI systems and `otel-cli` set them for the programs they run."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MAX_STATE_LENGTH = 512
"""As much as everybody must pass on (W3C Trace Context, section 3.3.1.5)."""
MAX_LINKS = 128
"""More links of one span are dropped by default."""

_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_STATE = re.compile(rf"[\x20-\x7e]{{1,{MAX_STATE_LENGTH}}}")

logger = logging.getLogger(__name__)


class Trace(Struct, frozen=True, gc=False):
    """The trace that something is part of."""

    parent: str
    """A `traceparent` header."""
    state: str | None = None


class Operation(StrEnum):
    """What is done with a batch of messages: `messaging.operation.type`."""

    SEND = "send"
    PROCESS = "process"


class _Traced(Struct, frozen=True, gc=False):
    traceparent: Any = None
    tracestate: Any = None


_decoder = msgspec.json.Decoder(_Traced)


def current_trace() -> Trace | None:
    """The trace of the caller: of an active OpenTelemetry context, else of the environment."""
    if (api := sys.modules.get("opentelemetry.trace")) is not None:
        context: SpanContext = api.get_current_span().get_span_context()
        if context.is_valid:
            return _trace_in(context)
    return environment_trace()


@cache
def environment_trace() -> Trace | None:
    """The trace that this process was begun in. It is asked for with each event, and looked up
    once."""
    return _checked(os.environ.get(TRACEPARENT), os.environ.get(TRACESTATE))


def trace_of(body: bytes) -> Trace | None:
    """The trace in an event's body; None if there is none, or it cannot be read."""
    try:
        traced = _decoder.decode(body)
    except (ValueError, RecursionError):
        return None
    return _checked(traced.traceparent, traced.tracestate)


def _trace_in(context: "SpanContext") -> Trace | None:
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return _checked(parent, context.trace_state.to_header())


def _checked(parent: object, state: object) -> Trace | None:
    """What is not valid is left out, as if it had not been said."""
    if not isinstance(parent, str) or not _PARENT.fullmatch(parent):
        return None
    is_state = isinstance(state, str) and _STATE.fullmatch(state)
    return Trace(parent, str(state) if is_state else None)


class Spans:
    """The spans of a service. For any thread."""

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer

    @contextmanager
    def processing(self, destination: str, bodies: Sequence[bytes]) -> Iterator[None]:
        """A span around what the block does with these messages, with links to their traces."""
        from opentelemetry.trace import use_span

        with use_span(self._begun(Operation.PROCESS, destination, bodies), end_on_exit=True):
            yield

    def sent(self, destination: str, bodies: Sequence[bytes], began_at: float) -> None:
        """A span, from `began_at` by the clock until now, in which these messages were sent."""
        self._begun(Operation.SEND, destination, bodies, int(began_at * 1e9)).end()

    def _begun(
        self,
        operation: Operation,
        destination: str,
        bodies: Sequence[bytes],
        began_at_nanoseconds: int | None = None,
    ) -> "Span":
        from opentelemetry.trace import SpanKind

        return self._tracer.start_span(
            f"{operation} {destination}",
            kind=SpanKind.PRODUCER if operation is Operation.SEND else SpanKind.CONSUMER,
            links=list(_links(bodies)),
            start_time=began_at_nanoseconds,
            attributes={
                "messaging.system": "rabbitmq",
                "messaging.destination.name": destination,
                "messaging.operation.name": operation.value,
                "messaging.operation.type": operation.value,
                "messaging.batch.message_count": len(bodies),
            },
        )


def _links(bodies: Iterable[bytes]) -> "Iterator[Link]":
    from opentelemetry.trace import Link, SpanContext, TraceFlags, TraceState

    linked: set[str] = set()
    for body in bodies:
        trace = trace_of(body)
        if trace is None or trace.parent in linked:
            continue
        linked.add(trace.parent)
        _, trace_id, span_id, flags = trace.parent.split("-")
        state = TraceState.from_header([trace.state]) if trace.state else None
        yield Link(
            SpanContext(
                int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state
            )
        )
        if len(linked) == MAX_LINKS:
            return


def spans_of(service: str) -> Spans | None:
    """The spans of this service, if they are wanted: `opentelemetry-instrument` has set something
    up that takes them, or the environment names an endpoint of OTLP over HTTP. Else None."""
    is_named = any(map(os.environ.get, ENDPOINTS))
    if not is_named and "opentelemetry.trace" not in sys.modules:
        return None
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning("no traces are sent: pip install 'mirrorfeed[otel]' (%s)", error)
        return None
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        if not is_named:
            return None
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
        provider = TracerProvider(resource=Resource.create(named))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
    return Spans(trace.get_tracer("mirrorfeed"))
