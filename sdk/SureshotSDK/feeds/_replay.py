"""The replay feed: a real price history that needs no network, shown as sample data.

The package skfolio carries daily closes of the S&P 500 and of 20 of its stocks, 1990 to 2022. Its
two data files are read here directly: importing it would load far more than a strategy needs.
What has no history there is shown by a stand-in, so none of these prices is the named symbol's own
except the 20 stocks' and the index.

    SPY, SPX          the index's level
    PLTR NVDA HOOD AVGO   the closes of MSFT, AMD, BAC, AAPL
    SPXL              3 times the index's daily return, compounded from 50 USD on the first day
    PTIR NVDL AVL     2 times the daily return of what stands in for PLTR, NVDA, AVGO, likewise
"""

import csv
import gzip
from datetime import date
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from SureshotSDK.feeds._cursor import Cursor
from SureshotSDK.feeds._recorded import RecordedFeed

STAND_INS = {
    "SPY": "SP500",
    "SPX": "SP500",
    "PLTR": "MSFT",
    "NVDA": "AMD",
    "HOOD": "BAC",
    "AVGO": "AAPL",
}
LEVERAGED = {"SPXL": ("SPY", 3), "PTIR": ("PLTR", 2), "NVDL": ("NVDA", 2), "AVL": ("AVGO", 2)}
# Compounding a multiple of daily returns over decades, through 1987-like days, ends near zero.
# From 2012 on all prices stay between 1 and 7,000 USD.
FIRST = date(2012, 1, 3)
BASE_PRICE = 50.0


def sample_feed(symbol: str, window: int, cursor: Cursor | None = None) -> RecordedFeed:
    """Opens the sample history by the days of `symbol`, from 2012 on.

    Raises: ValueError, when the package that carries it is not installed or lacks the symbol.
    """
    return RecordedFeed(
        sample_closes,
        symbol=symbol,
        window=window,
        description="sample data",
        first=FIRST,
        cursor=cursor,
    )


def sample_closes(symbol: str) -> dict[date, float]:
    """The closes shown for a symbol, by date; empty when there is nothing to show."""
    if symbol not in LEVERAGED:
        return _recorded().get(STAND_INS.get(symbol, symbol), {})
    followed, multiple = LEVERAGED[symbol]
    return _compounded(sample_closes(followed), multiple)


def _compounded(closes: dict[date, float], multiple: int) -> dict[date, float]:
    price, before = BASE_PRICE, 0.0
    leveraged = {}
    for day in sorted(day for day in closes if day >= FIRST):
        if before:
            price *= 1 + multiple * (closes[day] / before - 1)
        before = closes[day]
        leveraged[day] = round(price, 2)
    return leveraged


@cache
def _recorded() -> dict[str, dict[date, float]]:
    found = find_spec("skfolio")
    if found is None or found.origin is None:
        raise ValueError(
            "PRICE_FEED=replay needs the sample data: install the extra `local`, "
            "or set PRICE_FEED to csv:FOLDER or yahoo."
        )
    folder = Path(found.origin).parent / "datasets" / "data"
    closes: dict[str, dict[date, float]] = {}
    for name in ("sp500_index.csv.gz", "sp500_dataset.csv.gz"):
        with gzip.open(folder / name, "rt", newline="") as file:
            for row in csv.DictReader(file):
                day = date.fromisoformat(row.pop("Date"))
                for symbol, close in row.items():
                    closes.setdefault(symbol, {})[day] = float(close)
    return closes
