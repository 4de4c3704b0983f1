"""An OpenTelemetry collector in the test's own process, and what it was told as trees."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Span:
    """A span as it was sent. Times in ns since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    kind: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    links: tuple[str, ...]  # span ids
    is_error: bool
    events: tuple[str, ...]

    @property
    def ms(self) -> float:
        return (self.ended_ns - self.began_ns) / 1e6


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def Export(self, request: Any, context: object) -> Any:  # noqa: N802 - gRPC names it
        for resource in request.resource_spans:
            service = _plain(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_span(service, sent) for sent in scope.spans]
        return pb.ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[Span]:
        """All spans of a trace, in the order in which they began."""
        found = [span for span in self.spans if span.trace_id == trace_id]
        return sorted(found, key=lambda span: span.began_ns)

    def wait_for(self, name: str, deadline_s: float = 20, **attributes: Any) -> Span:
        """Waits for a span of this name, with these attributes (dots written as __)."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}

        def found() -> Span | None:
            for span in list(self.spans):
                if span.name == name and wanted.items() <= span.attributes.items():
                    return span
            return None

        span = wait_until(found, deadline_s, f"a span {name} {wanted}")
        assert span is not None
        return span


@contextmanager
def running_collector(port: int = 0) -> Iterator[Collector]:
    """A collector on a free port of 127.0.0.1, or on this one."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()


def drawn(spans: list[Span]) -> str:
    """A trace as a tree, each span with its begin and its length in ms."""
    first = min(span.began_ns for span in spans)
    known = {span.span_id for span in spans}
    lines: list[str] = []

    def draw(span: Span, depth: int) -> None:
        began_ms = (span.began_ns - first) / 1e6
        name = "  " * depth + span.name
        lines.append(f"{name:<58} {span.service:<27} +{began_ms:8.2f} {span.ms:8.2f} ms")
        for child in spans:
            if child.parent_id == span.span_id:
                draw(child, depth + 1)

    for span in spans:
        if span.parent_id not in known:
            draw(span, 0)
    return "\n".join(lines)


def _span(service: str, sent: Sent) -> Span:
    return Span(
        sent.trace_id.hex(),
        sent.span_id.hex(),
        sent.parent_span_id.hex(),
        service,
        sent.name,
        Sent.SpanKind.Name(sent.kind).removeprefix("SPAN_KIND_"),
        sent.start_time_unix_nano,
        sent.end_time_unix_nano,
        _plain(sent.attributes),
        tuple(link.span_id.hex() for link in sent.links),
        sent.status.code == Status.STATUS_CODE_ERROR,
        tuple(event.name for event in sent.events),
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in attributes
    }
