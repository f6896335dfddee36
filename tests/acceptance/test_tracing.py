"""A trace goes from the call to the row, and letters keep it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import Engine

from mirrorfeed.contract.tracing import Trace, trace_of
from tests.commands import Shell
from tests.servers import register_branches, rows, state_of

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


class Collected(list[tuple[str, str, set[str]]]):
    """Of each span: its service, its name, and the traces it has links to."""

    def add(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = [
                each.value.string_value
                for each in resource.resource.attributes
                if each.key == "service.name"
            ]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    linked = {link.trace_id.hex() for link in span.links}
                    self.append((service, span.name, linked))


@contextmanager
def collector() -> Iterator[tuple[str, Collected]]:
    """What takes spans as OTLP over HTTP does: its URL, and what it was told."""
    collected = Collected()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collected.add(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(server.serve_forever, poll_interval=0.01)
        try:
            yield f"http://127.0.0.1:{server.server_port}", collected
        finally:
            server.shutdown()
            serving.result()


def test_a_trace_goes_from_the_call_to_the_row(shell: Shell, engine: Engine) -> None:
    """The forwarder and the worker each tell of what they did, with links to the calls' traces."""
    register_branches(engine, 1)
    traced = replace(shell, variables={**shell.variables, "TRACEPARENT": PARENT})
    traced.run("mirror-publisher", "started", "1")
    shell.run("mirror-publisher", "failed", "1", "why")
    with collector() as (url, collected):
        told = {**shell.variables, "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        watched = replace(shell, variables=told)
        watched.run("mirror-publisher", "forward", "--drain")
        watched.run("mirror-consumer", "run", "--drain")
    assert state_of(engine, 1).mirror_failures == 1
    spans = {(service, name) for service, name, _ in collected}
    assert spans == {
        ("mirror-publisher", "send mirror.events"),
        ("mirror-consumer", "process mirror.events"),
    }
    for span in spans:
        linked = {trace for *named, traces in collected if tuple(named) == span for trace in traces}
        assert linked == {TRACE_ID}


def test_a_letter_keeps_its_trace(shell: Shell, engine: Engine) -> None:
    """Whoever replays it can find out what it came from."""
    traced = replace(shell, variables={**shell.variables, "TRACEPARENT": PARENT})
    traced.run("mirror-publisher", "failed", "404", "why")
    shell.run("mirror-publisher", "forward", "--drain")
    shell.run("mirror-consumer", "run", "--drain")
    ((body,),) = rows(engine, "SELECT body FROM dead_letter")
    assert trace_of(bytes(body)) == Trace(PARENT)


def test_a_collector_that_is_away_stops_nothing(shell: Shell, engine: Engine) -> None:
    """Spans are lost then, and events are not."""
    register_branches(engine, 1)
    away = {**shell.variables, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    told = replace(shell, variables={**away, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"})
    told.run("mirror-publisher", "started", "1")
    told.run("mirror-publisher", "forward", "--drain")
    told.run("mirror-consumer", "run", "--drain")
    assert state_of(engine, 1).last_mirror_attempt is not None
