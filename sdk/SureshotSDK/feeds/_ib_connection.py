# ruff: noqa: N802 - the library calls these methods by the names of its own wrapper
"""One connection to IB Gateway or TWS that reads prices and can do nothing else.

It uses the library's Client, the part that speaks the protocol, and takes the answers itself. The
library's IB class would also ask for the account, positions and executions, would keep the last
price of an old subscription as if it were new, and in ib_insync drops the time of the last trade.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

_logger = logging.getLogger("SureshotSDK")

NEW_YORK = ZoneInfo("America/New_York")
CONNECT_S = 10.0
HISTORY_S = 10.0
SILENCE_S = 20.0

# The broker's numbers of what happened.
_CLIENT_ID_TAKEN = 326
_UNKNOWN_STOCK = 200
_COMPETING_SESSION = 10197
_FARM_BROKEN = 2103
_NOT_SUBSCRIBED = {354, 10089, 10090, 10091, 10168, 10186}
_CONNECTIVITY_LOST = {1100, 2110}
_CONNECTIVITY_BACK = {1101, 1102}
_NOTICES = {10167, *range(2100, 2200)}  # 10167: delayed prices are shown

# Ticks, and the same of delayed prices.
_BID, _ASK, _LAST, _LAST_TIME = {1, 66}, {2, 67}, {4, 68}, {45, 88}
_DELAYED_TICKS = {66, 67, 68}
_DELAYED_IF_NOT_LIVE = 3


class ClientIdTakenError(ConnectionError):
    """Another program is connected under this client id."""


class HistoryError(Exception):
    """Daily prices could not be had; the text says why."""


@dataclass
class Line:
    """What one subscription has told of a symbol; times are the event loop's."""

    symbol: str
    since: float
    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    session: date | None = None
    moved: float = -math.inf
    may_be_delayed: bool = False
    delayed: bool = False
    refused: str = ""
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_whole(self) -> bool:
        """Whether all that makes a price has arrived."""
        return None not in {self.bid, self.ask, self.last, self.session}

    @property
    def is_quoted(self) -> bool:
        """Whether anybody bids or offers: a closed market shows -1 on both sides."""
        return max(self.bid or -1, self.ask or -1) > 0

    def refuse(self, why: str) -> None:
        """Notes why there is no price; the next trade proves otherwise."""
        self.refused = why
        self.settled.set()


@dataclass
class _Bars:
    """The answer to a request for daily prices, while it arrives."""

    done: asyncio.Future[None]
    closes: list[tuple[date, float]] = field(default_factory=list)


class Connection:
    """A connection under one client id, from open() to the future `ended`, which says why.

    `lines` holds the subscription of each symbol; `outage` says what keeps every price away.
    """

    def __init__(self, library: Any) -> None:
        self.lines: dict[str, Line] = {}
        self.outage = ""
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._stock: Callable[..., Any] = library.Stock
        self._client = library.Client(self)
        self._line_of: dict[int, Line] = {}
        self._bars_of: dict[int, _Bars] = {}
        self._delayed_will_do = False
        self._heard = self._loop.time()
        self._id_taken = False

    async def open(self, host: str, port: int, client_id: int) -> None:
        """Connects, with CONNECT_S seconds for the socket and as many for the handshake.

        Raises: ClientIdTakenError; OSError and TimeoutError, when there is no IB Gateway.
        """
        connecting = asyncio.ensure_future(
            self._client.connectAsync(host, port, client_id, CONNECT_S)
        )
        try:
            # A refused client id is only said; the library would wait until its time is over.
            await asyncio.wait({connecting, self.ended}, return_when=asyncio.FIRST_COMPLETED)
            self._check_open(client_id, connecting)
        except BaseException:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            self.close()
            raise

    def _check_open(self, client_id: int, connecting: asyncio.Future[None]) -> None:
        if self._id_taken:
            raise ClientIdTakenError(f"client id {client_id} is in use")
        if connecting.done():
            connecting.result()
        if self.ended.done():
            raise ConnectionError("it closed the connection at once")

    async def watch(self) -> str:
        """Returns, when the connection has ended or nothing answers any more, why."""
        while not self.ended.done():
            await asyncio.wait({self.ended}, timeout=SILENCE_S / 2)
            silent_s = self._loop.time() - self._heard
            if silent_s > SILENCE_S:
                return f"it has said nothing for {SILENCE_S:g} s, not even the time"
            if silent_s > SILENCE_S / 3 and not self.ended.done():
                self._client.reqCurrentTime()
        return self.ended.result()

    def close(self) -> None:
        """Ends the connection and whatever waits for an answer on it."""
        self._end("it was closed")
        self._client.disconnect()

    def subscribe(self, symbol: str) -> Line:
        """Asks for the symbol's prices from now on, anew if it was asked before."""
        for req_id, before in list(self._line_of.items()):
            if before.symbol == symbol:
                del self._line_of[req_id]
                self._client.cancelMktData(req_id)
                before.settled.set()  # who waits for it shall wait for the new one
        line = Line(symbol, since=self._loop.time(), may_be_delayed=self._delayed_will_do)
        req_id = self._client.getReqId()
        self.lines[symbol] = self._line_of[req_id] = line
        self._client.reqMktData(req_id, self._contract(symbol), "", False, False, [])
        return line

    async def daily_closes(self, symbol: str, days: int) -> list[tuple[date, float]]:
        """The closes of about `days` calendar days, today's so far included, oldest first.

        Raises: HistoryError.
        """
        length = f"{days} D" if days <= 365 else f"{math.ceil(days / 365)} Y"
        req_id = self._client.getReqId()
        bars = self._bars_of[req_id] = _Bars(self._loop.create_future())
        try:
            self._client.reqHistoricalData(
                req_id, self._contract(symbol), "", length, "1 day", "TRADES", True, 1, False, []
            )
            async with asyncio.timeout(HISTORY_S):
                await bars.done
        except TimeoutError:
            if not self.ended.done():
                self._client.cancelHistoricalData(req_id)
            raise HistoryError(f"no answer within {HISTORY_S:g} s") from None
        finally:
            del self._bars_of[req_id]
        return bars.closes

    def _contract(self, symbol: str) -> Any:
        # A share class is set off by a blank there: BRK B.
        return self._stock(symbol.replace(".", " "), "SMART", "USD")

    def _end(self, why: str) -> None:
        if self.ended.done():
            return
        self.ended.set_result(why)
        for line in self.lines.values():
            line.settled.set()
        for bars in self._bars_of.values():
            if not bars.done.done():
                bars.done.set_exception(HistoryError(why))

    # What the library's Client calls.

    def connectAck(self) -> None:
        """The handshake is done."""

    def tcpDataArrived(self) -> None:
        """Something was received."""
        self._heard = self._loop.time()

    def setEventsDone(self) -> None:
        """The socket is closed."""
        self._end("it closed the connection")

    def connectionClosed(self) -> None:
        """The socket of a connection that was ready is closed."""

    def priceSizeTick(self, req_id: int, kind: int, price: float, _size: float) -> None:
        """A bid, ask or last price has changed; -1 means that there is none."""
        line = self._line_of.get(req_id)
        if line is None:
            return
        if kind in _BID:
            line.bid = price
            line.delayed = kind in _DELAYED_TICKS
        elif kind in _ASK:
            line.ask = price
        elif kind in _LAST and math.isfinite(price) and price > 0:
            line.last = price
            line.delayed = kind in _DELAYED_TICKS
            self._traded(line)
        if line.is_whole:
            line.settled.set()

    def tickString(self, req_id: int, kind: int, value: str) -> None:
        """The time of the last trade, in seconds since 1970."""
        line = self._line_of.get(req_id)
        if line is None or kind not in _LAST_TIME or int(value) <= 0:  # 0: it is not known
            return
        at = datetime.fromtimestamp(int(value), UTC)
        line.session = at.astimezone(NEW_YORK).date()
        self._traded(line)
        if line.is_whole:
            line.settled.set()

    def _traded(self, line: Line) -> None:
        line.moved = self._loop.time()
        line.refused = self.outage = ""  # prices flow again, whatever was said before

    def historicalData(self, req_id: int, bar: Any) -> None:
        """One day."""
        if bars := self._bars_of.get(req_id):
            day = datetime.strptime(bar.date, "%Y%m%d").replace(tzinfo=NEW_YORK).date()
            bars.closes.append((day, bar.close))

    def historicalDataEnd(self, req_id: int, _first: str, _last: str) -> None:
        """All days have arrived."""
        bars = self._bars_of.get(req_id)
        if bars and not bars.done.done():
            bars.done.set_result(None)

    def error(self, req_id: int, code: int, text: str, _rejection: str = "") -> None:
        """Something to know about a request, or (req_id -1) about everything."""
        if code == _CLIENT_ID_TAKEN:
            self._id_taken = True
            self._end(text)
        elif code in _CONNECTIVITY_LOST:
            self.outage = f"IB Gateway has lost Interactive Brokers ({code}) and tries to get back"
        elif code in _CONNECTIVITY_BACK:
            self.outage = ""
            for symbol in list(self.lines):  # what was last seen may be old: all is asked anew
                self.subscribe(symbol)
        elif code in {_COMPETING_SESSION, _FARM_BROKEN}:
            one = self._line_of.get(req_id)
            for line in [one] if one else self.lines.values():
                line.refuse(_why_no_data(code))
        elif code not in _NOTICES:
            self._refused(req_id, code, text)

    def _refused(self, req_id: int, code: int, text: str) -> None:
        bars, line = self._bars_of.get(req_id), self._line_of.get(req_id)
        if bars and not bars.done.done():
            bars.done.set_exception(HistoryError(f"{text} ({code})"))
        elif line and code in _NOT_SUBSCRIBED and not line.may_be_delayed:
            self._try_delayed(line, code)
        elif line:
            line.refuse(_why_refused(line.symbol, code, text))

    def _try_delayed(self, line: Line, code: int) -> None:
        text = "%s: no subscription to live prices (%d); delayed ones are asked for."
        _logger.warning(text, line.symbol, code)
        if not self._delayed_will_do:
            self._delayed_will_do = True
            self._client.reqMarketDataType(_DELAYED_IF_NOT_LIVE)
        self.subscribe(line.symbol)


def _why_refused(symbol: str, code: int, text: str) -> str:
    if code == _UNKNOWN_STOCK:
        return f"Interactive Brokers knows no US stock {symbol} ({code})"
    if code in _NOT_SUBSCRIBED:
        return (
            f"the account has no market data subscription for {symbol}, and no delayed prices "
            f"({code}): subscribe to it in IBKR's Client Portal"
        )
    return f"{text} ({code})"


def _why_no_data(code: int) -> str:
    if code == _FARM_BROKEN:
        return f"IB Gateway has lost the market data farm ({code}) and tries to get back"
    return (
        f"another session of the same login has the market data ({code}): log out there, "
        "or give the API a user of its own"
    )
