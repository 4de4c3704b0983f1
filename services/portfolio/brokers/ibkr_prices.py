"""Last prices of symbols, each from a stream that stays open while the symbol is in use."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

import structlog

from services.portfolio.brokers.ibkr_connection import Connection
from services.portfolio.brokers.ibkr_words import is_warning, plain_words, price, symbol_to_wire
from services.portfolio.domain.money import rounded

MOST_SYMBOLS = 90  # IB serves 100 streams to an ordinary account
FIRST_PRICE_WITHIN_S = 3.0

# https://interactivebrokers.github.io/tws-api/tick_types.html
_TICKS = {1: "bid", 2: "ask", 4: "last", 9: "close"}
_STAND_STILL = frozenset({1100, 1101, 2103, 10197})  # what streams said last is not today's price

log = structlog.get_logger()


@dataclass(slots=True)
class Quote:
    """What a stream has said last, in USD."""

    number: int  # of the stream
    wait_until: float  # in the loop's time: no one waits for a first price after it
    bid: Decimal | None = None
    ask: Decimal | None = None
    last: Decimal | None = None
    close: Decimal | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # there is nothing to wait for
    stands_still: bool = False  # it is asked for anew, unless a price comes

    def hears(self, what: str, usd: float) -> None:
        """A price has come."""
        setattr(self, what, price(usd))
        self.stands_still = False
        if self.last is not None:
            self.settled.set()

    def stop(self) -> None:
        """What was heard does not count any more."""
        self.bid = self.ask = self.last = self.close = None
        self.stands_still = True
        self.settled.set()

    def price(self) -> Decimal | None:
        """The last trade's; else between bid and ask; else yesterday's close."""
        if self.last is not None:
            return self.last
        if self.bid is not None and self.ask is not None:
            return rounded((self.bid + self.ask) / 2)
        return self.close


class Prices:
    """The streams of one connection."""

    def __init__(self) -> None:
        self._quotes: dict[str, Quote] = {}  # the least recently asked for first
        self._symbol_of: dict[int, str] = {}
        self._opening = asyncio.Lock()  # two calls for a symbol share one stream

    async def last(self, connection: Connection, symbol: str) -> Decimal | None:
        """The price of a symbol; None when none has come in time.

        Raises:
            LineError: The connection is gone.
        """
        async with self._opening:
            quote = self._quotes.get(symbol)
            if quote is None or quote.stands_still:
                quote = await self._opened(connection, symbol)
            self._quotes.pop(symbol, None)
            self._quotes[symbol] = quote
        with suppress(TimeoutError):
            async with asyncio.timeout_at(quote.wait_until):
                await quote.settled.wait()
        return quote.price()

    def tick(self, number: int, kind: int, usd: float, _size: float) -> None:
        """A price has come."""
        quote = self._quotes.get(self._symbol_of.get(number, ""))
        if quote is not None and kind in _TICKS:
            quote.hears(_TICKS[kind], usd)

    def error(self, number: int, code: int, text: str) -> bool:
        """An error has come; returns whether it was about one stream and nothing else."""
        if code in _STAND_STILL:
            for quote in self._quotes.values():
                quote.stop()
        if number not in self._symbol_of or is_warning(code):
            return False
        symbol = self._symbol_of.pop(number)
        if quote_of_it := self._quotes.pop(symbol, None):
            quote_of_it.stop()
        log.info("broker_has_no_price", symbol=symbol, code=code, message=plain_words(text))
        return code not in _STAND_STILL

    def forget(self) -> None:
        """The streams are gone; nobody has to wait for them."""
        for quote in self._quotes.values():
            quote.stop()
        self._quotes.clear()
        self._symbol_of.clear()

    async def _opened(self, connection: Connection, symbol: str) -> Quote:
        """A new stream, in place of a broken one, or of the one not asked for longest."""
        client = connection.client
        ending = symbol if symbol in self._quotes else next(iter(self._quotes), "")
        if ending and (ending == symbol or len(self._quotes) >= MOST_SYMBOLS):
            await connection.until_room()
            old = self._quotes.pop(ending)
            self._symbol_of.pop(old.number, None)
            connection.write(partial(client.cancelMktData, old.number))
        await connection.until_room()
        number = connection.new_number()
        contract = connection.library.Stock(symbol_to_wire(symbol), "SMART", "USD")
        connection.write(partial(client.reqMktData, number, contract, "", False, False, []))
        self._symbol_of[number] = symbol
        return Quote(number, asyncio.get_running_loop().time() + FIRST_PRICE_WITHIN_S)
