"""Market data on the wire: snapshots, streams and daily bars of the market's current day."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from services.gateway import messages
from services.gateway.intake import RefusedError
from services.gateway.market import NEW_YORK, Close, Market, MarketData, last_trade_at

LIVE, FROZEN, DELAYED, DELAYED_FROZEN = 1, 2, 3, 4
# Tick types: bid, ask, last, close of the day before, time of the last trade.
LIVE_TICKS = (1, 2, 4, 9, 45)
DELAYED_TICKS = (66, 67, 68, 75, 88)
HALF_SPREAD = Decimal("0.01")
NO_PRICE = Decimal(-1)
DAYS_IN = {"D": 1, "W": 7, "M": 31, "Y": 366}
LARGEST_COUNT = 10_000


def data_kind(data: MarketData, asked: int) -> int:
    """Whether the account gets live or delayed prices; `asked` is the client's market data type.

    Raises:
        RefusedError: It gets none.
    """
    if data is MarketData.SUBSCRIBED:
        return LIVE
    if data is MarketData.DELAYED_ONLY and asked in (DELAYED, DELAYED_FROZEN):
        return DELAYED
    if data is MarketData.COMPETING:
        raise RefusedError(10197, "No market data during competing live session")
    if data is MarketData.DELAYED_ONLY:
        raise RefusedError(
            354, "Requested market data is not subscribed. Delayed market data is available."
        )
    raise RefusedError(
        10089,
        "Requested market data requires additional subscription for API. See link in "
        "'Market Data Connections' dialog for more details.",
    )


def ticks(
    request: int, closes: Sequence[Close], kind: int, *, market_is_closed: bool
) -> Iterator[bytes]:
    """The prices of a symbol as ticks. When the market is closed nobody bids or asks: -1."""
    bid_at, ask_at, last_at, close_at, time_at = DELAYED_TICKS if kind == DELAYED else LIVE_TICKS
    last = closes[-1]
    yield messages.market_data_type(request, kind)
    if market_is_closed:
        yield messages.price_tick(request, bid_at, NO_PRICE, 0)
        yield messages.price_tick(request, ask_at, NO_PRICE, 0)
    else:
        yield messages.price_tick(request, bid_at, last.price - HALF_SPREAD, 100)
        yield messages.price_tick(request, ask_at, last.price + HALF_SPREAD, 100)
    seconds = int(last_trade_at(last.day).timestamp())
    yield messages.string_tick(request, time_at, str(seconds))
    yield messages.price_tick(request, last_at, last.price, 100)
    if len(closes) > 1:
        yield messages.price_tick(request, close_at, closes[-2].price, 0)


def daily_bars(
    request: int, market: Market, symbol: str, *, end: str, size: str, duration: str
) -> bytes:
    """Daily bars until `end` (empty: the current day), as far back as `duration` says.

    Raises:
        RefusedError: The request cannot be served, or there is no bar in it.
    """
    if size != "1 day":
        raise _no_bars(f"The simulation has bars of '1 day' only, not '{size}'.")
    closes = market.closes(symbol)
    last_day = closes[-1].day
    if end:
        last_day = datetime.strptime(end[:8], "%Y%m%d").replace(tzinfo=UTC).date()
    closes = [close for close in closes if close.day <= last_day]
    count, unit = _duration(duration)
    if unit == "D":
        closes = closes[-count:]  # so many trading days
    else:
        begin = last_day - timedelta(days=count * DAYS_IN[unit])
        closes = [close for close in closes if close.day > begin]
    if not closes:
        raise _no_bars(f"HMDS query returned no data: {symbol}@SMART Trades")
    now = datetime.now(NEW_YORK).strftime("%Y%m%d %H:%M:%S")
    return messages.historical_bars(request, closes, f"{closes[0].day:%Y%m%d} 00:00:00", now)


def _duration(text: str) -> tuple[int, str]:
    count, _, unit = text.partition(" ")
    if not count.isdigit() or not 0 < int(count) <= LARGEST_COUNT or unit not in DAYS_IN:
        raise _no_bars(f"'{text}' is no duration such as '30 D', '6 M' or '1 Y'.")
    return int(count), unit


def _no_bars(why: str) -> RefusedError:
    """Always 162: at a 321, ib_async goes on waiting for the bars."""
    return RefusedError(162, f"Historical Market Data Service error message:{why}")
