"""Traces: a span for each tick and each call, sent to an OpenTelemetry collector.

On when OTEL_EXPORTER_OTLP_ENDPOINT is set and the extra `tracing` is installed; else nothing is
imported and no object made. How many ticks are traced says OTEL_TRACES_SAMPLER (all of them by
default); the other OTEL_... variables mean what OpenTelemetry says. A program that has set up
OpenTelemetry itself gets the spans into its own traces.

A collector that is away costs nothing but the spans: they are sent by a thread of their own, from a
bounded queue.
"""

import atexit
import functools
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from SureshotSDK.errors import PortfolioError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.trace import Span, SpanKind

Headers = tuple[tuple[str, str], ...]

_SERVICE = "efficientfrontier-strategy"
_FLUSH_WITHIN_S = 2.0

logger = logging.getLogger("SureshotSDK")


@contextmanager
def tick(strategy_name: str, symbol: str) -> Iterator[None]:
    """One look at the price; the calls within it are its children."""
    tracing = _tracing()
    if tracing is None:
        yield
        return
    attributes = {
        "efficientfrontier.strategy_name": strategy_name,
        "efficientfrontier.symbol": symbol,
    }
    with tracing.span("tick", tracing.api.SpanKind.INTERNAL, attributes):
        yield


@contextmanager
def call(method: str, address: str) -> Iterator[Headers]:
    """One call, with all its attempts; yields the headers that carry the trace on."""
    tracing = _tracing()
    if tracing is None:
        yield ()
        return
    name = method.removeprefix("/")
    host = address.rpartition(":")[0] or address
    attributes = {"rpc.system.name": "grpc", "rpc.method": name, "server.address": host}
    with tracing.span(name, tracing.api.SpanKind.CLIENT, attributes) as span:
        try:
            yield tracing.headers()
        except PortfolioError as error:
            span.set_attribute("rpc.response.status_code", error.code.name)
            raise
        span.set_attribute("rpc.response.status_code", "OK")


def tried(error: PortfolioError) -> None:
    """An attempt of the call that runs here has failed, and another follows."""
    if (tracing := _tracing()) is not None:
        attributes = {"error.type": error.reason or error.code.name}
        tracing.api.get_current_span().add_event("attempt failed", attributes)


def failed(error: Exception) -> None:
    """What runs here has met an error that nobody else hears of."""
    if (tracing := _tracing()) is not None:
        tracing.fail(tracing.api.get_current_span(), error)


def trace_id() -> str:
    """The trace that runs here, as 32 hex digits; empty when there is none, or it is not kept."""
    tracing = _tracing()
    if tracing is None:
        return ""
    context = tracing.api.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.trace_flags.sampled else ""


def flush() -> None:
    """Sends the last spans, within _FLUSH_WITHIN_S."""
    if (tracing := _tracing()) is not None:
        tracing.flush()


@functools.cache
def _tracing() -> "_Tracing | None":
    """Decided when it is first asked for, and for good; None: nothing is traced."""
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        return None
    try:
        return _Tracing(endpoint)
    except ImportError as missing:
        logger.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but nothing is traced: install the extra "
            "`tracing` (%s)",
            missing,
        )
        return None


class _Tracing:
    """OpenTelemetry, imported only where it is used."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry import propagate, trace  # noqa: PLC0415 - heavy, and optional
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

        self.api = trace
        self._inject = propagate.inject
        theirs: TracerProvider | trace.TracerProvider = trace.get_tracer_provider()
        self._own = None if isinstance(theirs, TracerProvider) else _provider_to(endpoint)
        provider: trace.TracerProvider = self._own or theirs
        self._tracer = provider.get_tracer("SureshotSDK")
        if self._own is not None:
            atexit.register(self.flush)

    @contextmanager
    def span(self, name: str, kind: "SpanKind", attributes: Mapping[str, str]) -> "Iterator[Span]":
        """A span around a block; an error that leaves the block is the span's."""
        with self._tracer.start_as_current_span(
            name,
            kind=kind,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except Exception as error:
                self.fail(span, error)
                raise

    def fail(self, span: "Span", error: Exception) -> None:
        """Gives the span the error's name and words."""
        reason = error.reason if isinstance(error, PortfolioError) else ""
        span.set_attribute("error.type", reason or type(error).__name__)
        span.set_status(self.api.StatusCode.ERROR, str(error))

    def headers(self) -> Headers:
        """traceparent, and what else is to go with it (tracestate, baggage)."""
        carrier: dict[str, str] = {}
        self._inject(carrier)
        return tuple(carrier.items())

    def flush(self) -> None:
        """Sends what waits; a collector that is away is not waited for."""
        if self._own is not None:
            last = threading.Thread(target=self._own.force_flush, name="last-spans", daemon=True)
            last.start()
            last.join(_FLUSH_WITHIN_S)


def _provider_to(endpoint: str) -> Any:
    """Sends spans to a collector, many at a time, in a thread of its own."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    # They tell of each attempt; _Told tells once.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    logging.getLogger("opentelemetry.sdk._shared_internal").setLevel(logging.CRITICAL)
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": _SERVICE}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    told: Any = _Told(OTLPSpanExporter(endpoint), endpoint)
    provider.add_span_processor(BatchSpanProcessor(told))
    return provider


class _Told:
    """An exporter that logs once when the collector is away, and once when it is back."""

    def __init__(self, exporter: Any, endpoint: str) -> None:
        self._exporter = exporter
        self._collector = urlsplit(endpoint).netloc.rpartition("@")[2] or endpoint
        self._is_away = False

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
        """Sends spans; called by one thread at a time."""
        result: SpanExportResult = self._exporter.export(spans)
        is_away = result.name != "SUCCESS"
        if is_away and not self._is_away:
            logger.warning("traces cannot be sent to %s; trading goes on", self._collector)
        elif self._is_away and not is_away:
            logger.info("traces are sent to %s again", self._collector)
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        """Ends the connection, and an attempt that is under way."""
        self._exporter.shutdown()
