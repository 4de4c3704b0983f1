"""The router's methods as Python methods: what a client offers, whoever answers.

PortfolioClient sends the calls to a router; SureshotSDK.testing.InMemoryPortfolio answers them
itself. Both inherit these methods, so that they cannot differ. AsyncPortfolioClient has the same
methods, to be awaited.

Prices and quantities are numbers in USD and shares, up to 8 decimals; answers are the messages of
efficientfrontier.v1. Every method raises the errors of SureshotSDK.errors. A mutation makes its
own request_id unless one is given; give one to repeat a call across restarts.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from datetime import date

from efficientfrontier.v1.order_service_pb2 import Order
from efficientfrontier.v1.portfolio_service_pb2 import AuditResponse, Portfolio
from efficientfrontier.v1.position_service_pb2 import Position
from SureshotSDK import _calls
from SureshotSDK._calls import Answer, Call, ModeWord, Number, SideWord, StatusWord

WATCH_FOR_S = 3600.0


class PortfolioInterface(ABC):
    """Every method of the router."""

    @abstractmethod
    def _unary(self, call: Call[Answer]) -> Answer:
        """Answers one call."""

    @abstractmethod
    def _stream(self, call: Call[Answer], for_s: float) -> Iterator[Answer]:
        """Yields the events of a streaming call for at most `for_s` seconds."""

    def buy_all(
        self, strategy_name: str, symbol: str, price: Number, *, request_id: str | None = None
    ) -> Order:
        """Buys as many whole shares as the strategy's free cash allows at `price`.

        Raises: RefusedError (not enough for one share; halted), NotFoundError.
        """
        return self._unary(_calls.buy_all(strategy_name, symbol, price, request_id))

    def sell_all(
        self, strategy_name: str, symbol: str, price: Number, *, request_id: str | None = None
    ) -> Order:
        """Sells all that the strategy holds of `symbol` at `price`.

        Raises: RefusedError (nothing to sell; halted), NotFoundError.
        """
        return self._unary(_calls.sell_all(strategy_name, symbol, price, request_id))

    def create_order(
        self,
        strategy_name: str,
        symbol: str,
        side: SideWord,
        quantity: Number,
        price: Number,
        *,
        request_id: str | None = None,
    ) -> Order:
        """Places an order for `quantity` shares.

        Raises: RefusedError (too little cash, too few shares; halted), NotFoundError.
        """
        return self._unary(
            _calls.create_order(strategy_name, symbol, side, quantity, price, request_id)
        )

    def get_order(self, order_id: str) -> Order:
        """Reads one order. Raises: NotFoundError."""
        return self._unary(_calls.get_order(order_id))

    def list_orders(
        self,
        *,
        strategy_name: str = "",
        symbol: str = "",
        status: StatusWord | None = None,
        page_size: int = 0,
    ) -> Iterator[Order]:
        """Yields orders, newest first, fetching pages of `page_size` (0: 50) as they are needed."""
        token = ""
        while True:
            page = self._unary(_calls.list_orders(strategy_name, symbol, status, page_size, token))
            yield from page.orders
            token = page.next_page_token
            if not token:
                return

    def update_order_status(
        self,
        order_id: str,
        status: StatusWord,
        *,
        filled_quantity: Number | None = None,
        average_fill_price: Number | None = None,
        commission: Number | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> Order:
        """Changes the status of an open order by hand.

        Raises: RefusedError (illegal change or fill), NotFoundError.
        """
        return self._unary(
            _calls.update_order_status(
                order_id,
                status,
                filled_quantity,
                average_fill_price,
                commission,
                reason,
                request_id,
            )
        )

    def watch_orders(
        self,
        *,
        strategy_name: str = "",
        symbol: str = "",
        snapshot_size: int = 0,
        for_s: float = WATCH_FOR_S,
    ) -> Iterator[Order]:
        """Yields orders as they are created and change, for `for_s` seconds.

        It begins with the newest `snapshot_size` orders. Raises: UnavailableError, when the router
        goes away or ends the stream: watch again, with a snapshot to close the gap.
        """
        call = _calls.watch_orders(strategy_name, symbol, snapshot_size)
        return map(_calls.order_in, self._stream(call, for_s))

    def set_position(
        self,
        strategy_name: str,
        symbol: str,
        quantity: Number,
        average_cost: Number,
        *,
        reason: str = "",
        request_id: str | None = None,
    ) -> Position:
        """Creates a position or sets it by hand; cash stays as it is. Raises: NotFoundError."""
        return self._unary(
            _calls.set_position(strategy_name, symbol, quantity, average_cost, reason, request_id)
        )

    def assign_position(
        self,
        strategy_name: str,
        symbol: str,
        quantity: Number = 0,
        average_cost: Number = 0,
        *,
        reason: str = "",
        request_id: str | None = None,
    ) -> Position:
        """Says whose UNATTRIBUTED shares are: a strategy's, or with "UNATTRIBUTED" nobody's.

        Below 0, `quantity` takes shares from a strategy; LIVE alone has any to assign.
        Raises: NotFoundError, RefusedError.
        """
        return self._unary(
            _calls.assign_position(
                strategy_name, symbol, quantity, average_cost, reason, request_id
            )
        )

    def list_positions(
        self, *, strategy_name: str = "", symbol: str = "", page_size: int = 0
    ) -> Iterator[Position]:
        """Yields open positions by strategy, then symbol, fetching pages as they are needed."""
        token = ""
        while True:
            page = self._unary(_calls.list_positions(strategy_name, symbol, page_size, token))
            yield from page.positions
            token = page.next_page_token
            if not token:
                return

    def delete_position(
        self, position_id: str, *, reason: str = "", request_id: str | None = None
    ) -> None:
        """Removes a position by hand; no cash is paid for it. Raises: NotFoundError."""
        self._unary(_calls.delete_position(position_id, reason, request_id))

    def upsert_portfolio(
        self,
        strategy_name: str,
        *,
        cash: Number | None = None,
        requested_mode: ModeWord | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> Portfolio:
        """Creates a strategy, or changes what is given. Cash is set, not added."""
        return self._unary(
            _calls.upsert_portfolio(strategy_name, cash, requested_mode, reason, request_id)
        )

    def list_portfolios(self) -> list[Portfolio]:
        """Every strategy, by name."""
        return list(self._unary(_calls.list_portfolios()).portfolios)

    def get_portfolio(self, strategy_name: str) -> Portfolio:
        """One strategy's cash, equity, mode and state. Raises: NotFoundError."""
        return self._unary(_calls.get_portfolio(strategy_name))

    def invested(self, strategy_name: str) -> bool:
        """Whether the strategy holds any shares. Raises: NotFoundError."""
        return self._unary(_calls.get_invested(strategy_name)).invested

    def halt(
        self, strategy_name: str, *, reason: str = "", request_id: str | None = None
    ) -> Portfolio:
        """Stops a strategy from placing orders. Raises: NotFoundError."""
        return self._unary(_calls.halt(strategy_name, reason, request_id))

    def resume(self, strategy_name: str, *, request_id: str | None = None) -> Portfolio:
        """Lets a halted strategy place orders again. Raises: NotFoundError."""
        return self._unary(_calls.resume(strategy_name, request_id))

    def report_prices(
        self, strategy_name: str, prices: Mapping[str, Number], *, session: date | None = None
    ) -> None:
        """Tells the router prices by symbol, 1 to 100 of them, and the session they are of.

        The first prices of a later session close the one before. Without a session they are of
        today, or for a strategy that has named sessions, of the last it named.
        Raises: NotFoundError.
        """
        self._unary(_calls.report_prices(strategy_name, prices, session))

    def watch_portfolios(
        self, *, strategy_name: str = "", for_s: float = WATCH_FOR_S
    ) -> Iterator[Portfolio]:
        """Yields every strategy as it is now, then each as it changes, for `for_s` seconds.

        Raises: UnavailableError, when the router goes away or ends the stream: watch again.
        """
        call = _calls.watch_portfolios(strategy_name)
        return map(_calls.portfolio_in, self._stream(call, for_s))

    def audit(self) -> AuditResponse:
        """Recomputes every book from the recorded facts and reports each difference."""
        return self._unary(_calls.audit())
