"""A Scheduler's settings: read once, when it is made, into one frozen value.

Each comes from the constructor's argument, else from an attribute of the strategy, else from the
environment, else from the default:

| argument        | attribute                       | environment       | default               |
|-----------------|---------------------------------|-------------------|-----------------------|
| strategy_name   | strategy_name, name             | STRATEGY_NAME     | none: must be given   |
| position_symbol | positionSymbol, position_symbol | POSITION_SYMBOL   | the end of the name   |
| symbol          | symbol                          | SYMBOL            | what FOLLOWED says    |
| interval_s      | interval_s                      | INTERVAL_S        | the feed's: 60, or 1  |
| sma_window      | sma_window                      | SMA_WINDOW        | 50                    |
| feed            | price_feed                      | PRICE_FEED        | replay                |
| calendar        | exchange_calendar               | EXCHANGE_CALENDAR | none: every tick      |
| data_dir        |                                 | DATA_DIR          | none: nothing is kept |
| (of run)        |                                 | STOP_AT_END       | 0: stay, idle         |
| (how it logs)   |                                 | LOG_FORMAT        | text; or json         |
| (sign of life)  |                                 | HEALTH_FILE       | none: no file is kept |
| (who it is)     |                                 | IDENTITY_DIR      | none: no certificate  |
| (who it is)     |                                 | TOKEN_FILE        | none: no token        |
| portfolio       |                                 | PORTFOLIO_ADDRESS | localhost:8000        |

OTEL_EXPORTER_OTLP_ENDPOINT, with the extra `tracing`, has each tick traced (_tracing.py).

PRICE_FEED=ibkr needs two more of the environment, and knows a third:

| environment         | what                                                             |
|---------------------|------------------------------------------------------------------|
| IBKR_HOST           | where IB Gateway or TWS runs                                     |
| IBKR_PORT           | its API port: 4001 live, 4002 paper (TWS: 7496, 7497)            |
| IBKR_FEED_CLIENT_ID | the feed's client id; default: one of 100000 to 999999, by the   |
|                     | strategy's name. Ten of that range are tried if it is in use.    |
|                     | Never the router's IBKR_CLIENT_ID, which is to be below 100000.  |
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from SureshotSDK._clock import Calendar
from SureshotSDK.feeds import IbkrSettings, PriceFeed, check_feed_name, is_recorded

T = TypeVar("T")

# The symbol that each of these is leveraged on, and is followed for it. Any other follows itself.
FOLLOWED = {"SPXL": "SPY", "PTIR": "PLTR", "NVDL": "NVDA", "AVL": "AVGO"}
DEFAULT_SMA_WINDOW = 50
FEED_CLIENT_IDS = range(100_000, 1_000_000)
_CLIENT_IDS_TO_TRY = 10
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9.-]{0,15}")


@dataclass(frozen=True)
class Settings:
    """What a Scheduler goes by. `interval_s` None: what suits the feed."""

    strategy_name: str
    position_symbol: str
    symbol: str
    interval_s: float | None
    sma_window: int
    feed: PriceFeed | str
    ibkr: IbkrSettings | None
    calendar: Calendar | str | None
    data_dir: Path | None
    stop_at_end: bool
    log_json: bool
    health_file: Path | None


def read_settings(
    strategy: object, arguments: Mapping[str, Any], environ: Mapping[str, str]
) -> Settings:
    """Reads every setting of a strategy. Raises: ValueError, naming the one that is wrong."""

    def pick(name: str, attributes: tuple[str, ...] = (), variable: str = "") -> Any:
        if arguments.get(name) is not None:
            return arguments[name]
        for attribute in attributes:
            if getattr(strategy, attribute, None) is not None:
                return getattr(strategy, attribute)
        return environ.get(variable) or None

    name = pick("strategy_name", ("strategy_name", "name"), "STRATEGY_NAME")
    if not name:
        raise ValueError(
            f"{type(strategy).__name__} has no name: pass strategy_name, or set `name` or "
            "STRATEGY_NAME. It is the name by which the router keeps the strategy's cash."
        )
    symbol = pick("symbol", ("symbol",), "SYMBOL")
    held = pick("position_symbol", ("positionSymbol", "position_symbol"), "POSITION_SYMBOL")
    held = _symbol("position_symbol", held or _end_of(name) or symbol, name)
    feed = pick("feed", ("price_feed",), "PRICE_FEED") or "replay"
    if isinstance(feed, str):
        check_feed_name(feed)
    data_dir = pick("data_dir", (), "DATA_DIR")
    return Settings(
        strategy_name=name,
        position_symbol=held,
        symbol=_symbol("symbol", symbol or FOLLOWED.get(held, held), name),
        interval_s=_interval(pick("interval_s", ("interval_s",), "INTERVAL_S")),
        sma_window=_window(pick("sma_window", ("sma_window",), "SMA_WINDOW")),
        feed=feed,
        ibkr=_ibkr(name, environ) if feed == "ibkr" else None,
        calendar=pick("calendar", ("exchange_calendar",), "EXCHANGE_CALENDAR"),
        data_dir=None if data_dir is None else Path(data_dir),
        stop_at_end=environ.get("STOP_AT_END", "0").lower() in {"1", "true", "yes"},
        log_json=environ.get("LOG_FORMAT") == "json",
        health_file=Path(kept) if (kept := environ.get("HEALTH_FILE")) else None,
    )


def cursor_path(settings: Settings) -> Path | None:
    """Where a recorded feed keeps its place; None when it keeps none."""
    recorded = isinstance(settings.feed, str) and is_recorded(settings.feed)
    if settings.data_dir is None or not recorded:
        return None
    return settings.data_dir / "replay" / f"{settings.strategy_name}.json"


def _ibkr(name: str, environ: Mapping[str, str]) -> IbkrSettings:
    missing = [needed for needed in ("IBKR_HOST", "IBKR_PORT") if not environ.get(needed)]
    if missing:
        raise ValueError(
            f"PRICE_FEED=ibkr needs {' and '.join(missing)}: where IB Gateway or TWS listens, "
            "such as IBKR_HOST=127.0.0.1 IBKR_PORT=4002."
        )
    first = crc32(name.encode()) % (len(FEED_CLIENT_IDS) - _CLIENT_IDS_TO_TRY)
    ours = FEED_CLIENT_IDS[first : first + _CLIENT_IDS_TO_TRY]
    routers = environ.get("IBKR_CLIENT_ID")
    client_ids = tuple(client_id for client_id in ours if str(client_id) != routers)
    if wanted := environ.get("IBKR_FEED_CLIENT_ID"):
        if wanted == routers:
            raise ValueError(
                f"IBKR_FEED_CLIENT_ID is {wanted}, as is the router's IBKR_CLIENT_ID: each "
                "connection needs a client id of its own; leave the feed's out to have one chosen."
            )
        client_ids = (_in("IBKR_FEED_CLIENT_ID", wanted, range(2**31)), *client_ids)
    port = _in("IBKR_PORT", environ["IBKR_PORT"], range(1, 2**16))
    return IbkrSettings(environ["IBKR_HOST"], port, client_ids)


def _in(setting: str, value: str, allowed: range) -> int:
    number = _number(setting, value, int)
    if number not in allowed:
        raise ValueError(f"{setting} is {value}; it is {allowed[0]} to {allowed[-1]}.")
    return number


def _end_of(name: str) -> str | None:
    end = name.rpartition("_")[2]
    return end if end != name and _SYMBOL.fullmatch(end) else None


def _symbol(setting: str, value: str | None, name: str) -> str:
    if value is None:
        raise ValueError(
            f"{name} trades no symbol: pass {setting}, or end its name in one, as in {name}_SPXL."
        )
    if not _SYMBOL.fullmatch(value):
        raise ValueError(f"{setting} of {name} is {value!r}; a symbol is such as SPXL or BRK.B.")
    return value


def _interval(value: Any) -> float | None:
    if value is None:
        return None
    interval_s = _number("interval_s", value, float)
    if not (math.isfinite(interval_s) and interval_s >= 0):
        raise ValueError(f"interval_s is {value}; it is 0 (no pause) or more seconds.")
    return interval_s


def _window(value: Any) -> int:
    window = _number("sma_window", DEFAULT_SMA_WINDOW if value is None else value, int)
    if window < 1:
        raise ValueError(f"sma_window is {value}; it is 1 or more prices.")
    return window


def _number(setting: str, value: Any, kind: type[T]) -> T:
    try:
        return kind(value)  # type: ignore[call-arg]
    except (TypeError, ValueError) as wrong:
        raise ValueError(f"{setting} is {value!r}; it is a number.") from wrong
