"""One client's connection: the handshake, then each request to its handler."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol

from services.gateway import messages, prices
from services.gateway.exchange import Exchange
from services.gateway.intake import RefusedError, check_order, instrument_of, read_ticket
from services.gateway.market import Instrument, Market, MarketData
from services.gateway.records import BY_HAND, Execution, Order, Outcome, Ticket
from services.gateway.scripts import NOTICES
from services.gateway.stage import Stage
from services.gateway.wire import FrameReader, WireError

log = logging.getLogger("gateway")
Fields = list[str]


class Desk(Protocol):
    """What a session needs of the gateway it belongs to."""

    account: str
    exchange: Exchange
    stage: Stage
    market: Market
    market_data: MarketData
    is_silent: bool
    arrivals: dict[tuple[int, int], int]

    def join(self, session: "Session") -> None:
        """A connection was made."""

    def admit(self, client_id: int) -> int:
        """Lets a client in and says its next valid order id.

        Raises:
            RefusedError: Its client id is taken.
        """

    def leave(self, session: "Session") -> None:
        """The connection has ended."""


class Session(asyncio.Protocol):
    """A connection. It has a `client_id` once the client has started the API."""

    def __init__(self, desk: Desk) -> None:
        self.client_id: int | None = None
        self.is_open = False
        self._desk = desk
        self._reader = FrameReader()
        self._is_greeted = False
        self._unanswered: list[Fields] = []  # what arrived while the gateway was silent
        self._unsent: list[bytes] = []  # what it would have said meanwhile
        self._data_type = prices.LIVE
        self._streams: dict[int, str] = {}  # market data by request
        self._wants_positions = False
        self._wants_account = False
        self._summaries: dict[int, frozenset[str]] = {}  # tags by request
        self._handlers: dict[int, Callable[[Fields], None]] = {
            1: self._market_data,
            2: self._cancel_market_data,
            3: self._place_order,
            4: self._cancel_order,
            5: self._open_orders,
            6: self._account_updates,
            7: self._executions,
            8: self._ids,
            9: self._contract_details,
            14: self._nothing,  # log level
            15: self._nothing,  # orders made by hand are not bound to a client
            16: self._all_open_orders,
            17: self._managed_accounts,
            20: self._historical_bars,
            25: self._nothing,  # bars are not kept up to date
            49: self._current_time,
            58: self._cancel_all,
            59: self._market_data_type,
            61: self._positions,
            62: self._account_summary,
            63: self._cancel_account_summary,
            64: self._cancel_positions,
            71: self._start,
            76: self._account_updates_multi,
            77: self._nothing,
            99: self._completed_orders,
        }

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it is TCP
        self._transport = transport
        self.is_open = True
        self._desk.join(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """The connection is gone. What was placed while the gateway was silent is lost."""
        self.is_open = False
        for fields in self._unanswered:
            self._lose(fields)
        self._desk.leave(self)

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        arrival_ns = time.monotonic_ns()
        try:
            for fields in self._reader.feed(data):
                self._note_arrival(fields, arrival_ns)
                if self.is_open:
                    self._take(fields)
                else:  # a scenario closed the connection in the middle of what had arrived
                    self._lose(fields)
        except WireError as error:
            log.warning("A connection was closed: %s.", error)
            self.close()

    def send(self, *frames: bytes) -> None:
        """Sends messages, or keeps them while the gateway is silent."""
        if not self.is_open:
            return
        if self._desk.is_silent:
            self._unsent.extend(frames)
        else:
            self._transport.write(b"".join(frames))

    def close(self) -> None:
        """Closes the connection after what was sent; nothing more is read."""
        self.is_open = False
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        self.is_open = False
        self._transport.abort()

    def speak_again(self) -> None:
        """The gateway is no longer silent: answers what came meanwhile."""
        self.send(*self._unsent)
        self._unsent.clear()
        waiting, self._unanswered = self._unanswered, []
        for fields in waiting:
            self._take(fields)

    def _lose(self, fields: Fields) -> None:
        """A message is lost; if it was an order, that is recorded."""
        if fields[0] == "3" and self.client_id is not None:
            with suppress(RefusedError):
                ticket = read_ticket(fields, self._desk.account)
                self._desk.exchange.record(self.client_id, int(fields[1]), ticket, Outcome.LOST)

    # What it subscribed to

    def account_changed(self, symbol: str | None) -> None:
        """The account's figures changed, and the position in a symbol unless it is None."""
        if self._wants_positions and symbol:
            held = self._desk.exchange.account.holding(symbol)
            self.send(messages.position(self._desk.account, symbol, held))
        if self._wants_account:
            self._send_account(*([symbol] if symbol else []))
        for request, tags in self._summaries.items():
            self._send_summary(request, tags)

    def prices_changed(self) -> None:
        """Prices changed."""
        for request, symbol in self._streams.items():
            self._send_ticks(request, symbol)

    # Requests

    def _note_arrival(self, fields: Fields, arrival_ns: int) -> None:
        """Notes when a placeOrder came, before it is read. Its few hundred bytes come in one."""
        if fields[0] == "3" and self.client_id is not None:
            with suppress(ValueError, IndexError):  # one that cannot be read is answered as such
                self._desk.arrivals.setdefault((self.client_id, int(fields[1])), arrival_ns)

    def _take(self, fields: Fields) -> None:
        if self._desk.is_silent:
            self._unanswered.append(fields)
            return
        if not self._is_greeted:
            self._is_greeted = True
            log.debug("A client speaks the versions %s.", fields[0])
            self.send(messages.welcome(_now()))
            return
        try:
            handler = self._handlers.get(int(fields[0]))
            if handler is None:
                text = f"cause - Message {fields[0]} is not simulated."
                text = f"Error validating request.-'bN' : {text}"
                self.send(messages.error(messages.NO_REQUEST, 321, text))
            else:
                handler(fields)
        except (ValueError, IndexError) as wrong:
            log.warning("A message cannot be read: %s (%s).", fields, wrong)
            text = f"Error reading request. {wrong}"
            self.send(messages.error(messages.NO_REQUEST, 320, text))

    def _start(self, fields: Fields) -> None:
        client_id = int(fields[2])
        try:
            first_id = self._desk.admit(client_id)
        except RefusedError as refused:
            self.send(messages.error(messages.NO_REQUEST, refused.code, refused.text))
            self.close()
            return
        self.client_id = client_id
        self.send(messages.managed_accounts(self._desk.account), messages.next_valid_id(first_id))
        for code in (2104, 2106, 2158):
            self.send(messages.error(messages.NO_REQUEST, code, NOTICES[code]))

    def _nothing(self, fields: Fields) -> None:
        """A request that needs no answer."""

    def _managed_accounts(self, _: Fields) -> None:
        self.send(messages.managed_accounts(self._desk.account))

    def _ids(self, _: Fields) -> None:
        self.send(messages.next_valid_id(self._desk.exchange.highest_id(self._client) + 1))

    def _current_time(self, _: Fields) -> None:
        self.send(messages.current_time(_now()))

    # Orders

    def _place_order(self, fields: Fields) -> None:
        desk, order_id = self._desk, int(fields[1])
        try:
            ticket = read_ticket(fields, desk.account)
        except RefusedError as refused:
            self.send(messages.error(order_id, refused.code, refused.text))
            return
        known = desk.exchange.find(self._client, order_id)
        if known and known.ticket == ticket and known.is_working:
            desk.stage.repeat(known)
            return
        try:
            check_order(fields, ticket, desk.account, desk.market)
            self._check_id(order_id, known, ticket)
        except RefusedError as refused:
            desk.stage.refuse(self._client, order_id, ticket, refused.code, refused.text)
        else:
            desk.stage.place(self._client, order_id, ticket)

    def _check_id(self, order_id: int, known: Order | None, ticket: Ticket) -> None:
        if known and known.ticket == ticket:
            raise RefusedError(104, "Cannot modify a filled order.")
        if order_id <= self._desk.exchange.highest_id(self._client):
            raise RefusedError(103, "Duplicate order id")

    def _cancel_order(self, fields: Fields) -> None:
        self._desk.stage.cancel(self._client, int(fields[2]))

    def _cancel_all(self, _: Fields) -> None:
        for order in self._desk.exchange.working:
            self._desk.stage.cancel(order.client_id, order.order_id)

    def _open_orders(self, _: Fields) -> None:
        self._send_open_orders(
            [one for one in self._desk.exchange.working if one.client_id == self._client]
        )

    def _all_open_orders(self, _: Fields) -> None:
        self._send_open_orders(self._desk.exchange.working)

    def _send_open_orders(self, orders: list[Order]) -> None:
        for order in orders:
            self.send(messages.open_order(order), messages.order_status(order))
        self.send(messages.open_orders_end())

    def _completed_orders(self, fields: Fields) -> None:
        api_only = fields[1] == "1"
        for order in self._desk.exchange.completed:
            if not (api_only and order.client_id == BY_HAND):
                self.send(messages.completed_order(order))
        self.send(messages.completed_orders_end())

    def _executions(self, fields: Fields) -> None:
        request, client_id, symbol, side = int(fields[2]), fields[3], fields[6], fields[9]
        for one in self._desk.exchange.todays_executions:
            if client_id not in ("", "0", str(one.client_id)) or symbol not in ("", one.symbol):
                continue
            if side and side[:1] != one.side[:1]:  # BUY, BOT; SELL, SLD
                continue
            self._send_execution(one, request)
        self.send(messages.executions_end(request))

    def _send_execution(self, execution: Execution, request: int) -> None:
        self.send(messages.execution_details(self._desk.account, execution, request))
        if execution.reported:
            self.send(messages.commission_report(execution))

    # The account

    def _positions(self, _: Fields) -> None:
        self._wants_positions = True
        for symbol, held in self._desk.exchange.account.holdings.items():
            if held.quantity:
                self.send(messages.position(self._desk.account, symbol, held))
        self.send(messages.positions_end())

    def _cancel_positions(self, _: Fields) -> None:
        self._wants_positions = False

    def _account_updates(self, fields: Fields) -> None:
        self._wants_account = fields[2] == "1"
        if self._wants_account:
            held = self._desk.exchange.account.holdings
            self._send_account(*(symbol for symbol, one in held.items() if one.quantity))
            self.send(messages.account_download_end(self._desk.account))

    def _account_updates_multi(self, fields: Fields) -> None:
        request = int(fields[2])
        for tag, value, currency in self._figures():
            self.send(
                messages.account_value_multi(request, self._desk.account, tag, value, currency)
            )
        self.send(messages.account_multi_end(request))

    def _account_summary(self, fields: Fields) -> None:
        request, tags = int(fields[2]), frozenset(fields[4].split(","))
        self._summaries[request] = tags
        self._send_summary(request, tags)
        self.send(messages.account_summary_end(request))

    def _cancel_account_summary(self, fields: Fields) -> None:
        self._summaries.pop(int(fields[2]), None)

    def _send_account(self, *symbols: str) -> None:
        desk = self._desk
        for tag, value, currency in self._figures():
            self.send(messages.account_value(desk.account, tag, value, currency))
        for symbol in symbols:
            held, price = desk.exchange.account.holding(symbol), self._last_price(symbol)
            self.send(messages.portfolio_value(desk.account, symbol, held, price))
        self.send(messages.account_time(_now()))

    def _send_summary(self, request: int, tags: frozenset[str]) -> None:
        for tag, value, currency in self._figures():
            if tag in tags or any(one.startswith("$LEDGER") for one in tags):
                self.send(
                    messages.account_summary(request, self._desk.account, tag, value, currency)
                )

    def _figures(self) -> list[tuple[str, str, str]]:
        """Tag, value and currency of each figure of the account."""
        account = self._desk.exchange.account
        worth = sum(
            (one.quantity * self._last_price(symbol) for symbol, one in account.holdings.items()),
            Decimal(0),
        )
        cash = f"{account.cash:.2f}"
        net = f"{account.cash + worth:.2f}"
        return [
            ("AccountType", "INDIVIDUAL", ""),
            ("NetLiquidation", net, "USD"),
            ("TotalCashValue", cash, "USD"),
            ("SettledCash", cash, "USD"),
            ("AvailableFunds", cash, "USD"),
            ("BuyingPower", cash, "USD"),
            ("GrossPositionValue", f"{abs(worth):.2f}", "USD"),
            ("CashBalance", cash, "USD"),
        ]

    def _last_price(self, symbol: str) -> Decimal:
        closes = self._desk.market.closes(symbol)
        return closes[-1].price if closes else Decimal(0)

    # Contracts and prices

    def _contract_details(self, fields: Fields) -> None:
        request = int(fields[2])
        if instrument := self._instrument(request, fields[3:15]):
            self.send(messages.contract_details(request, instrument))
            self.send(messages.contract_details_end(request))

    def _market_data_type(self, fields: Fields) -> None:
        self._data_type = int(fields[2])

    def _market_data(self, fields: Fields) -> None:
        request, is_snapshot = int(fields[2]), fields[-3] == "1"
        instrument = self._instrument(request, fields[3:15])
        if instrument and self._send_ticks(request, instrument.symbol):
            if is_snapshot:
                self.send(messages.snapshot_end(request))
            else:
                self._streams[request] = instrument.symbol

    def _cancel_market_data(self, fields: Fields) -> None:
        self._streams.pop(int(fields[2]), None)

    def _send_ticks(self, request: int, symbol: str) -> bool:
        desk = self._desk
        try:
            kind = prices.data_kind(desk.market_data, self._data_type)
        except RefusedError as refused:
            self.send(messages.error(request, refused.code, refused.text))
            return False
        is_closed = desk.stage.market_is_closed
        closes = desk.market.closes(symbol)
        self.send(*prices.ticks(request, closes, kind, market_is_closed=is_closed))
        return True

    def _historical_bars(self, fields: Fields) -> None:
        request = int(fields[1])
        instrument = self._instrument(request, fields[2:14])
        if instrument is None:
            return
        end, size, duration = fields[15:18]
        try:
            bars = prices.daily_bars(
                request,
                self._desk.market,
                instrument.symbol,
                end=end,
                size=size,
                duration=duration,
            )
        except RefusedError as refused:
            bars = messages.error(request, refused.code, refused.text)
        self.send(bars)

    def _instrument(self, request: int, contract: Fields) -> Instrument | None:
        """The instrument of a contract; where there is none, the client is told."""
        try:
            return instrument_of(contract, self._desk.market)
        except RefusedError as refused:
            self.send(messages.error(request, refused.code, refused.text))
            return None

    @property
    def _client(self) -> int:
        if self.client_id is None:
            raise ValueError("the client has not started the API")
        return self.client_id


def _now() -> datetime:
    return datetime.now(UTC)
