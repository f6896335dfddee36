"""The trace of a call travels with its event."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from mirrorfeed.contract import wire
from mirrorfeed.contract.tracing import (
    MAX_LINKS,
    Spans,
    Trace,
    current_trace,
    environment_trace,
    trace_of,
)
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.spool import Spool
from tests.builders import started

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture(autouse=True)
def fresh_environment() -> Iterator[None]:
    """As if the process had just begun."""
    environment_trace.cache_clear()
    yield
    environment_trace.cache_clear()


def spooled(path: Path) -> dict[str, object]:
    spool = Spool(path)
    (event,) = spool.pending(after=0, limit=2)
    spool.close()
    body: dict[str, object] = json.loads(event.body)
    return body


def test_a_call_takes_the_trace_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the event, whoever sends that and whenever."""
    monkeypatch.setenv("TRACEPARENT", PARENT)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    with BranchStatusClient(tmp_path / "spool.db", forward=False) as client:
        client.start_mirroring(1)
    body = spooled(tmp_path / "spool.db")
    assert (body["traceparent"], body["tracestate"]) == (PARENT, "vendor=1")
    assert trace_of(json.dumps(body).encode()) == Trace(PARENT, "vendor=1")


def test_a_call_takes_the_active_span_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without either, an event says nothing of traces."""
    assert current_trace() is None
    monkeypatch.setenv("TRACEPARENT", PARENT)
    tracer = TracerProvider().get_tracer("test")
    with (
        BranchStatusClient(tmp_path / "spool.db", forward=False) as client,
        tracer.start_as_current_span("pull") as span,
    ):
        client.start_mirroring(1)
    context = span.get_span_context()
    assert spooled(tmp_path / "spool.db")["traceparent"] == (
        f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    )


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "x",
        PARENT.upper(),
        f"01-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"{PARENT}\n",
    ],
)
def test_a_trace_that_is_not_valid_is_left_out(
    parent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By publishers, and by whoever reads the event; the event itself is as good as any."""
    monkeypatch.setenv("TRACEPARENT", parent)
    assert current_trace() is None
    body = {**json.loads(wire.encode(started(1, 0))), "traceparent": parent}
    assert trace_of(json.dumps(body).encode()) is None
    wire.decode(json.dumps(body).encode())


@pytest.mark.parametrize("state", [7, "\n", "x" * 513, None])
def test_a_bad_tracestate_is_left_out_alone(state: object) -> None:
    """The traceparent says what matters."""
    body = {**json.loads(wire.encode(started(1, 0))), "traceparent": PARENT, "tracestate": state}
    assert trace_of(json.dumps(body).encode()) == Trace(PARENT)
    wire.decode(json.dumps(body).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 10_000])
def test_a_body_that_cannot_be_read_has_no_trace(body: bytes) -> None:
    """It becomes a letter for other reasons."""
    assert trace_of(body) is None


def test_a_batch_is_one_span_with_links_to_its_events() -> None:
    """Each trace once, and no more than a span can hold."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = Spans(provider.get_tracer("test"))
    parents = [f"00-{TRACE_ID}-{number:016x}-01" for number in range(1, MAX_LINKS + 10)]
    bodies = [wire.encode(started(1, 0), Trace(parent, "vendor=1")) for parent in parents]
    with spans.processing("mirror.events", [bodies[0], b"{", *bodies]):
        assert otel.get_current_span().is_recording()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("process mirror.events", SpanKind.CONSUMER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "mirror.events",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.batch.message_count": MAX_LINKS + 11,
    }
    linked = [each.context for each in span.links]
    assert [each.span_id for each in linked] == list(range(1, MAX_LINKS + 1))
    assert {f"{each.trace_id:032x}" for each in linked} == {TRACE_ID}
    assert linked[0].trace_state.to_header() == "vendor=1"


def test_nothing_of_opentelemetry_is_imported_unless_it_is_wanted(tmp_path: Path) -> None:
    """Not even where it is installed."""
    program = (
        "import sys\n"
        "from mirrorfeed import BranchStatusClient\n"
        "from mirrorfeed.contract.tracing import spans_of\n"
        "BranchStatusClient(sys.argv[1], forward=False).start_mirroring(1)\n"
        "assert spans_of('mirror-consumer') is None\n"
        "assert not [each for each in sys.modules if each.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "spool.db")], check=True)
