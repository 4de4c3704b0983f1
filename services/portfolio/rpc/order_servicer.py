"""OrderService: unpack, call one use case, pack."""

from collections.abc import AsyncIterator
from typing import cast

from efficientfrontier.v1 import order_service_pb2 as pb
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceServicer
from services.portfolio import commands
from services.portfolio.commands import Command
from services.portfolio.domain.errors import OrderNotFoundError
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.order import Order
from services.portfolio.ports import OrderFilter
from services.portfolio.router import Router
from services.portfolio.rpc.context import Context
from services.portfolio.rpc.pages import place_of, size_of, token_of
from services.portfolio.rpc.wire import (
    SIDE_OF,
    STATUS_OF,
    decimal_of,
    optional_decimal,
    order_message,
    stream_end,
    uuid_of,
)
from services.portfolio.watching import watch_orders


class OrderServicer(OrderServiceServicer):
    """Orders over gRPC."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def BuyAll(self, request: pb.BuyAllRequest, context: Context) -> pb.Order:
        """Buys as many whole shares as the free cash allows."""
        price = decimal_of(request.price, "price")
        return await self._place(
            commands.BuyAll(request.strategy_name, request.symbol, price, request.request_id)
        )

    async def SellAll(self, request: pb.SellAllRequest, context: Context) -> pb.Order:
        """Sells all that is held of a symbol."""
        price = decimal_of(request.price, "price")
        return await self._place(
            commands.SellAll(request.strategy_name, request.symbol, price, request.request_id)
        )

    async def CreateOrder(self, request: pb.CreateOrderRequest, context: Context) -> pb.Order:
        """Places an order for a named quantity."""
        return await self._place(
            commands.CreateOrder(
                request.strategy_name,
                request.symbol,
                SIDE_OF[request.side],
                decimal_of(request.quantity, "quantity"),
                decimal_of(request.price, "price"),
                request.request_id,
            )
        )

    async def ListOrders(
        self, request: pb.ListOrdersRequest, context: Context
    ) -> pb.ListOrdersResponse:
        """Lists orders, newest first."""
        which = OrderFilter(
            request.strategy_name or None,
            request.symbol or None,
            STATUS_OF.get(request.status),
            request.twins,
        )
        before = place_of(request.page_token, which, uuid_of)
        size = size_of(request.page_size)
        found = await self._router.reads.orders(which, before, size + 1)
        token = token_of([str(found[size - 1].order_id)], which) if len(found) > size else ""
        return pb.ListOrdersResponse(orders=map(order_message, found[:size]), next_page_token=token)

    async def GetOrder(self, request: pb.GetOrderRequest, context: Context) -> pb.Order:
        """Reads one order."""
        order = await self._router.reads.order(uuid_of(request.order_id))
        if order is None:
            raise OrderNotFoundError(request.order_id)
        return order_message(order)

    async def UpdateOrderStatus(
        self, request: pb.UpdateOrderStatusRequest, context: Context
    ) -> pb.Order:
        """Changes the status of an open order by hand."""
        filled, average, commission = (
            optional_decimal(getattr(request, name), name, present=request.HasField(name))
            for name in ("filled_quantity", "average_fill_price", "commission")
        )
        report = Report(STATUS_OF[request.status], filled, average, commission, request.reason)
        return await self._place(
            commands.UpdateOrderStatus(uuid_of(request.order_id), report, request.request_id)
        )

    async def WatchOrders(
        self, request: pb.WatchOrdersRequest, context: Context
    ) -> AsyncIterator[pb.WatchOrdersResponse]:
        """Streams orders as they change."""
        which = OrderFilter(
            request.strategy_name or None, request.symbol or None, twins=request.twins
        )
        watch = watch_orders(self._router.reads, self._router.feed, which, request.snapshot_size)
        async for event in watch:
            if isinstance(event, Order):
                yield pb.WatchOrdersResponse(order=order_message(event))
            else:
                yield pb.WatchOrdersResponse(end=stream_end(event))

    async def _place(self, command: Command) -> pb.Order:
        return order_message(cast("Order", await self._router.writer.submit(command)))
