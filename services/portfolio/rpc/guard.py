"""What stands around every call: admit, parse, validate, run, map errors, count, log.

One interceptor, so that the order is plain and a call pays once. It takes the raw bytes itself:
bytes that are no message (bad UTF-8 in a path, say) are then a clean INVALID_ARGUMENT.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc import aio
from prometheus_client import Counter, Histogram
from protovalidate import Validator, Violation

from services.portfolio.caller import ANONYMOUS, CALLER, METHOD, TRACE_ID
from services.portfolio.rpc.access import rule_of
from services.portfolio.rpc.admission import OPEN, Admission
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.errors import CallError, InvalidFieldError, RequestError, call_error
from services.portfolio.telemetry import tracing

CALLS = Counter("portfolio_calls", "Calls answered.", ["method", "code"])
REFUSED = Counter("portfolio_calls_refused", "Calls that ended in an error.", ["method", "reason"])
SECONDS = Histogram(
    "portfolio_call_seconds",
    "From the first byte read to the answer.",
    ["method"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30),
)
LONGEST_SHOWN = 80  # characters of a wrong value that an error repeats
READS = ("Get", "List", "Watch", "Audit", "ReportPrices")  # logged at DEBUG: they come every tick

log = structlog.get_logger()
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Guard:
    """Stands between a server and the servicers that are added to it."""

    def __init__(self, server: aio.Server, admission: Admission = OPEN) -> None:
        self._server = server
        self._admission = admission
        self._validator = Validator()

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Generated code adds a service twice; the registered form below is the one that counts."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Adds a service with each of its methods guarded."""
        guarded = {name: self._wrap(handler, service, name) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, guarded),)
        )

    def _wrap(self, handler: Handler, service: str, method: str) -> Handler:
        if handler.response_streaming:
            stream: Any = self._guarded_stream(handler, service, method)
            return grpc.unary_stream_rpc_method_handler(
                stream,
                response_serializer=handler.response_serializer,
            )
        call: Any = self._guarded_call(handler, service, method)
        return grpc.unary_unary_rpc_method_handler(
            call, response_serializer=handler.response_serializer
        )

    def _guarded_call(
        self, handler: Handler, service: str, method: str
    ) -> Callable[[bytes, Context], Awaitable[Message]]:
        run: Any = handler.unary_unary  # the stubs know only the synchronous kind
        accept = self._acceptor(handler, service, method)
        answered = CALLS.labels(method, "OK")
        seconds = SECONDS.labels(method)
        full_name = f"{service}/{method}"
        level = logging.DEBUG if method.startswith(READS) else logging.INFO
        is_logged = log.is_enabled_for(level)

        async def call(raw: bytes, context: Context) -> Message:
            began = time.perf_counter()
            tracing.begin(full_name, take_up_trace(context))
            try:
                answer: Message = await run(accept(raw, context), context)
            except Exception as error:
                await fail(error, method, context)
                raise  # fail() has ended the call; this is never reached
            except asyncio.CancelledError:  # its caller has gone
                tracing.end("CANCELLED")
                raise
            took_s = time.perf_counter() - began
            tracing.end("OK")
            answered.inc()
            seconds.observe(took_s)
            if is_logged:
                ms = round(took_s * 1e3, 2)
                log.log(level, "call", method=method, request=request_id(context), ms=ms)
            return answer

        return call

    def _guarded_stream(
        self, handler: Handler, service: str, method: str
    ) -> Callable[[bytes, Context], AsyncIterator[Message]]:
        run: Any = handler.unary_stream
        accept = self._acceptor(handler, service, method)

        async def stream(raw: bytes, context: Context) -> AsyncIterator[Message]:
            # A watch lasts for hours: its lines tell the trace, but it is no span.
            take_up_trace(context)
            try:
                # Headers at once, so that a caller knows it is watching before anything happens.
                request = accept(raw, context)
                await context.send_initial_metadata(())
                log.info("watch", method=method, request=request_id(context))
                async for message in run(request, context):
                    yield message
                CALLS.labels(method, "OK").inc()
            except Exception as error:  # noqa: BLE001 - the outermost guard, as above
                await fail(error, method, context)

        return stream

    def _acceptor(
        self, handler: Handler, service: str, method: str
    ) -> Callable[[bytes, Context], Message]:
        """Bytes to a message that its caller may send, and that keeps the contract's rules.

        What can be told of the caller alone is told first: it is cheap, and whoever is refused
        learns nothing of the message.
        """
        admit = self._admission.admit
        rule = rule_of(service, method)
        deserialize: Any = handler.request_deserializer
        validate = self._validator.collect_violations

        def accept(raw: bytes, context: Context) -> Message:
            CALLER.set(ANONYMOUS)  # whoever is not let in is not the router
            caller = admit(context)
            CALLER.set(caller)
            METHOD.set(method)
            if caller.role is not None:
                rule.require_role(caller)
            try:
                request: Message = deserialize(raw)
            except DecodeError:
                raise RequestError from None
            if caller.role is not None:
                rule.require_own(caller, request)
            violations = validate(request)
            if violations:
                raise InvalidFieldError(*map(described, violations))
            return request

        return accept


async def fail(error: Exception, method: str, context: Context) -> None:
    """Ends the call with what its caller may know; logs the rest."""
    if isinstance(error, aio.AbortError):  # ended already
        raise error
    request = request_id(context)
    told: CallError = call_error(error, request)
    CALLS.labels(method, told.code.name).inc()
    REFUSED.labels(method, told.reason).inc()
    tracing.end(told.code.name, told.reason)
    if told.code is grpc.StatusCode.INTERNAL:
        log.error("fault", method=method, request=request, exc_info=error)
    else:
        log.info("refused", method=method, request=request, reason=told.reason, why=told.message)
    await context.abort(told.code, told.message, told.trailing_metadata())


def take_up_trace(context: Context) -> tracing.Parent | None:
    """Goes on with the caller's trace, in logs and facts too; None: there is none."""
    parent, state = "", ""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            parent = str(value)
        elif key == "tracestate":
            state = str(value)
    taken = tracing.parent_of(parent, state) if parent else None
    if taken is not None:
        TRACE_ID.set(taken.trace_id)
    return taken


def request_id(context: Context) -> str:
    """The id that Envoy, or the caller, gave this call; empty when there is none."""
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id":
            return str(value)
    return ""


NAME = "1 to 64 of A-Z a-z 0-9 _ . - beginning with a letter"
SYMBOL = "1 to 16 of A-Z 0-9 . - beginning with a letter or digit, such as SPXL"
# The patterns of the contract, for people.
PATTERNS = {
    "^[A-Za-z][A-Za-z0-9_.-]{0,63}$": NAME,
    "^([A-Za-z][A-Za-z0-9_.-]{0,63})?$": f"empty, or {NAME}",
    "^[A-Z0-9][A-Z0-9.-]{0,15}$": SYMBOL,
    "^([A-Z0-9][A-Z0-9.-]{0,15})?$": f"empty, or {SYMBOL}",
    r"^[^\x00]*$": "without NUL characters",
    "^[A-Za-z0-9_.:-]{0,64}$": "at most 64 of A-Z a-z 0-9 _ . : -",
    "^([0-9]{4}-[0-9]{2}-[0-9]{2})?$": "empty, or a date as YYYY-MM-DD",
    "^([0-9a-f-]{36})?$": "empty, or a UUID in lower case",
    "^[a-z.]{0,32}$": "at most 32 of a-z .",
}


def described(violation: Violation) -> tuple[str, str]:
    """A broken rule as the field's path and what is wrong with it, for a person."""
    path = ""
    assert violation.proto.field is not None  # noqa: S101 - every rule of the contract is a field's
    for element in violation.proto.field.elements:
        path += f".{element.field_name}" if path else element.field_name
        index = element.subscript
        if index is not None and getattr(index, "field", None) == "index":
            path += f"[{index.value}]"
    what = str(violation.proto.message)
    if violation.proto.rule_id == "string.pattern":
        what = f"must be {PATTERNS[violation.rule_value]}"
    value = violation.field_value
    if isinstance(value, str | float | int) and len(str(value)) <= LONGEST_SHOWN:
        what += f"; it is {value!r}" if value != "" else "; it is empty"
    return path, what
