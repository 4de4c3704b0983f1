"""A gRPC server that does nothing: what grpc.aio on uvloop can do at most in one process.

    python -m benchmarks.empty_server PORT

Its one method takes an empty message and returns one: /benchmarks.Empty/Call.
"""

import asyncio
import sys

import grpc
import uvloop

METHOD = "/benchmarks.Empty/Call"


async def serve(port: int) -> None:
    """Answers on the port until the process is ended."""
    server = grpc.aio.server()
    service, method = METHOD.removeprefix("/").split("/")
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        method: grpc.unary_unary_rpc_method_handler(answer)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def answer(_: bytes, __: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """The empty message."""
    return b""


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve(int(sys.argv[1])))
