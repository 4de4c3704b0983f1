# ruff: noqa: N999 - the documented import path
"""A strategy: subclass Scheduler, write `on_data(price)`, call `run()`.

    from SureshotSDK.Scheduler import Scheduler

    class ilSPXLScheduler(Scheduler):
        def __init__(self):
            self.name = "IncredibleLeverage_SPXL"
            super().__init__(portfolio=None, strategy_name=self.name)

        def on_data(self, price):
            if price > self.sma.get_value():
                if not self.invested:
                    self.buy_all(self.positionSymbol)
            elif self.invested:
                self.sell_all(self.positionSymbol)

Each tick it takes the latest price of `symbol`, the followed symbol, brings `sma` up to date,
reports the prices it saw to the router, and calls on_data. `sma` includes the price that on_data
gets: on the t-th day it is the mean of the closes t - sma_window + 1 to t, and the first day a
recorded feed shows is the first on which that mean exists.

A strategy keeps no state. What it holds, it asks the router; its average is computed anew from the
feed's history at each session. So it may be killed and started again at any time.
"""

import functools
import logging
import os
import signal
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from efficientfrontier.v1.order_service_pb2 import Order
from SureshotSDK import _log, _tracing
from SureshotSDK._client import PortfolioClient
from SureshotSDK._clock import Calendar, Clock, ExchangeCalendar, Stop, SystemClock, Ticks
from SureshotSDK._heartbeat import Heartbeat
from SureshotSDK._settings import cursor_path, read_settings
from SureshotSDK.errors import (
    NotAllowedError,
    PortfolioError,
    UnauthenticatedError,
    UnavailableError,
)
from SureshotSDK.feeds import ConnectedFeed, PriceFeed, Quote, open_feed
from SureshotSDK.indicators import SMA

_TRY_AGAIN_AFTER_S = 1.0
# The router cannot be used now, and a strategy can do nothing about it but go on trying. A new
# certificate or token counts at once.
_LOST = (UnavailableError, UnauthenticatedError, NotAllowedError)
_IDLE_BEAT_S = 60.0


class Router(Protocol):
    """What a Scheduler needs of the portfolio it trades through."""

    def invested(self, strategy_name: str) -> bool:
        """Whether the strategy holds any shares."""

    def buy_all(self, strategy_name: str, symbol: str, price: float) -> Order:
        """Buys as many whole shares as the strategy's cash allows."""

    def sell_all(self, strategy_name: str, symbol: str, price: float) -> Order:
        """Sells all the strategy holds of the symbol."""

    def report_prices(
        self, strategy_name: str, prices: Mapping[str, float], *, session: date | None = None
    ) -> None:
        """Tells the prices that were seen, and the session they are of."""


class Scheduler(ABC):
    """A strategy that looks at a price at a regular interval.

    `portfolio`: what it trades through; None: the router at PORTFOLIO_ADDRESS (localhost:8000).
    `strategy_name`: the name by which the router knows it.
    `symbol`: what it follows. `position_symbol`: what it trades, by default the end of its name.
    `interval_s`: seconds between ticks; 0: no pause. `sma_window`: prices in `sma`.
    `feed`: replay, csv:FOLDER, yahoo, ibkr, or an object with PriceFeed's methods.
    `calendar`: an exchange's code such as XNYS (ticks only in its sessions), or an object with
    is_open. `data_dir`: where a recorded feed keeps its place. `clock`: for tests.
    What is not given comes from the strategy's attributes, the environment or a default: see
    SureshotSDK/_settings.py. Raises: ValueError, for a setting that is missing or wrong.

    What a strategy uses: `self.sma`, `self.invested`, `self.positionSymbol`, `self.symbol`,
    `self.buy_all(symbol)`, `self.sell_all(symbol)`, and `self.portfolio` and `self.feed` for more.
    """

    def __init__(
        self,
        portfolio: Router | None = None,
        strategy_name: str | None = None,
        *,
        symbol: str | None = None,
        position_symbol: str | None = None,
        interval_s: float | None = None,
        sma_window: int | None = None,
        feed: PriceFeed | str | None = None,
        calendar: Calendar | str | None = None,
        data_dir: Path | str | None = None,
        clock: Clock | None = None,
    ) -> None:
        arguments = {
            "strategy_name": strategy_name,
            "symbol": symbol,
            "position_symbol": position_symbol,
            "interval_s": interval_s,
            "sma_window": sma_window,
            "feed": feed,
            "calendar": calendar,
            "data_dir": data_dir,
        }
        self._settings = read_settings(self, arguments, os.environ)
        self.strategy_name = self._settings.strategy_name
        self.symbol = self._settings.symbol
        self.positionSymbol = self._settings.position_symbol
        self.sma = SMA(self._settings.sma_window)
        self.clock: Clock = clock or SystemClock()
        if portfolio is not None:
            self.portfolio = portfolio
        if not isinstance(self._settings.feed, str):
            self.feed = self._settings.feed
        self._events = _log.EventLog(self.strategy_name)
        self._stop = Stop()
        self._heart = Heartbeat(self._settings.health_file)
        self._session: date | None = None
        self._lost_because: set[str] = set()
        self._idle_because = ""
        self._unsent_because = ""

    @abstractmethod
    def on_data(self, price: float) -> None:
        """Decides on the latest price of the followed symbol, in USD."""

    @property
    def invested(self) -> bool:
        """Whether the strategy holds any shares, asked of the router each time."""
        return self.portfolio.invested(self.strategy_name)

    def buy_all(self, symbol: str) -> Order | None:
        """Buys as many shares of `symbol` as the cash allows, at the feed's latest price of it.

        None, and a line in the log: there is no fresh price and nothing was sent, or the router
        refused. Raises: UnavailableError, UnauthenticatedError, NotAllowedError, which the loop
        takes care of.
        """
        return self._trade("BUY", symbol)

    def sell_all(self, symbol: str) -> Order | None:
        """Sells all that the strategy holds of `symbol`, at the feed's latest price of it.

        None and errors are as with buy_all.
        """
        return self._trade("SELL", symbol)

    def run(self, *, stop_at_end: bool | None = None) -> None:
        """Ticks until SIGTERM, SIGINT or stop().

        When a recorded history ends it says so and stays, idle; with `stop_at_end` it returns.
        Raises: ValueError, when the feed, the calendar, HEALTH_FILE, IDENTITY_DIR or TOKEN_FILE
        cannot be opened.
        """
        _log.configure(as_json=self._settings.log_json)
        ends = self._settings.stop_at_end if stop_at_end is None else stop_at_end
        with self._stopped_by_signals():
            interval_s = self._open()
            try:
                self._say_started(interval_s)
                self._tick_until_end(interval_s)
                if not ends:
                    self._stay_idle()
            finally:
                self._close()
                _tracing.flush()
        self._events.say("stopped", "stopped")

    def start(self, *, stop_at_end: bool | None = None) -> None:
        """The same as run()."""
        self.run(stop_at_end=stop_at_end)

    def stop(self) -> None:
        """Ends run() after the tick that is under way. Safe from any thread or signal handler."""
        self._stop.wish()

    # Opened when first used, so that a strategy can be made, and tested, with neither at hand.
    @functools.cached_property
    def portfolio(self) -> Router:
        """What the strategy trades through."""
        return PortfolioClient(retry_for_s=2.0)  # the loop goes on trying, and says so

    @functools.cached_property
    def feed(self) -> PriceFeed:
        """Where the prices come from."""
        return open_feed(
            str(self._settings.feed),
            symbol=self.symbol,
            window=self._settings.sma_window,
            cursor=cursor_path(self._settings),
            ibkr=self._settings.ibkr,
        )

    @functools.cached_property
    def _calendar(self) -> Calendar | None:
        wanted = self._settings.calendar
        return ExchangeCalendar(wanted) if isinstance(wanted, str) else wanted

    def _open(self) -> float:
        """Opens the feed and the calendar; returns the seconds between two ticks."""
        self._heart.start()
        _ = self.portfolio  # reads its certificates or token, and connects with its first call
        _ = self._calendar
        wanted = self._settings.interval_s
        return self.feed.interval_s if wanted is None else wanted

    def _close(self) -> None:
        if isinstance(self._settings.feed, str) and isinstance(self.feed, ConnectedFeed):
            self.feed.close()  # one that was passed belongs to who made it

    def _say_started(self, interval_s: float) -> None:
        self._events.say(
            "started",
            f"follows {self.symbol}, trades {self.positionSymbol}, average of "
            f"{self._settings.sma_window}, every {interval_s:g} s, "
            f"prices: {self.feed.description}",
            symbol=self.symbol,
            position_symbol=self.positionSymbol,
            feed=self.feed.description,
        )

    def _tick_until_end(self, interval_s: float) -> None:
        ticks = Ticks(self.clock.monotonic(), interval_s)
        while not self._stop:
            self._beat(interval_s)
            try:
                if not self._look(ticks.missed):
                    self._say_idle("the price history has ended")
                    return
            except _LOST as away:  # the feed was not advanced: the same price is due
                self._say_lost(away)
                self.clock.wait(self._stop, _TRY_AGAIN_AFTER_S)
                continue
            except Exception as fault:  # noqa: BLE001 - a feed's fault must not end the strategy
                self._say_fault("cannot look at the price", fault)
            self.clock.wait(self._stop, ticks.delay_s(self.clock.monotonic()))

    def _stay_idle(self) -> None:
        pause_s = _IDLE_BEAT_S if self._heart else None
        while not self._stop:
            self._beat(_IDLE_BEAT_S)
            self.clock.wait(self._stop, pause_s)

    def _beat(self, pause_s: float) -> None:
        try:
            self._heart.beat(pause_s)
        except OSError as fault:  # the health check will tell; trading goes on
            self._say_fault("cannot say that it is alive", fault)

    def _look(self, missed: int) -> bool:
        """One tick, then on to the next price; False when there is none."""
        if self._calendar and not self._calendar.is_open(self.clock.now()):
            self._say_idle("the exchange is closed")
            return True
        with _tracing.tick(self.strategy_name, self.symbol):
            self._tick(missed)
        return self.feed.advance()

    def _tick(self, missed: int) -> None:
        quote = self.feed.latest(self.symbol)
        if quote is None:
            self._say_idle(self._no_price(self.symbol))
            return
        self._follow(quote)
        held = self.feed.latest(self.positionSymbol)
        self._report(quote, held)
        if not self.sma.ready:
            self._say_idle(f"too little history for an average of {self.sma.window}")
            return
        self._idle_because = ""
        self._say_tick(quote, held, missed)
        try:
            self.on_data(quote.price)
        except _LOST:
            raise
        except Exception as fault:  # noqa: BLE001 - the strategy's own code may raise anything
            self._say_fault("on_data failed", fault)

    def _follow(self, quote: Quote) -> None:
        """Brings `sma` up to date: from the history in a new session, else by the newer price."""
        if quote.session == self._session:
            self.sma.replace(quote.price)
            return
        self.sma = SMA(self._settings.sma_window)
        for close in self.feed.history(self.symbol, self.sma.window - 1):
            self.sma.update(close)
        self.sma.update(quote.price)
        # A history that is still too short may have failed to load: it is asked for again.
        self._session = quote.session if self.sma.ready else None

    def _report(self, quote: Quote, held: Quote | None) -> None:
        prices = {self.symbol: quote.price}
        if held is not None:
            prices[self.positionSymbol] = held.price
        self.portfolio.report_prices(self.strategy_name, prices, session=quote.session)
        if self._lost_because:
            self._lost_because.clear()
            self._events.say("router_back", "the router answers again")

    def _trade(self, side: str, symbol: str) -> Order | None:
        quote = self.feed.latest(symbol)
        if quote is None:
            self._say_unsent(f"{side} {symbol}: {self._no_price(symbol)}, nothing was sent")
            return None
        call = self.portfolio.buy_all if side == "BUY" else self.portfolio.sell_all
        try:
            order = call(self.strategy_name, symbol, quote.price)
        except _LOST:
            raise
        except PortfolioError as refused:
            self._say_unsent(f"{side} {symbol}: {refused}", refused.reason)
            return None
        self._unsent_because = ""
        self._say_order(order)
        return order

    def _no_price(self, symbol: str) -> str:
        why = self.feed.why_none(symbol) if isinstance(self.feed, ConnectedFeed) else ""
        return f"no fresh price of {symbol}" + (f" ({why})" if why else "")

    def _say_tick(self, quote: Quote, held: Quote | None, missed: int) -> None:
        average = self.sma.get_value()
        price = "no price" if held is None else f"{held.price:.10g}"
        self._events.say(
            "tick",
            f"{quote.session} {self.symbol} {quote.price:.10g} average {average:.2f}, "
            f"{self.positionSymbol} {price} [{self.feed.description}]"
            + (f", {missed} ticks left out" if missed else ""),
            symbol=self.symbol,
            price=quote.price,
            average=average,
            position_symbol=self.positionSymbol,
            position_price=None if held is None else held.price,
            session=quote.session,
            feed=self.feed.description,
            missed=missed,
        )

    def _say_order(self, order: Order) -> None:
        side, status = Order.Side.Name(order.side), Order.Status.Name(order.status)
        self._events.say(
            "order",
            f"{side} {order.quantity:.10g} {order.symbol} at {order.price:.10g}: {status} "
            f"{order.order_id}",
            side=side,
            quantity=order.quantity,
            symbol=order.symbol,
            price=order.price,
            status=status,
            order_id=order.order_id,
            session=self._session,
        )

    def _say_unsent(self, text: str, reason: str = "") -> None:
        """Says why there is no order, once: a strategy will decide the same at its next tick."""
        if text != self._unsent_because:
            self._unsent_because = text
            self._events.say("error", text, level=logging.WARNING, error=text, reason=reason)

    def _say_fault(self, what: str, fault: Exception) -> None:
        _tracing.failed(fault)
        text = f"{what}: {type(fault).__name__}: {fault}"
        if not isinstance(fault, PortfolioError):
            where = traceback.extract_tb(fault.__traceback__)[-1]
            text += f" ({Path(where.filename).name}:{where.lineno})"
        trace = "".join(traceback.format_exception(fault))
        self._events.say("error", text, level=logging.ERROR, error=text, traceback=trace)

    def _say_lost(self, away: PortfolioError) -> None:
        """Says each reason once: a router that was away may come back and refuse."""
        reason = away.reason or away.code.name
        if reason not in self._lost_because:
            self._lost_because.add(reason)
            text = f"cannot use the router and keeps trying: {away.message}"
            self._events.say("router_lost", text, level=logging.WARNING, reason=away.reason)

    def _say_idle(self, why: str) -> None:
        if why != self._idle_because:
            self._idle_because = why
            self._events.say("idle", f"waits: {why}", reason=why)

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop the loop; a second one does what it did before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}

        def stop(number: int, frame: object) -> None:  # noqa: ARG001 - what signal.signal calls
            signal.signal(number, before[number])
            self.stop()

        for caught in (signal.SIGTERM, signal.SIGINT):
            before[caught] = signal.signal(caught, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
