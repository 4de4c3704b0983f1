"""The watch: a thread that reads every strategy's portfolio from the router as it changes."""

import threading
from collections.abc import Callable
from decimal import Decimal

import grpc

from efficientfrontier.v1 import (
    book_pb2,
    portfolio_service_pb2,
    portfolio_service_pb2_grpc,
    position_service_pb2,
    position_service_pb2_grpc,
)
from services.mesh.board import Portfolio

RETRY_S = 1.0
READ_S = 5.0


class Watch:
    """Calls `on_portfolio`, in its own thread, with each portfolio; survives the router."""

    def __init__(self, address: str, on_portfolio: Callable[[Portfolio], None]) -> None:
        self._channel = grpc.insecure_channel(address)
        self._portfolios = portfolio_service_pb2_grpc.PortfolioServiceStub(self._channel)
        self._positions = position_service_pb2_grpc.PositionServiceStub(self._channel)
        self._on_portfolio = on_portfolio
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch and waits for its thread."""
        self._stopped.set()
        self._channel.close()
        if self._thread.is_alive():
            self._thread.join(timeout=READ_S)

    def _run(self) -> None:
        request = portfolio_service_pb2.WatchPortfoliosRequest()
        while not self._stopped.is_set():
            try:
                for event in self._portfolios.WatchPortfolios(request):
                    if event.HasField("portfolio"):
                        self._on_portfolio(self._read(event.portfolio))
            except (grpc.RpcError, ValueError):  # ValueError: the channel was closed by `stop`
                pass
            self._stopped.wait(RETRY_S)

    def _read(self, message: portfolio_service_pb2.Portfolio) -> Portfolio:
        """The portfolio with what it holds."""
        holdings = self._positions.ListPositions(
            position_service_pb2.ListPositionsRequest(strategy_name=message.strategy_name),
            timeout=READ_S,
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


def exact(double: float) -> Decimal:
    """A double of the wire by its shortest decimal text."""
    return Decimal(repr(double))
