"""The market: what symbols there are, their last prices and daily closes, on its current day.

Days pass in the market, not on the clock: a recorded day may last five seconds. Only the date of a
last trade says which day it is.
"""

import zlib
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Protocol
from zoneinfo import ZoneInfo

from SureshotSDK.feeds._replay import FIRST, LEVERAGED, STAND_INS, sample_closes

NEW_YORK = ZoneInfo("America/New_York")
LISTED_ON_ARCA = frozenset({"SPXL", "SPY"})
# So many days lie before the first that is shown: enough for an average over a year.
WARM_UP_DAYS = 252


class MarketData(StrEnum):
    """What market data the account may see."""

    SUBSCRIBED = "SUBSCRIBED"
    DELAYED_ONLY = "DELAYED_ONLY"  # error 354 until the client asks for delayed data (type 3)
    UNSUBSCRIBED = "UNSUBSCRIBED"  # error 10089
    COMPETING = "COMPETING"  # error 10197: a session elsewhere took it


@dataclass(frozen=True, slots=True)
class Instrument:
    """A stock or fund, traded in USD."""

    symbol: str

    @property
    def con_id(self) -> int:
        """IB's number of it; here it follows from the symbol."""
        return zlib.crc32(self.symbol.encode()) & 0x7FFF_FFFF

    @property
    def exchange(self) -> str:
        """Where it is listed."""
        return "ARCA" if self.symbol in LISTED_ON_ARCA else "NASDAQ"


@dataclass(frozen=True, slots=True)
class Close:
    """One day's close in USD. The current day's is its last price so far."""

    day: date
    price: Decimal


class Market(Protocol):
    """Where prices come from."""

    @property
    def description(self) -> str:
        """What it is, in a few words."""

    @property
    def day(self) -> int:
        """How many days have passed; kept, so that a restart goes on."""

    def symbols(self) -> Collection[str]:
        """Every symbol that can be traded."""

    def closes(self, symbol: str) -> Sequence[Close]:
        """The symbol's days until the current one, oldest first; empty: unknown symbol."""

    def set_price(self, symbol: str, price: Decimal) -> None:
        """Sets the last price of the current day."""

    def go_to(self, day: int) -> None:
        """Goes to a day, by how many have passed; prices set by hand are gone."""


def last_trade_at(day: date) -> datetime:
    """When the last trade of a market day was made: at its end, or now if that is to come."""
    end = datetime.combine(day, time(15, 59, 59), NEW_YORK)
    return min(end, datetime.now(UTC))


class FixedMarket:
    """Prices set by hand. Each symbol has closes on weekdays that end with `last_day`.

    `prices` gives a symbol's price, or its closes, oldest first. `last_day` is today in New York
    unless given. When days pass, the last price stays.
    """

    description = "fixed prices"

    def __init__(
        self,
        prices: Mapping[str, Decimal | int | str | Sequence[Decimal | int | str]],
        last_day: date | None = None,
    ) -> None:
        self.day = 0
        self._last_day = last_day or datetime.now(NEW_YORK).date()
        self._prices = {
            symbol: [Decimal(one) for one in given]
            if isinstance(given, Sequence) and not isinstance(given, str)
            else [Decimal(given)]
            for symbol, given in prices.items()
        }

    def symbols(self) -> Collection[str]:
        """Those with a price."""
        return self._prices

    def closes(self, symbol: str) -> Sequence[Close]:
        """The given closes, then the last price on each day that has passed since."""
        prices = self._prices.get(symbol)
        if not prices:
            return []
        days = [self._last_day]
        while len(days) < len(prices):
            days.append(_weekday(days[-1], -1))
        days.reverse()
        for _ in range(self.day):
            days.append(_weekday(days[-1], 1))
        shown = [*prices, *prices[-1:] * self.day]
        return [Close(day, price) for day, price in zip(days[-len(shown) :], shown, strict=True)]

    def set_price(self, symbol: str, price: Decimal) -> None:
        """Sets a last price; a new symbol is known from now on."""
        self._prices.setdefault(symbol, [price])[-1] = price

    def go_to(self, day: int) -> None:
        """Lets days pass."""
        self.day = day


class SampleMarket:
    """The recorded days that the SDK's replay feed shows: sample data.

    It begins where a year of closes lies behind, and stays on the last day when it gets there.
    Raises: ValueError, when the package that carries the history is not installed.
    """

    description = "sample data"

    def __init__(self) -> None:
        self.day = 0
        self._days = sorted(day for day in sample_closes("SPY") if day >= FIRST)
        self._series: dict[str, tuple[list[date], list[Close]]] = {}
        self._by_hand: dict[str, Decimal] = {}

    def symbols(self) -> Collection[str]:
        """Those that the sample strategies follow and trade."""
        return [*STAND_INS, *LEVERAGED]

    def closes(self, symbol: str) -> Sequence[Close]:
        """The recorded closes until the current day."""
        if symbol not in self._series:
            recorded = sample_closes(symbol)
            days = sorted(day for day in recorded if day >= FIRST)
            closes = [Close(day, Decimal(repr(recorded[day]))) for day in days]
            self._series[symbol] = (days, closes)
        days, closes = self._series[symbol]
        shown = closes[: bisect_right(days, self._today)]
        if shown and symbol in self._by_hand:
            shown[-1] = Close(shown[-1].day, self._by_hand[symbol])
        return shown

    def set_price(self, symbol: str, price: Decimal) -> None:
        """Sets the last price, until the next day begins."""
        self._by_hand[symbol] = price

    def go_to(self, day: int) -> None:
        """Goes to a recorded day."""
        self.day = min(day, len(self._days) - 1 - WARM_UP_DAYS)
        self._by_hand.clear()

    @property
    def _today(self) -> date:
        return self._days[WARM_UP_DAYS + self.day]


def _weekday(day: date, step: int) -> date:
    """The next weekday, or the one before when `step` is -1."""
    day += timedelta(days=step)
    while day.weekday() >= 5:
        day += timedelta(days=step)
    return day
