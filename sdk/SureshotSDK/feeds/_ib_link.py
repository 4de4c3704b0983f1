"""The link of a feed to IB Gateway: one connection at a time, again and again, and what it gave."""

import asyncio
import logging
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from SureshotSDK.feeds._ib_connection import (
    NEW_YORK,
    ClientIdTakenError,
    Connection,
    HistoryError,
    Line,
)
from SureshotSDK.feeds._protocol import Quote

_logger = logging.getLogger("SureshotSDK")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
# An equal request for history within 15 s counts as a violation of the pacing.
_FIRST_HISTORY_PAUSE_S, _LONGEST_HISTORY_PAUSE_S = 15.0, 300.0
_ASK_REFUSED_AGAIN_S = 60.0
_WHOLE_TRADE_S = 0.05


@dataclass(frozen=True)
class IbkrSettings:
    """Where IB Gateway or TWS listens, and the client ids to come with, in the order to try."""

    host: str
    port: int
    client_ids: tuple[int, ...]

    def __str__(self) -> str:
        """The address."""
        return f"{self.host}:{self.port}"


@dataclass
class _History:
    """The closes before a session, and when to ask again if there were too few."""

    session: date
    closes: list[float] = field(default_factory=list)
    asked: int = 0
    ask_at: float = 0.0
    pause_s: float = _FIRST_HISTORY_PAUSE_S


class IbLink:
    """Prices of any US stock, for as long as keep() runs; all on one event loop.

    Nothing here waits longer than `patience_s` for a price, counted from its first being asked for,
    or HISTORY_S for a history. A price is fresh if the last trade was heard of within `max_age_s`.
    """

    def __init__(
        self, library: Any, settings: IbkrSettings, *, patience_s: float, max_age_s: float
    ) -> None:
        self._library = library
        self._settings = settings
        self._patience_s = patience_s
        self._max_age_s = max_age_s
        self._loop = asyncio.get_running_loop()
        self._wait_until = self._loop.time() + patience_s  # for the first connection
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._away = f"IB Gateway at {settings} has not answered yet"
        self._symbols: dict[str, None] = {}
        self._histories: dict[str, _History] = {}

    async def keep(self) -> None:
        """Connects, and connects again after each end, until it is cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            began = self._loop.time()
            why = await self._live()
            self._away = f"IB Gateway at {self._settings} is away, connecting again: {why}"
            if self._loop.time() - began > _LONGEST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def quote(self, symbol: str) -> tuple[Quote | None, str]:
        """The fresh price of the symbol, or why there is none."""
        line = await self._line(symbol)
        if line and self._loop.time() - line.moved < _WHOLE_TRADE_S:
            await asyncio.sleep(_WHOLE_TRADE_S)  # a trade's price and time come one by one
        connection = self._connection
        if line is None or connection is None or connection.ended.done():
            return None, self._away
        if why := connection.outage or line.refused:
            return None, why
        if line.last is None or line.session is None:
            return None, f"Interactive Brokers reports no trade of {symbol}"
        if not line.is_quoted:
            return None, f"the market of {symbol} is closed: there is neither bid nor ask"
        if self._loop.time() - line.moved > self._max_age_s:
            return None, f"{symbol} has not traded for {self._max_age_s:g} s"
        return Quote(line.last, line.session), ""

    async def closes(self, symbol: str, n: int) -> list[float]:
        """The last `n` closes before the symbol's current session, oldest first.

        They are asked for once a session; if there were too few, again after a growing pause.
        """
        line = await self._line(symbol)
        if line is None or n <= 0:
            return []
        session = line.session or datetime.now(NEW_YORK).date()
        history = self._histories.get(symbol)
        if history is None or history.session != session:
            history = self._histories[symbol] = _History(session)
        due = n > history.asked or self._loop.time() >= history.ask_at
        if len(history.closes) < n and due and self._connection is not None:
            await self._ask_history(self._connection, symbol, history, n)
        return history.closes[-n:]

    async def _ask_history(
        self, connection: Connection, symbol: str, history: _History, n: int
    ) -> None:
        try:
            days = 2 * n + 14  # 252 of 365 days have a session
            bars = await connection.daily_closes(symbol, days)
            closes = [close for day, close in bars if day < history.session and close > 0]
            why = f"{len(closes)} of {n} sessions before {history.session}"
        except (HistoryError, ConnectionError) as cause:
            closes, why = [], str(cause)
        history.asked = n
        history.ask_at = self._loop.time() + history.pause_s
        history.pause_s = min(2 * history.pause_s, _LONGEST_HISTORY_PAUSE_S)
        if len(closes) < n:
            _logger.warning("Interactive Brokers gave too little history of %s: %s", symbol, why)
        history.closes = max(closes, history.closes, key=len)

    def delayed(self) -> list[str]:
        """The symbols whose prices are delayed."""
        lines = self._connection.lines.values() if self._connection else ()
        return sorted(line.symbol for line in lines if line.delayed)

    async def _live(self) -> str:
        """One connection from beginning to end; returns why it ended or never began."""
        for client_id in self._settings.client_ids:
            connection = Connection(self._library)
            try:
                await connection.open(self._settings.host, self._settings.port, client_id)
            except ClientIdTakenError as taken:
                _logger.info("IB Gateway at %s: %s, trying the next.", self._settings, taken)
                continue
            except (OSError, TimeoutError) as cause:
                return _why_away(cause)
            _logger.info("Connected to IB Gateway at %s as client %d.", self._settings, client_id)
            try:
                return await self._use(connection)
            finally:
                self._connection = None
                self._connected.clear()
                connection.close()
        tried = ", ".join(map(str, self._settings.client_ids))
        return f"all its client ids are in use: {tried}"

    async def _use(self, connection: Connection) -> str:
        for symbol in self._symbols:
            connection.subscribe(symbol)
        self._connection = connection
        self._wait_until = 0.0
        self._connected.set()
        return await connection.watch()

    async def _line(self, symbol: str) -> Line | None:
        """The symbol's line once it has all to make a price, or as it is when patience ends."""
        self._symbols[symbol] = None
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._wait_until):
                await self._connected.wait()
        connection = self._connection
        if connection is None or connection.ended.done():
            return None
        line = connection.lines.get(symbol)
        refused_s = self._loop.time() - line.since if line and line.refused else 0.0
        if line is None or refused_s > _ASK_REFUSED_AGAIN_S:
            connection.subscribe(symbol)
        while True:
            line = connection.lines[symbol]
            with suppress(TimeoutError):
                async with asyncio.timeout_at(line.since + self._patience_s):
                    await line.settled.wait()
            if connection.lines[symbol] is line:  # else another subscription has taken over
                return line


def _why_away(cause: OSError | TimeoutError) -> str:
    if isinstance(cause, ConnectionRefusedError):
        return "nothing listens there; start it, and enable its API on that port"
    if isinstance(cause, socket.gaierror):
        return "there is no host of that name"
    if isinstance(cause, TimeoutError):
        return "it does not answer; see whether it waits for a login"
    return str(cause)
