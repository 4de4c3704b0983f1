"""What LIVE would be with no ledger: the client library alone, and behind a gRPC call.

    python -m benchmarks.bare_broker PORT GATEWAY_PORT

Calls on PORT become `IB.placeOrder` at once: no reservation, no intent, no check, nothing durable.
PLACE is the router's CreateOrder, and answers with the orderRef as order_id. PLACE_MANY takes a
JSON list [orders, seconds between two] and places them with no gRPC in between; it answers with a
JSON list of [orderRef, when it was placed in nanoseconds of the monotonic clock].
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import uvloop

from efficientfrontier.v1 import order_service_pb2 as orders_pb
from services.portfolio.brokers import ib_library

SERVICE = "benchmarks.BareBroker"
PLACE = f"/{SERVICE}/Place"
PLACE_MANY = f"/{SERVICE}/PlaceMany"
CLIENT_ID = 1
CONNECT_S = 10.0


class BareBroker:
    """The library's `IB`, connected to the gateway on this machine's `gateway_port`."""

    def __init__(self) -> None:
        self._library: Any = ib_library.load()  # the one that the router uses
        self._ib = self._library.IB()
        self._placed = 0

    async def connect(self, gateway_port: int) -> None:
        """Connects."""
        await self._ib.connectAsync("127.0.0.1", gateway_port, CLIENT_ID, CONNECT_S)

    async def place(self, message: bytes, _: object) -> bytes:
        """Places what a CreateOrderRequest asks for."""
        asked = orders_pb.CreateOrderRequest.FromString(message)
        ref = self._place(asked.symbol, orders_pb.Order.Side.Name(asked.side), asked.quantity)
        return orders_pb.Order(order_id=ref).SerializeToString()

    async def place_many(self, message: bytes, _: object) -> bytes:
        """Places so many orders, so many seconds apart."""
        orders, apart_s = json.loads(message)
        placed: list[tuple[str, int]] = []
        begun_s = time.monotonic()
        for number in range(orders):
            await asyncio.sleep(max(0.0, begun_s + number * apart_s - time.monotonic()))
            placed_ns = time.monotonic_ns()
            placed.append((self._place("SPXL", "BUY", 1), placed_ns))
        return json.dumps(placed).encode()

    def _place(self, symbol: str, side: str, quantity: float) -> str:
        self._placed += 1
        ref = f"bare-{self._placed}"
        order = self._library.MarketOrder(side, quantity, orderRef=ref, tif="DAY")
        self._ib.placeOrder(self._library.Stock(symbol, "SMART", "USD"), order)
        return ref


async def serve(port: int, gateway_port: int) -> None:
    """Answers on the port until the process is ended."""
    broker = BareBroker()
    await broker.connect(gateway_port)
    server = grpc.aio.server()
    methods: dict[str, Callable[[bytes, object], Awaitable[bytes]]] = {
        PLACE: broker.place,
        PLACE_MANY: broker.place_many,
    }
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        path.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(method)
        for path, method in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(
        serve(int(sys.argv[1]), int(sys.argv[2]))
    )
