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
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from SureshotSDK._clock import Calendar
from SureshotSDK.feeds import PriceFeed, check_feed_name, is_recorded

T = TypeVar("T")

# The symbol that each of these is leveraged on, and is followed for it. Any other follows itself.
FOLLOWED = {"SPXL": "SPY", "PTIR": "PLTR", "NVDL": "NVDA", "AVL": "AVGO"}
DEFAULT_SMA_WINDOW = 50
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
    calendar: Calendar | str | None
    data_dir: Path | None
    stop_at_end: bool
    log_json: bool


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
        calendar=pick("calendar", ("exchange_calendar",), "EXCHANGE_CALENDAR"),
        data_dir=None if data_dir is None else Path(data_dir),
        stop_at_end=environ.get("STOP_AT_END", "0").lower() in {"1", "true", "yes"},
        log_json=environ.get("LOG_FORMAT") == "json",
    )


def cursor_path(settings: Settings) -> Path | None:
    """Where a recorded feed keeps its place; None when it keeps none."""
    recorded = isinstance(settings.feed, str) and is_recorded(settings.feed)
    if settings.data_dir is None or not recorded:
        return None
    return settings.data_dir / "replay" / f"{settings.strategy_name}.json"


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
