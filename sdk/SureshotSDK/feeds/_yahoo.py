"""The yahoo feed: Yahoo Finance through the package yfinance (extra `yahoo`), delayed prices."""

import importlib
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from SureshotSDK.feeds._protocol import Quote

_logger = logging.getLogger("SureshotSDK")
_ASK_AGAIN_AFTER_S = 5.0


class YahooFeed:
    """The latest minute's price and the daily closes of any symbol that Yahoo Finance knows.

    A price older than `max_age_s` is not fresh: outside the session there is none. Whatever goes
    wrong on the way is logged and means "no price". `yfinance` and `now` are there for tests.
    Raises: ValueError, when yfinance is not installed.
    """

    description = "Yahoo Finance"
    interval_s = 60.0

    def __init__(
        self,
        *,
        max_age_s: float = 1200.0,
        yfinance: Any = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._yfinance = yfinance or _import_yfinance()
        self._max_age = timedelta(seconds=max_age_s)
        self._now = now
        self._kept: dict[str, tuple[float, Quote | None]] = {}

    def history(self, symbol: str, n: int) -> list[float]:
        """The last `n` daily closes before the current session, oldest first."""
        quote = self.latest(symbol)
        today = quote.session if quote else self._now().date()
        start = today - timedelta(days=2 * n + 14)  # 252 of 365 days have a session
        bars = self._closes(symbol, start=start.isoformat(), interval="1d", auto_adjust=False)
        return [close for at, close in bars if at.date() < today][-n:] if n > 0 else []

    def latest(self, symbol: str) -> Quote | None:
        """The last minute's price; None when it is older than `max_age_s`."""
        asked, quote = self._kept.get(symbol, (-math.inf, None))
        if time.monotonic() - asked > _ASK_AGAIN_AFTER_S:  # one tick asks more than once
            quote = self._ask(symbol)
            self._kept[symbol] = (time.monotonic(), quote)
        return quote

    def advance(self) -> bool:
        """Nothing to do: the market goes on by itself."""
        return True

    def _ask(self, symbol: str) -> Quote | None:
        bars = self._closes(symbol, period="1d", interval="1m", auto_adjust=False)
        if not bars:
            return None
        at, price = bars[-1]
        return Quote(price, at.date()) if self._now() - at <= self._max_age else None

    def _closes(self, symbol: str, **wanted: Any) -> list[tuple[datetime, float]]:
        try:
            frame = self._yfinance.Ticker(symbol).history(**wanted)
            bars = [(at, float(close)) for at, close in frame["Close"].items()]
        except Exception as cause:  # noqa: BLE001 - yfinance passes on what its HTTP library raises
            _logger.warning("Yahoo Finance gave no prices of %s: %r", symbol, cause)
            return []
        return [(at, close) for at, close in bars if math.isfinite(close) and close > 0]


def _import_yfinance() -> Any:
    try:
        return importlib.import_module("yfinance")
    except ModuleNotFoundError as missing:
        raise ValueError("PRICE_FEED=yahoo needs yfinance: install the extra `yahoo`.") from missing
