# ruff: noqa: N999 - the documented import path
"""Price feeds: where a strategy's prices come from, behind one small protocol.

PRICE_FEED (or a Scheduler's `feed`) picks one:

    replay       a real price history that a dependency ships, one day a tick: sample data
    csv:FOLDER   FOLDER/SYMBOL.csv with the columns date and close, one day a tick
    yahoo        prices of Yahoo Finance, delayed (extra `yahoo`)
    ibkr         prices of Interactive Brokers, through IB Gateway or TWS (extra `ibkr`)

A feed thinks in sessions (trading days). The day's price may change until the next session begins;
`history` ends before the current session. An average over `history` and the latest price is
therefore the same for a process that has just started as for one that never stopped.
"""

from pathlib import Path

from SureshotSDK.feeds._cursor import Cursor
from SureshotSDK.feeds._ib_link import IbkrSettings
from SureshotSDK.feeds._ibkr import IbkrFeed
from SureshotSDK.feeds._protocol import ConnectedFeed, PriceFeed, Quote
from SureshotSDK.feeds._recorded import RecordedFeed
from SureshotSDK.feeds._replay import sample_feed
from SureshotSDK.feeds._table import csv_feed
from SureshotSDK.feeds._yahoo import YahooFeed

__all__ = [
    "ConnectedFeed",
    "Cursor",
    "IbkrFeed",
    "IbkrSettings",
    "PriceFeed",
    "Quote",
    "RecordedFeed",
    "YahooFeed",
    "check_feed_name",
    "csv_feed",
    "is_recorded",
    "open_feed",
    "sample_feed",
]

_CHOICES = "replay, csv:FOLDER, yahoo or ibkr"


def open_feed(
    name: str,
    *,
    symbol: str,
    window: int,
    cursor: Path | None = None,
    ibkr: IbkrSettings | None = None,
) -> PriceFeed:
    """Opens the feed that `name` picks, for a strategy that follows `symbol`.

    A recorded feed begins where `window` - 1 closes lie behind it, and keeps its place in the file
    `cursor`, if one is given; `ibkr` says where IB Gateway is. Raises: ValueError, for another
    name, a history or a package that is not there, or ibkr without a gateway.
    """
    check_feed_name(name)
    if name == "ibkr":
        if ibkr is None:
            raise ValueError("PRICE_FEED=ibkr needs IBKR_HOST and IBKR_PORT: where IB Gateway is.")
        return IbkrFeed(ibkr)
    place = None if cursor is None else Cursor(cursor)
    if name == "replay":
        return sample_feed(symbol, window, place)
    if name.startswith("csv:"):
        return csv_feed(Path(name.removeprefix("csv:")), symbol, window, place)
    return YahooFeed()


def check_feed_name(name: str) -> None:
    """Raises: ValueError, naming the choices, when `name` picks no feed."""
    if name in {"replay", "yahoo", "ibkr"} or (name.startswith("csv:") and name != "csv:"):
        return
    raise ValueError(f"PRICE_FEED={name} is not a price feed; use {_CHOICES}.")


def is_recorded(name: str) -> bool:
    """Whether the feed's days pass by ticks, not by the clock."""
    return name == "replay" or name.startswith("csv:")
