"""A feed over recorded daily closes: each tick is the next day.

The days are those of the followed symbol. Another symbol has a price on a day only if it was
recorded on that very day.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from datetime import date, timedelta

from SureshotSDK.feeds._cursor import Cursor
from SureshotSDK.feeds._protocol import Quote

Closes = Mapping[date, float]


class RecordedFeed:
    """Daily closes, from the first day that has `window` - 1 closes before it.

    `closes(symbol)` gives the recorded closes of a symbol, empty when there are none. `first` is
    the earliest day to show. With a `cursor` it begins after the last day that was done.
    Raises: ValueError, when nothing is recorded of the followed symbol.
    """

    interval_s = 1.0

    def __init__(
        self,
        closes: Callable[[str], Closes],
        *,
        symbol: str,
        window: int,
        description: str,
        first: date = date.min,
        cursor: Cursor | None = None,
    ) -> None:
        self.description = description
        self._closes = closes
        self._series: dict[str, tuple[list[date], Closes]] = {}
        self._symbol = symbol
        self._cursor = cursor
        self._days, _ = self._of(symbol)
        if not self._days:
            raise ValueError(f"{description} has no prices of {symbol}, which is to be followed.")
        done = cursor.last_done(description, symbol) if cursor else None
        begin = first if done is None else max(first, done + timedelta(days=1))
        self._at = max(window - 1, bisect_left(self._days, begin))

    def history(self, symbol: str, n: int) -> list[float]:
        """The last `n` closes before the current day, oldest first."""
        days, closes = self._of(symbol)
        end = bisect_left(days, self._days[self._at]) if not self._ended else len(days)
        return [closes[day] for day in days[max(0, end - n) : end]]

    def latest(self, symbol: str) -> Quote | None:
        """The close of the current day; None when that day has none."""
        if self._ended:
            return None
        today = self._days[self._at]
        price = self._of(symbol)[1].get(today)
        return None if price is None else Quote(price, today)

    def advance(self) -> bool:
        """Keeps the current day as done and goes to the next; False at the end."""
        if self._ended:
            return False
        if self._cursor:
            self._cursor.write(self.description, self._symbol, self._days[self._at])
        self._at += 1
        return not self._ended

    @property
    def _ended(self) -> bool:
        return self._at >= len(self._days)

    def _of(self, symbol: str) -> tuple[list[date], Closes]:
        if symbol not in self._series:
            closes = self._closes(symbol)
            self._series[symbol] = (sorted(closes), closes)
        return self._series[symbol]
