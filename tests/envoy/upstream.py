"""The upstream under test of Envoy: it serves the contract's services by telling what arrived.

    python tests/envoy/upstream.py [PORT]

It prints its port, then answers every method with a message into which the request's fields of the
same name are copied. What arrived is told in the headers: x-echo-method, x-echo-request (JSON),
x-echo-metadata (JSON), x-echo-port, and x-echo-seconds-left (the deadline). A few strategy names
ask for something else:

    Broke    FAILED_PRECONDITION with an ErrorInfo
    Stuck    no answer before somebody calls ResumeStrategy here
    Huge     an answer of 5 MiB
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import grpc
from google.api import httpbody_pb2
from google.protobuf import any_pb2, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from efficientfrontier.v1 import (
    allocation_service_pb2,
    broker_service_pb2,
    equity_service_pb2,
    mutation_service_pb2,
    order_service_pb2,
    page_service_pb2,
    portfolio_service_pb2,
    position_service_pb2,
    promotion_service_pb2,
    risk_service_pb2,
)

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (order_service_pb2, "OrderService"),
        (position_service_pb2, "PositionService"),
        (portfolio_service_pb2, "PortfolioService"),
        (broker_service_pb2, "BrokerService"),
        (equity_service_pb2, "EquityService"),
        (risk_service_pb2, "RiskService"),
        (allocation_service_pb2, "AllocationService"),
        (promotion_service_pb2, "PromotionService"),
        (page_service_pb2, "PageService"),
        (mutation_service_pb2, "MutationService"),
    )
)
PAGE = b"<title>a page</title>"
Context = grpc.aio.ServicerContext[Message, Message]


class Echo:
    """One replica: what it is asked to wait for, and how each method answers."""

    def __init__(self) -> None:
        self.port = 0
        self.released = asyncio.Event()

    def handlers(self, service: ServiceDescriptor) -> grpc.GenericRpcHandler:
        """A handler for each method of `service`, unary and server-streaming."""
        return grpc.method_handlers_generic_handler(
            service.full_name, {method.name: self.handler(method) for method in service.methods}
        )

    def handler(self, method: MethodDescriptor) -> "grpc.RpcMethodHandler[Message, Message]":
        """How one method is served."""
        request_class = message_factory.GetMessageClass(method.input_type)
        make = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )

        async def unary(request: Message, context: Context) -> Message:
            return await self.answer(method, request, context)

        async def stream(request: Message, context: Context) -> AsyncIterator[Message]:
            async for event in self.events(method, request, context):
                yield event

        return make(
            stream if method.server_streaming else unary,
            request_deserializer=request_class.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    async def answer(self, method: MethodDescriptor, request: Message, context: Context) -> Message:
        """Answers a unary call."""
        if method.name == "ResumeStrategy":
            self.released.set()
        await self.tell(method, request, context)
        return echo(method, request)

    async def events(
        self, method: MethodDescriptor, request: Message, context: Context
    ) -> AsyncIterator[Message]:
        """Streams one event at once, and the end of the stream when it is released."""
        await self.tell(method, request, context)
        event = message_factory.GetMessageClass(method.output_type)()
        first = event.DESCRIPTOR.fields[0]
        copy_fields(request, getattr(event, first.name))
        getattr(event, first.name).SetInParent()
        yield event
        await self.released.wait()
        end = message_factory.GetMessageClass(method.output_type)()
        end.end.code = 14  # type: ignore[attr-defined]
        yield end

    async def tell(self, method: MethodDescriptor, request: Message, context: Context) -> None:
        """Sends what arrived as headers; waits or fails where the strategy's name asks for it."""
        strategy_name = getattr(request, "strategy_name", "")
        if strategy_name == "Broke":
            await fail(context)
        if strategy_name == "Stuck" and method.name != "ResumeStrategy":
            await self.released.wait()
        metadata = {
            key: value if isinstance(value, str) else value.hex()
            for key, value in context.invocation_metadata() or ()
        }
        fields = json_format.MessageToDict(request, preserving_proto_field_name=True)
        await context.send_initial_metadata(
            (
                ("x-echo-method", method.full_name),
                ("x-echo-request", json.dumps(fields)[:4096]),  # headers are bounded
                ("x-echo-metadata", json.dumps(metadata)),
                ("x-echo-port", str(self.port)),
                ("x-echo-seconds-left", str(context.time_remaining())),
            )
        )


def echo(method: MethodDescriptor, request: Message) -> Message:
    """The method's answer: the fields it shares with the request, the rest unset."""
    answer = message_factory.GetMessageClass(method.output_type)()
    copy_fields(request, answer)
    if getattr(request, "strategy_name", "") == "Huge":
        answer.reason = "x" * 5 * 1024 * 1024  # type: ignore[attr-defined]
    if isinstance(answer, httpbody_pb2.HttpBody):
        answer.content_type, answer.data = "text/html", PAGE
    return answer


def copy_fields(source: Message, target: Message) -> None:
    """Copies the single fields that both messages have under the same name and type."""
    for field, value in source.ListFields():
        twin = target.DESCRIPTOR.fields_by_name.get(field.name)
        if twin and twin.type == field.type and field.message_type is None:
            setattr(target, field.name, value)


async def fail(context: Context) -> None:
    """Fails as the router does: a status with one ErrorInfo in its details."""
    message = "Buying 10 SPXL needs 1505.00 USD; 12.00 USD is free."
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.ErrorInfo(
            reason="INSUFFICIENT_CASH", domain="efficientfrontier", metadata={"free": "12.00"}
        )
    )
    status = status_pb2.Status(code=9, message=message, details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)


async def serve(port: int) -> None:
    """Serves on 127.0.0.1 until the process is ended."""
    replica = Echo()
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers([replica.handlers(service) for service in SERVICES])
    health_servicer = health.aio.HealthServicer()
    await health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    names = [service.full_name for service in SERVICES]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME], server)
    replica.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(replica.port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
