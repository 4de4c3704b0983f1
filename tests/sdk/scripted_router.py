"""A gRPC server on loopback that answers by InMemoryPortfolio, and fails when told to.

The SDK's clients meet a real channel, real deadlines and real trailers here; the real router and
the real Envoy are met in test_portfolio_contract.py.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Self

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2

from efficientfrontier.v1 import order_service_pb2, portfolio_service_pb2, position_service_pb2
from SureshotSDK._calls import Call
from SureshotSDK.errors import PortfolioError
from SureshotSDK.testing import InMemoryPortfolio

MODULES = (order_service_pb2, portfolio_service_pb2, position_service_pb2)


def trailers(
    code: grpc.StatusCode, reason: str, message: str, metadata: Mapping[str, str]
) -> tuple[tuple[str, bytes], ...]:
    """The trailers by which the router sends an ErrorInfo."""
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(
        reason=reason, domain="efficientfrontier", metadata=dict(metadata)
    )
    status.details.add().Pack(info)
    return (("grpc-status-details-bin", status.SerializeToString()),)


class ScriptedRouter(grpc.GenericRpcHandler):
    """Answers every method; `requests` keeps what came, failed attempts included."""

    def __init__(self) -> None:
        self.memory = InMemoryPortfolio()
        self.requests: list[Any] = []
        self.end_streams_with: Any = None
        self._failures: list[tuple[grpc.StatusCode, str, bool]] = []
        self.silent = threading.Event()
        self.port = 0

    def fail(
        self, code: grpc.StatusCode, *, times: int = 1, reason: str = "", after_doing: bool = False
    ) -> None:
        """Fails the next attempts, before or after doing what they ask."""
        self._failures += [(code, reason, after_doing)] * times

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.silent.set()
        self._server.stop(0).wait()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method
        service, _, name = path.lstrip("/").partition("/")
        described = descriptor_pool.Default().FindServiceByName(service)
        method = described.methods_by_name[name]
        request = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        make = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        behaviour = self._stream if method.server_streaming else self._unary
        return make(
            lambda asked, context: behaviour(Call(path, asked, answer), context),
            request.FromString,
            answer.SerializeToString,
        )

    def _unary(self, call: Call[Any], context: grpc.ServicerContext) -> Any:
        self.requests.append(call.request)
        failure = self._failures.pop(0) if self._failures else None
        if failure and not failure[2]:
            self._fail(failure, context)
        try:
            answer = self.memory._unary(call)
        except PortfolioError as error:
            context.set_trailing_metadata(
                trailers(error.code, error.reason, error.message, error.metadata)
            )
            context.abort(error.code, error.message)
        if failure:
            self._fail(failure, context)
        return answer

    def _fail(
        self, failure: tuple[grpc.StatusCode, str, bool], context: grpc.ServicerContext
    ) -> NoReturn:
        code, reason, _ = failure
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self.silent.wait(30)  # says nothing until the client has given up
        if reason:
            context.set_trailing_metadata(trailers(code, reason, "scripted", {}))
        context.abort(code, "scripted")

    def _stream(self, call: Call[Any], context: grpc.ServicerContext) -> Any:
        yield from self.memory._stream(call, 0)
        if self.end_streams_with is not None:
            yield call.answer(end=self.end_streams_with)
            return
        done = threading.Event()
        context.add_callback(done.set)
        done.wait(30)
