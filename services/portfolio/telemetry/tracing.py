"""Traces: where a call's time went, as spans of OpenTelemetry.

A router begins no trace: it goes on with those that its callers sample. Without an endpoint, or for
a call that is not sampled, no object is made and nothing is imported.

The writer runs many callers' commands in one transaction. What it does is timed once, as steps, and
told in the trace of each caller: `writer.wait` (in the queue), then `writer.batch` with a span for
each step. The batches of the second and all later callers link to that of the first.
"""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

import structlog

from services.portfolio.caller import CALLER

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Link, Span

SERVICE = "efficientfrontier-router"
FLUSH_WITHIN_S = 2.0
TOLD_AFTER_S = 0.02  # batches are told when their callers have their answers
# The codes that are the server's fault: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
NO_TRACE, NO_SPAN = "0" * 32, "0" * 16
SAMPLED = 1

log = structlog.get_logger()


class Parent(NamedTuple):
    """The caller's span, as its `traceparent` names it (W3C Trace Context)."""

    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits
    sampled: bool
    state: str = ""  # `tracestate`, as it came


def parent_of(traceparent: str, state: str = "") -> Parent | None:
    """The caller's span; None when the header is missing or not valid."""
    found = TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (more and version == "00"):
        return None
    if trace_id == NO_TRACE or span_id == NO_SPAN:
        return None
    return Parent(trace_id, span_id, flags[1] in "13579bdf", state)


@dataclass(slots=True)
class Traced:
    """A command of a traced call, from the moment it waits for the writer."""

    span: "Span"  # of the call
    since_ns: int


@dataclass(slots=True)
class Step:
    """One thing that a transaction did. Times in ns since the epoch."""

    name: str
    began_ns: int
    ended_ns: int
    error: str


@dataclass(slots=True)
class Batch:
    """One transaction."""

    traced: Sequence[Traced]
    size: int
    began_ns: int
    ended_ns: int = 0
    error: str = ""
    steps: list[Step] = field(default_factory=list)


class Tracing:
    """Tells a collector of the calls whose callers ask for it."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace  # noqa: PLC0415 - only where there is a collector

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE)
        self._untold: list[Batch] = []

    def begin(self, method: str, parent: Parent) -> "Span":
        """The span of a call that has just come."""
        api = self._api
        context = api.SpanContext(
            int(parent.trace_id, 16),
            int(parent.span_id, 16),
            is_remote=True,
            trace_flags=api.TraceFlags(SAMPLED),
            trace_state=api.TraceState.from_header([parent.state]),
        )
        return self._tracer.start_span(
            method,
            api.set_span_in_context(api.NonRecordingSpan(context)),
            kind=api.SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": method},
        )

    def end(self, span: "Span", code: str, reason: str) -> None:
        """Ends the span of a call."""
        span.set_attribute("rpc.response.status_code", code)
        span.set_attribute("efficientfrontier.actor", CALLER.get().actor)
        if reason:
            span.set_attribute("error.type", reason)
        if code in FAULTS:
            span.set_status(self._api.StatusCode.ERROR, reason)
        span.end()

    def tell(self, batch: Batch) -> None:
        """Tells of a batch, soon."""
        self._untold.append(batch)
        if len(self._untold) == 1:
            asyncio.get_running_loop().call_later(TOLD_AFTER_S, self.tell_all)

    def tell_all(self) -> None:
        """Tells of the batches that wait."""
        untold, self._untold = self._untold, []
        for batch in untold:
            links: list[Link] = []
            for traced in batch.traced:
                span = self._tell_one(batch, traced, links)
                links = links or [self._api.Link(span.get_span_context())]

    def _tell_one(self, batch: Batch, traced: Traced, links: "Sequence[Link]") -> "Span":
        """A batch in the trace of one of its callers."""
        api, start = self._api, self._tracer.start_span
        call = api.set_span_in_context(traced.span)
        if traced.since_ns < batch.began_ns:
            start("writer.wait", call, start_time=traced.since_ns).end(batch.began_ns)
        span = start(
            "writer.batch",
            call,
            links=links,
            start_time=batch.began_ns,
            attributes={"efficientfrontier.batch.commands": batch.size},
        )
        inside = api.set_span_in_context(span)
        for step in batch.steps:
            child = start(
                step.name,
                inside,
                kind=api.SpanKind.CLIENT,
                start_time=step.began_ns,
                attributes={"db.system.name": "postgresql", "db.query.summary": step.name},
            )
            self._finish(child, step.ended_ns, step.error)
        self._finish(span, batch.ended_ns, batch.error)
        return span

    def _finish(self, span: "Span", ended_ns: int, error: str) -> None:
        if error:
            span.set_attribute("error.type", error)
            span.set_status(self._api.StatusCode.ERROR)
        span.end(ended_ns)

    def stop(self) -> None:
        """Sends what waits; a collector that is away is not waited for."""
        self.tell_all()
        last = Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(FLUSH_WITHIN_S)


_NOTHING = nullcontext()
_tracing: Tracing | None = None
_call: ContextVar["Span | None"] = ContextVar("call_span", default=None)
_steps: ContextVar[list[Step] | None] = ContextVar("steps", default=None)


def start(endpoint: str | None) -> None:
    """Sends spans to the collector at `endpoint` from now on; without one, traces nothing."""
    global _tracing  # noqa: PLW0603 - of the process, as the metrics are
    _tracing = Tracing(provider_to(endpoint)) if endpoint else None


def stop() -> None:
    """Sends the last spans, within FLUSH_WITHIN_S."""
    global _tracing  # noqa: PLW0603 - as above
    if _tracing is not None:
        _tracing.stop()
    _tracing = None


def begin(method: str, parent: Parent | None) -> None:
    """A call begins; its span is kept for what runs within it, if its caller wants one."""
    if _tracing is not None and parent is not None and parent.sampled:
        _call.set(_tracing.begin(method, parent))


def end(code: str, reason: str = "") -> None:
    """The call that runs here ends with this gRPC code, and an error's reason."""
    if _tracing is not None and (span := _call.get()) is not None:
        _tracing.end(span, code, reason)


def traced() -> Traced | None:
    """The call that runs here, whose command begins to wait for the writer; None: not traced."""
    if _tracing is None or (span := _call.get()) is None:
        return None
    return Traced(span, time.time_ns())


def batch(commands: Sequence[Traced | None]) -> AbstractContextManager[None]:
    """Around one transaction: tells of it in the trace of each of its commands that has one."""
    told = [command for command in commands if command is not None]
    return _told(_tracing, told, len(commands)) if _tracing is not None and told else _NOTHING


def step(name: str) -> AbstractContextManager[None]:
    """Around one thing that the transaction does with the database: times it."""
    steps = _steps.get()
    return _NOTHING if steps is None else _timed(steps, name)


@contextmanager
def _told(tracing: Tracing, commands: Sequence[Traced], size: int) -> Iterator[None]:
    this = Batch(commands, size, time.time_ns())
    before = _steps.set(this.steps)
    try:
        yield
    except BaseException as error:
        this.error = type(error).__name__
        raise
    finally:
        _steps.reset(before)
        this.ended_ns = time.time_ns()
        tracing.tell(this)


@contextmanager
def _timed(steps: list[Step], name: str) -> Iterator[None]:
    began_ns = time.time_ns()
    error = ""
    try:
        yield
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        steps.append(Step(name, began_ns, time.time_ns(), error))


def provider_to(endpoint: str) -> "TracerProvider":
    """Sends all spans to a collector, many at a time, in a thread of its own.

    The queue is bounded; what does not fit while the collector is away is dropped. Limits and
    pauses are OpenTelemetry's own (OTEL_BSP_..., OTEL_EXPORTER_OTLP_...).
    """
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415

    # They tell of each attempt; `Told` tells once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter = Told(OTLPSpanExporter(endpoint), endpoint)
    instance = f"{socket.gethostname()}:{os.getpid()}"
    resource = Resource.create({"service.name": SERVICE, "service.instance.id": instance})
    # Who may be traced was decided by the caller's flag: see begin().
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(cast("SpanExporter", exporter)))
    return provider


class Told:
    """An exporter that logs once when the collector is away, and once when it is back."""

    def __init__(self, exporter: "SpanExporter", endpoint: str) -> None:
        self._exporter = exporter
        self._collector = urlsplit(endpoint).netloc.rpartition("@")[2] or endpoint
        self._is_away = False

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
        """Sends spans; called by one thread at a time."""
        result = self._exporter.export(spans)
        is_away = result.name != "SUCCESS"
        if is_away and not self._is_away:
            log.warning("traces_not_sent", collector=self._collector, next="calls go on without")
        elif self._is_away and not is_away:
            log.info("traces_sent_again", collector=self._collector)
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        """Ends the connection, and an attempt that is under way."""
        self._exporter.shutdown()
