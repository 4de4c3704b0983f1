"""The gateway: a TCP server, its connections, and what one can do to it."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Self

from services.gateway import messages
from services.gateway.exchange import Exchange, Snapshot
from services.gateway.intake import RefusedError
from services.gateway.market import Market, MarketData
from services.gateway.play import price_in
from services.gateway.records import Execution, Order
from services.gateway.scenario import Rule, Rules, Scenario
from services.gateway.scripts import NOTICES
from services.gateway.session import Session
from services.gateway.stage import Stage
from services.gateway.store import Store

CENT = Decimal("0.01")
ROLLED_BACK_BY = 4
log = logging.getLogger("gateway")


class SimulatedGateway:
    """A simulated IB Gateway on `host`:`port` (0: a free one) while its context is open.

    `state` is the file that it goes on from after a kill; without one it forgets all when it ends.
    `cash` in USD counts only for a new state. Market orders fill at the last price, `spread`
    against the trader; `fill_delay_s` later, unless a scenario says otherwise. With `day_s` the
    market's next day begins every so many seconds.
    Raises: StateFileError, OSError when the port is taken.
    """

    def __init__(
        self,
        *,
        market: Market,
        host: str = "127.0.0.1",
        port: int = 0,
        account: str = "DU1000001",
        state: Path | None = None,
        cash: Decimal = Decimal(1_000_000),
        spread: Decimal = CENT,
        fill_delay_s: float = 0.0,
        day_s: float | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.account = account
        self.market = market
        self.market_data = MarketData.SUBSCRIBED
        self.is_silent = False
        # When placeOrders arrived, by client id and order id, on this machine's monotonic clock.
        self.arrivals: dict[tuple[int, int], int] = {}
        self._store = Store(state)
        self._days = self._store.shelf("market", int)
        for day in self._days.all():
            market.go_to(day)
        self.exchange = Exchange(self._store, cash, lambda: datetime.now(UTC))
        self._rules = Rules(fill_delay_s)
        self.stage = Stage(self.exchange, self, self._rules, price_in(market, spread), account)
        self._day_s = day_s
        self._sessions: set[Session] = set()
        self._server: asyncio.Server | None = None
        self._days_pass: asyncio.TimerHandle | None = None
        self._rolled_back_to: int | None = None
        self._is_over = False

    async def __aenter__(self) -> Self:
        """Goes on with the orders of the state, and listens."""
        self.stage.resume()
        try:
            await self._listen()
        except OSError:
            self._store.close()
            raise
        if self._day_s:
            self._days_pass = self._later(self._day_s, self._next_day_in_time)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection and the state."""
        if self._days_pass:
            self._days_pass.cancel()
        self.stage.stop()
        await self.refuse_connections(refuse=True)
        self._is_over = True
        for session in list(self._sessions):
            session.abort()
        await asyncio.sleep(0)  # asyncio tells them that their connections are lost
        self._store.close()

    # What one can do to it

    def set_scenario(
        self,
        name: Scenario | str,
        symbol: str = "",
        times: int = 0,
        *,
        delay_s: float = 0.0,
        held: bool = False,
    ) -> None:
        """Puts a scenario in force for a symbol (empty: all) and `times` orders (0: for ever).

        `delay_s` and `held`: see scenario.Rule. IMMEDIATE_FILL for all and for ever ends the rest.
        """
        self._rules.add(Rule(Scenario(name), symbol, times, delay_s, held))

    def set_price(self, symbol: str, price: Decimal) -> None:
        """Sets a symbol's last price, and streams it."""
        self.market.set_price(symbol, price)
        self._prices_changed()

    def set_market_closed(self, closed: bool) -> None:
        """Closed: nobody bids or asks, and orders wait for the open (399)."""
        if closed:
            self.stage.market_is_closed = True
        else:
            self.stage.open_market()
        self._prices_changed()

    def set_market_data(self, data: MarketData | str) -> None:
        """Sets what market data the account may see; running streams hear of it."""
        self.market_data = MarketData(data)
        self._prices_changed()

    def next_day(self) -> None:
        """The market's next day begins."""
        self.market.go_to(self.market.day + 1)
        self._days.put("day", self.market.day)
        self._prices_changed()

    def notice(self, code: int, message: str = "", req_id: int = -1) -> None:
        """Sends an error message to every client; an empty one is IB's own text, if known."""
        self.tell_all(messages.error(req_id, code, message or NOTICES.get(code, f"Notice {code}")))

    def drop_connections(self) -> None:
        """Breaks every connection; who reconnects is let in."""
        for session in list(self._sessions):
            session.close()

    async def refuse_connections(self, refuse: bool) -> None:
        """Stops listening, or listens again; connections that are open stay."""
        if refuse and self._server:
            self._server.close()
            self._server = None
        elif not refuse and not self._server:
            await self._listen()

    def go_silent(self, silent: bool) -> None:
        """Silent: it accepts connections and bytes and answers nothing, until it speaks again.

        What came meanwhile is then carried out and answered, unless the connection has ended: an
        order placed on it is lost.
        """
        self.is_silent = silent
        if not silent:
            for session in list(self._sessions):
                session.speak_again()

    def release(self, symbol: str = "") -> int:
        """Lets the orders that wait go on to where they next wait; says how many there were."""
        return self.stage.release(symbol)

    def trade_by_hand(self, symbol: str, quantity: Decimal, price: Decimal) -> Execution:
        """A person trades in TWS: `quantity` shares, negative to sell. Nobody's orderRef.

        Raises:
            NotPossibleError: It is no trade.
        """
        execution = self.exchange.trade_by_hand(symbol, quantity, price)
        self.account_changed(symbol)
        return execution

    def fill(self, order: str | int, quantity: Decimal, price: Decimal) -> Order:
        """Fills a part of a working order, by its orderRef or (an int) permId.

        Raises:
            UnknownError: There is no such order.
            NotPossibleError: It has ended or has less open.
        """
        found = self.exchange.named(order)
        self.stage.fill(found, quantity, price)
        return self.exchange.orders[found.perm_id]

    def correct(self, exec_id: str, quantity: Decimal, price: Decimal) -> Execution:
        """Corrects an execution, and tells the client whose it is.

        Raises:
            UnknownError: There is no such execution.
        """
        made = self.exchange.report(self.exchange.correct(exec_id, quantity, price).exec_id)
        details = messages.execution_details(self.account, made)
        self.tell(made.client_id, details, messages.commission_report(made))
        self.account_changed(made.symbol)
        return made

    def roll_back_ids(self, to: int) -> None:
        """The next client that connects is told `to` as its next valid order id."""
        self._rolled_back_to = to

    def forget_executions(self) -> None:
        """Midnight passes: executions and completed orders until now are not served any more."""
        self.exchange.forget_executions()

    def deposit(self, amount: Decimal) -> None:
        """Adds to the cash in USD, or takes away when negative."""
        self.exchange.deposit(amount)
        for session in self._sessions:
            session.account_changed(None)

    def snapshot(self) -> Snapshot:
        """All that the broker knows, and the client ids that are connected."""
        connected = {one.client_id for one in self._sessions if one.is_open}
        return self.exchange.snapshot(sorted(one for one in connected if one is not None))

    # What its sessions and orders need of it

    def join(self, session: Session) -> None:
        """A connection was made."""
        if self._is_over:
            session.abort()
        else:
            self._sessions.add(session)

    def admit(self, client_id: int) -> int:
        """Lets a client in and says its next valid order id.

        Raises:
            RefusedError: Its client id is taken.
        """
        scenario = self._rules.for_connection()
        taken = any(one.client_id == client_id for one in self._sessions if one.is_open)
        if taken or scenario is Scenario.CLIENT_ID_TAKEN:
            log.info("Client %s was refused: its id is in use.", client_id)
            raise RefusedError(
                326,
                "Unable to connect as the client id is already in use. Retry with a unique "
                "client id.",
            )
        log.info("Client %s has connected.", client_id)
        first = self.exchange.highest_id(client_id) + 1
        if self._rolled_back_to is not None:
            first, self._rolled_back_to = self._rolled_back_to, None
        elif scenario is Scenario.ID_ROLLBACK:
            first = max(1, first - ROLLED_BACK_BY)
        return first

    def leave(self, session: Session) -> None:
        """A connection has ended."""
        self._sessions.discard(session)
        if session.client_id is not None:
            log.info("Client %s has gone.", session.client_id)

    def tell(self, client_id: int, *frames: bytes) -> None:
        """Sends to a client, if it is connected."""
        for session in self._sessions:
            if session.client_id == client_id:
                session.send(*frames)

    def tell_all(self, *frames: bytes) -> None:
        """Sends to every client."""
        for session in self._sessions:
            if session.client_id is not None:
                session.send(*frames)

    def drop(self, client_id: int) -> None:
        """Closes a client's connection once what was sent has gone out."""
        for session in self._sessions:
            if session.client_id == client_id:
                session.close()

    def account_changed(self, symbol: str) -> None:
        """Sends the position and the account's figures to those who subscribed to them."""
        for session in self._sessions:
            session.account_changed(symbol)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Session(self), self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _prices_changed(self) -> None:
        for session in self._sessions:
            session.prices_changed()

    def _next_day_in_time(self) -> None:
        assert self._day_s  # noqa: S101 - the timer runs only then
        self.next_day()
        self._days_pass = self._later(self._day_s, self._next_day_in_time)

    def _later(self, seconds: float, what: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, what)
