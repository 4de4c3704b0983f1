"""Running a strategy over prices, in no time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from SureshotSDK._clock import Stop
from SureshotSDK.feeds import RecordedFeed
from SureshotSDK.Scheduler import Scheduler
from SureshotSDK.testing._memory import InMemoryPortfolio

_FIRST_DAY = date(2000, 1, 1)


class ManualClock:
    """A clock that stands still, and jumps ahead when somebody waits."""

    def __init__(self, now: datetime = datetime(2000, 1, 1, tzinfo=UTC)) -> None:
        self._now = now
        self._passed_s = 0.0

    def now(self) -> datetime:
        """The time of day, UTC."""
        return self._now + timedelta(seconds=self._passed_s)

    def monotonic(self) -> float:
        """Seconds that have passed since the clock was made."""
        return self._passed_s

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._passed_s += seconds

    def wait(self, stop: Stop, timeout_s: float | None) -> None:
        """Lets the time pass at once; waiting without end is a stop."""
        if timeout_s is None:
            stop.wish()
        elif not stop:
            self.advance(timeout_s)


def prices_feed(prices: Mapping[str, Sequence[float | None]], *, window: int = 1) -> RecordedFeed:
    """A feed of made-up daily prices by symbol, the first of them followed, from 2000-01-01 on.

    None means that the symbol has no price on that day.
    """
    closes = {
        symbol: {
            _FIRST_DAY + timedelta(days=number): float(price)
            for number, price in enumerate(series)
            if price is not None
        }
        for symbol, series in prices.items()
    }
    return RecordedFeed(
        lambda symbol: closes.get(symbol, {}),
        symbol=next(iter(prices)),
        window=window,
        description="test prices",
    )


def run_over(
    strategy: Scheduler,
    prices: Sequence[float],
    *,
    position_prices: Sequence[float | None] | None = None,
    portfolio: InMemoryPortfolio | None = None,
    cash: float = 100_000.0,
) -> InMemoryPortfolio:
    """Runs a strategy over daily prices of the symbol it follows, and returns its portfolio.

    The first sma_window - 1 prices are its history; on_data is called for each one after.
    `position_prices` are those of the symbol it trades, by default the same. Without a `portfolio`
    it begins with `cash` USD in a new one.
    """
    if portfolio is None:
        portfolio = InMemoryPortfolio()
        portfolio.upsert_portfolio(strategy.strategy_name, cash=cash)
    held = prices if position_prices is None else position_prices
    by_symbol = {strategy.symbol: prices, strategy.positionSymbol: held}
    strategy.portfolio = portfolio
    strategy.feed = prices_feed(by_symbol, window=strategy.sma.window)
    strategy.clock = ManualClock()
    strategy.run(stop_at_end=True)
    return portfolio
