"""The broker's line to Interactive Brokers: TWS or IB Gateway, through ib_insync or ib_async.

It places, cancels, asks and listens, and decides nothing: what it hears becomes events and
evidence, and the sender judges them. It lives on the router's own loop; the libraries' synchronous
calls are never used.
"""

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import structlog

from services.portfolio.brokers.ibkr_connection import UNNUMBERED, Connection
from services.portfolio.brokers.ibkr_hearing import About, Answers, Hearing
from services.portfolio.brokers.ibkr_prices import Prices
from services.portfolio.brokers.ibkr_words import symbol_to_wire
from services.portfolio.domain.evidence import BrokerEvent, Evidence
from services.portfolio.domain.order import Order
from services.portfolio.domain.weather import masked
from services.portfolio.live.ports import LineError
from services.portfolio.ports import Clock

TIMEOUT_S = 10.0
_CASH_TAGS = "TotalCashValue,NetLiquidation"
# Ticks of sizes, times and rules belong to prices, and are not read.
_UNREAD = ("tickSize", "tickString", "tickGeneric", "tickReqParams", "marketDataType")

log = structlog.get_logger()


class IbkrLine:
    """The `Line` to one account, under one client id. Made on the loop that uses it."""

    def __init__(
        self,
        host: str,
        port: int,
        client_id: int,
        account: str,
        *,
        clock: Clock,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`timeout_s` bounds the login, and each question of the evidence."""
        # Without a bound: an execution must not be dropped, and only orders sent bring events.
        self.events: asyncio.Queue[BrokerEvent] = asyncio.Queue()
        self._host = host
        self._port = port
        self._client_id = client_id
        self._account = account
        self._clock = clock
        self._timeout_s = timeout_s
        self._hearing = Hearing(client_id, account, self.events)
        self._prices = Prices()
        self._connection: Connection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def connect(self, first_id: int) -> str:
        """Connects, with every id from `first_id` on; returns the account.

        What was said of an earlier connection and has not been read from `events` is dropped.

        Raises:
            LineError: It cannot be reached, or refuses us (a client id in use, another account).
        """
        await self.disconnect()
        self._hearing.forget_line()
        connection = Connection(self._heard(), self._on_end, self._timeout_s)
        try:
            accounts = await connection.open(self._host, self._port, self._client_id)
            _require_one_of(accounts, self._account)
        except BaseException:
            await connection.close()
            raise
        connection.client.updateReqId(first_id)
        self._connection = connection
        log.info("broker_line_open", host=self._host, port=self._port, client_id=self._client_id)
        return self._account

    async def disconnect(self) -> None:
        """Lets go of the line; what was placed and not yet written is dropped."""
        connection, self._connection = self._connection, None
        self._prices.forget()
        if connection is not None:
            await connection.close()

    def room(self) -> int:
        """How many messages may be written now, under IB's 50 a second; 0 without a line.

        Nothing is ever queued here: what has no room is refused.
        """
        connection = self._connection
        return connection.room() if connection and connection.is_open else 0

    def next_order_id(self) -> int:
        """An id that neither an order nor a request of this connection has had.

        Raises:
            LineError: The line is gone.
        """
        return self._present().new_number()

    def place(self, order: Order, broker_order_id: int) -> None:
        """Sends an order, once.

        Raises:
            LineError: The line is gone, there is no room, or the order is not of whole shares: it
                was not sent.
        """
        connection = self._present()
        if order.quantity != order.quantity.to_integral_value():
            raise LineError(
                f"Order {order.order_id} is of {order.quantity} {order.symbol}, and IB's API takes "
                "whole shares only. It was not sent."
            )
        library = connection.library
        contract = library.Stock(symbol_to_wire(order.symbol), "SMART", "USD")
        ticket = library.MarketOrder(
            order.side.value,
            int(order.quantity),
            orderId=broker_order_id,
            orderRef=str(order.order_id),
            account=self._account,
            tif="DAY",  # an order without it may be "cancelled" by a preset, and fill all the same
            outsideRth=False,
            transmit=True,
        )
        connection.write(partial(connection.client.placeOrder, broker_order_id, contract, ticket))
        self._hearing.knows(broker_order_id, str(order.order_id))

    def cancel(self, order: Order, broker_order_id: int) -> None:
        """Asks for an order's cancellation.

        Raises:
            LineError: The line is gone, or there is no room: it was not asked.
        """
        connection = self._present()
        connection.write(partial(connection.client.cancelOrder, broker_order_id))
        self._hearing.knows(broker_order_id, str(order.order_id))

    async def evidence(self) -> Evidence:
        """Asks for open orders, completed orders, executions, positions and cash, in this order.

        An answer that does not come in time also ends the line: the rest of it could not be told
        from the answer to the next question.

        Raises:
            LineError: An answer did not come in time, was refused, or the line is gone.
        """
        async with self._one_at_a_time:
            connection = self._present()
            answers = self._hearing.begin_answers(self._clock())
            try:
                await _ask_everything(connection, answers)
            finally:
                self._hearing.end_answers()
        return answers.evidence()

    async def last_price(self, symbol: str) -> Decimal | None:
        """The broker's last price of a symbol in USD; None when it has none.

        The first call for a symbol waits 3 s at most for a trade; it keeps a stream open, so that
        later ones answer at once.

        Raises:
            LineError: The line is gone.
        """
        return await self._prices.last(self._present(), symbol)

    def _present(self) -> Connection:
        if self._connection is None:
            raise LineError("There is no line to the broker; nothing was sent.")
        return self._connection

    def _heard(self) -> dict[str, Any]:
        return {
            **dict.fromkeys(_UNREAD, _nothing),
            **self._hearing.messages(),
            "priceSizeTick": self._prices.tick,
            "error": self._on_error,
        }

    def _on_error(self, number: int, code: int, text: str) -> None:
        if not self._prices.error(number, code, text):
            self._hearing.error(number, code, text)

    def _on_end(self, why: str) -> None:
        """One that ends before `connect` has returned, or that we let go, is not a line lost."""
        if self._connection is not None:
            self._prices.forget()
            self._hearing.lost(why)


def _require_one_of(accounts: Sequence[str], account: str) -> None:
    if account not in accounts:
        there = ", ".join(masked(one) for one in accounts)
        raise LineError(
            f"Account {masked(account)} is not one of this login, which has {there}. Set "
            "IBKR_ACCOUNT to one of them, or log the gateway in as the right user."
        )


def _nothing(*_: object) -> None:
    """A message that is not read."""


async def _ask_everything(connection: Connection, answers: Answers) -> None:
    """Orders, completed ones placed by hand included; executions since the broker's midnight."""
    client = connection.client

    async def ask(
        about: About, end: str, send: Callable[[], None], number: int = UNNUMBERED
    ) -> None:
        answers.about = about
        await connection.ask(about, end, send, number)

    await ask(About.OPEN_ORDERS, "openOrderEnd", client.reqAllOpenOrders)
    completed = partial(client.reqCompletedOrders, False)
    await ask(About.COMPLETED_ORDERS, "completedOrdersEnd", completed)

    number = answers.executions_number = connection.new_number()
    executions = partial(client.reqExecutions, number, connection.library.ExecutionFilter())
    await ask(About.EXECUTIONS, "execDetailsEnd", executions, number)

    await ask(About.POSITIONS, "positionEnd", client.reqPositions)

    number = connection.new_number()
    summary = partial(client.reqAccountSummary, number, "All", _CASH_TAGS)
    await ask(About.CASH, "accountSummaryEnd", summary, number)
    await connection.until_room()
    # A summary goes on until it is cancelled, and IB allows two.
    connection.write(partial(client.cancelAccountSummary, number))
