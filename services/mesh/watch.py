"""The watch: threads that read portfolios, and in LIVE orders and the broker, as they change."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal

import grpc

from efficientfrontier.v1 import (
    book_pb2,
    broker_service_pb2,
    broker_service_pb2_grpc,
    order_service_pb2,
    order_service_pb2_grpc,
    portfolio_service_pb2,
    portfolio_service_pb2_grpc,
    position_service_pb2,
    position_service_pb2_grpc,
)
from services.mesh.access import Access
from services.mesh.board import OPEN, Broker, Order, Portfolio

RETRY_S = 1.0
READ_S = 5.0
NEWEST_ORDERS = 200  # read at each beginning, to close the gap
UNHEARD = Broker("NOT KNOWN", "the router does not answer", takes_orders=False)
TOLD_ORDERS = 1000  # remembered, so that no news is told twice


class Watch:
    """Calls `tell`, in its own threads, with each piece of news; survives the router.

    Orders and the broker are news with `live`; on PAPER an order is filled when it is answered.
    """

    def __init__(
        self,
        address: str,
        access: Access,
        tell: Callable[[Portfolio | Order | Broker], None],
        *,
        live: bool,
    ) -> None:
        self._address = address
        self._access = access
        self._channels: set[grpc.Channel] = set()
        self._tell = tell
        self._told: dict[str, Order] = {}
        self._since_s = time.time()
        self._stopped = threading.Event()
        streams = [self._read_portfolios]
        if live:
            streams += [self._read_orders, self._read_broker]
        self._threads = [
            threading.Thread(target=self._run, args=(stream,), name="watch", daemon=True)
            for stream in streams
        ]

    def start(self) -> None:
        """Begins to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the watch and waits for its threads."""
        self._stopped.set()
        for channel in list(self._channels):
            channel.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=READ_S)

    def _run(self, stream: Callable[[grpc.Channel], None]) -> None:
        while not self._stopped.is_set():
            # ValueError: `stop` closed the channel. OSError: certificates are just being replaced.
            with suppress(grpc.RpcError, ValueError, OSError), self._connected() as channel:
                stream(channel)
            self._stopped.wait(RETRY_S)

    @contextmanager
    def _connected(self) -> Iterator[grpc.Channel]:
        """A channel of its own, so that each beginning shows the certificates of its moment."""
        with self._access.channel(self._address) as channel:
            self._channels.add(channel)
            try:
                if self._stopped.is_set():  # too late for `stop` to see it
                    channel.close()
                yield channel
            finally:
                self._channels.discard(channel)

    def _read_portfolios(self, channel: grpc.Channel) -> None:
        portfolios = portfolio_service_pb2_grpc.PortfolioServiceStub(channel)
        request = portfolio_service_pb2.WatchPortfoliosRequest()
        for event in portfolios.WatchPortfolios(request, metadata=self._access.metadata):
            if event.HasField("portfolio"):
                self._tell(self._read(channel, event.portfolio))

    def _read_orders(self, channel: grpc.Channel) -> None:
        orders = order_service_pb2_grpc.OrderServiceStub(channel)
        request = order_service_pb2.WatchOrdersRequest(snapshot_size=NEWEST_ORDERS)
        for event in orders.WatchOrders(request, metadata=self._access.metadata):
            if event.HasField("order"):
                self._tell_order(event.order)

    def _read_broker(self, channel: grpc.Channel) -> None:
        broker = broker_service_pb2_grpc.BrokerServiceStub(channel)
        request = broker_service_pb2.WatchBrokerRequest()
        try:
            for event in broker.WatchBroker(request, metadata=self._access.metadata):
                if event.HasField("broker"):
                    self._tell(broker_of(event.broker))
        except grpc.RpcError:
            if not self._stopped.is_set():
                self._tell(UNHEARD)
            raise

    def _tell_order(self, message: order_service_pb2.Order) -> None:
        """Tells of an order that has changed; not of one that ended before the watch began."""
        order = order_of(message)
        before = self._told.pop(order.order_id, None)
        is_old = before is None and message.update_time.ToSeconds() < self._since_s - 1
        self._told[order.order_id] = order
        if len(self._told) > TOLD_ORDERS:
            del self._told[next(iter(self._told))]
        if order != before and not (is_old and order.status not in OPEN):
            self._tell(order)

    def _read(self, channel: grpc.Channel, message: portfolio_service_pb2.Portfolio) -> Portfolio:
        """The portfolio with what it holds."""
        holdings = position_service_pb2_grpc.PositionServiceStub(channel).ListPositions(
            position_service_pb2.ListPositionsRequest(strategy_name=message.strategy_name),
            timeout=READ_S,
            metadata=self._access.metadata,
        )
        return Portfolio(
            strategy_name=message.strategy_name,
            mode=book_pb2.Book.Mode.Name(message.mode),
            cash=exact(message.cash),
            equity=exact(message.equity),
            pnl=exact(message.realized_pnl) + exact(message.unrealized_pnl),
            halted=message.state == portfolio_service_pb2.Portfolio.HALTED,
            holdings=tuple(
                (held.symbol, exact(held.quantity))
                for held in holdings.positions
                if held.mode == message.mode
            ),
        )


def order_of(message: order_service_pb2.Order) -> Order:
    """An order of the wire."""
    return Order(
        order_id=message.order_id,
        strategy_name=message.strategy_name,
        side=order_service_pb2.Order.Side.Name(message.side),
        quantity=exact(message.quantity),
        symbol=message.symbol,
        status=order_service_pb2.Order.Status.Name(message.status),
        filled=exact(message.filled_quantity),
        average_price=exact(message.average_fill_price),
        reason=message.reason,
    )


def broker_of(message: broker_service_pb2.Broker) -> Broker:
    """The broker of the wire."""
    kind = broker_service_pb2.Broker
    return Broker(
        state=kind.State.Name(message.state),
        detail=message.detail,
        takes_orders=message.takes_orders,
        account=message.account,
        account_kind=kind.AccountKind.Name(message.account_kind),
        market_data=kind.MarketData.Name(message.market_data),
    )


def exact(double: float) -> Decimal:
    """A double of the wire by its shortest decimal text."""
    return Decimal(repr(double))
