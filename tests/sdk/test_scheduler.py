"""The Scheduler: its settings, its ticks, and what it does when something is missing."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.mesh.ports import free_port
from SureshotSDK import PortfolioClient
from SureshotSDK._clock import ExchangeCalendar
from SureshotSDK._log import _JsonLine
from SureshotSDK.feeds import Quote
from SureshotSDK.Scheduler import Scheduler
from SureshotSDK.testing import InMemoryPortfolio, ManualClock, prices_feed, run_over
from tests.sdk.scripted_router import ScriptedRouter

NAME = "Trend_SPXL"


class Trend(Scheduler):
    """Holds while the price is above its average, and notes what it saw."""

    name = NAME

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[float] = []
        self.times: list[float] = []

    def on_data(self, price: float) -> None:
        self.seen.append(price)
        self.times.append(self.clock.monotonic())
        if price > self.sma.get_value():
            if not self.invested:
                self.buy_all(self.positionSymbol)
        elif self.invested:
            self.sell_all(self.positionSymbol)


def test_prices_are_reported_with_the_session_they_are_of() -> None:
    strategy = Trend(InMemoryPortfolio(), sma_window=2)
    portfolio = run_over(strategy, [1.0, 2.0, 3.0, 4.0])
    assert portfolio.get_portfolio(NAME).session == "2000-01-04"


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[dict[str, Any]]]:
    """The logged events of a kind, as the JSON lines that a supervisor would read."""
    caplog.set_level(logging.INFO)

    def of(kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(_JsonLine().format(record)) for record in caplog.records]
        return [line for line in lines if line["event"] == kind]

    return of


Events = Callable[[str], list[dict[str, Any]]]


def orders(portfolio: InMemoryPortfolio) -> list[tuple[int, float, float]]:
    return [(int(o.side), o.quantity, o.price) for o in portfolio.list_orders()][::-1]


# Settings


def test_an_argument_beats_an_attribute_beats_the_environment_beats_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Attributes(Trend):
        symbol = "QQQ"
        sma_window = 7

    assert (Trend().symbol, Trend().sma.window) == ("SPY", 50)
    monkeypatch.setenv("SYMBOL", "DIA")
    monkeypatch.setenv("SMA_WINDOW", "9")
    assert (Trend().symbol, Trend().sma.window) == ("DIA", 9)
    assert (Attributes().symbol, Attributes().sma.window) == ("QQQ", 7)
    made = Attributes(symbol="IWM", sma_window=3)
    assert (made.symbol, made.sma.window) == ("IWM", 3)


@pytest.mark.parametrize(("feed", "interval"), [("replay", 1), ("csv:somewhere", 1), ("yahoo", 60)])
def test_the_interval_suits_the_feed_unless_it_is_set(
    feed: str, interval: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "yfinance", ModuleType("yfinance"))
    (tmp_path / "SPY.csv").write_text("date,close\n2024-01-01,1\n")
    feed = feed.replace("somewhere", str(tmp_path))
    assert Trend(feed=feed, sma_window=1)._open() == interval
    monkeypatch.setenv("INTERVAL_S", "0.5")
    assert Trend(feed=feed, sma_window=1)._open() == 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sma_window": 0}, "sma_window is 0"),
        ({"sma_window": "many"}, "sma_window is 'many'"),
        ({"interval_s": -1}, "interval_s is -1"),
        ({"interval_s": "nan"}, "interval_s is nan"),
        ({"symbol": "spy"}, "symbol of Trend_SPXL is 'spy'"),
        ({"strategy_name": "Nameless"}, "trades no symbol"),
        ({"feed": "nasdaq"}, "not a price feed"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Trend(**options)


def test_a_strategy_without_a_name_is_refused() -> None:
    class Nameless(Trend):
        name = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match="Nameless has no name"):
        Nameless()


def test_a_name_without_an_end_trades_the_symbol_it_follows() -> None:
    strategy = Trend(strategy_name="Momentum", symbol="QQQ")
    assert (strategy.symbol, strategy.positionSymbol) == ("QQQ", "QQQ")


# Ticks


class Slow(Trend):
    takes_s = 0.0

    def on_data(self, price: float) -> None:
        super().on_data(price)
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(self.takes_s)


def test_ticks_do_not_drift() -> None:
    strategy = Slow(interval_s=0.1, sma_window=1)
    strategy.takes_s = 0.037
    run_over(strategy, [1.0] * 1000)
    assert strategy.times == pytest.approx([n * 0.1 for n in range(1000)])


def test_a_tick_longer_than_the_interval_leaves_out_ticks_and_piles_up_none(
    events: Events,
) -> None:
    strategy = Slow(interval_s=1, sma_window=1)
    strategy.takes_s = 2.5
    run_over(strategy, [1.0] * 4)
    assert strategy.times == [0, 3, 6, 9]
    assert [tick["missed"] for tick in events("tick")] == [0, 2, 2, 2]


def test_a_tick_that_ends_as_the_next_is_due_leaves_out_none() -> None:
    strategy = Slow(interval_s=0.1, sma_window=1)
    strategy.takes_s = 0.1
    run_over(strategy, [1.0] * 50)
    assert strategy.times == pytest.approx([n * 0.1 for n in range(50)])


def test_an_interval_of_0_does_not_pause() -> None:
    strategy = Trend(interval_s=0, sma_window=1)
    run_over(strategy, [1.0] * 5)
    assert strategy.times == [0] * 5


def test_a_strategy_acts_first_when_its_average_is_full() -> None:
    strategy = Trend(sma_window=3)
    run_over(strategy, [1, 2, 3, 4, 5])
    assert strategy.seen == [3, 4, 5]
    assert strategy.sma.get_value() == 4


def test_ticks_come_only_while_the_exchange_is_open(events: Events) -> None:
    class Calendar:
        def is_open(self, at: datetime) -> bool:
            return at.second % 10 == 0

    strategy = Trend(interval_s=1, sma_window=1, calendar=Calendar())
    run_over(strategy, [1, 2, 3])
    assert strategy.seen == [1, 2, 3]
    assert strategy.times == [0, 10, 20]
    assert len(events("idle")) == 3  # closed twice, and the end


# exchange-calendars 4.13 uses what pandas 3.1 deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_exchange_calendar_knows_sessions_and_holidays() -> None:
    calendar = ExchangeCalendar("XNYS")
    assert calendar.is_open(datetime(2024, 7, 3, 14, 30, 59, tzinfo=UTC))
    assert not calendar.is_open(datetime(2024, 7, 3, 18, 0, tzinfo=UTC))  # an early close
    assert not calendar.is_open(datetime(2024, 7, 4, 15, 0, tzinfo=UTC))
    assert not calendar.is_open(datetime(2024, 7, 6, 15, 0, tzinfo=UTC))
    assert not calendar.is_open(datetime(2024, 7, 8, 13, 29, tzinfo=UTC))
    assert calendar.is_open(datetime(2024, 7, 8, 13, 30, tzinfo=UTC))


def test_an_unknown_exchange_is_refused() -> None:
    with pytest.raises(ValueError, match="NOWHERE"):
        Trend(calendar="NOWHERE", sma_window=1, feed=prices_feed({"SPY": [1]})).run(
            stop_at_end=True
        )


class LiveFeed:
    """A feed whose session's price moves: one (session, price) a tick."""

    description = "live"
    interval_s = 1.0

    def __init__(self, quotes: Sequence[tuple[int, float]], closes: Sequence[float]) -> None:
        self.quotes, self.closes, self.at = quotes, closes, 0

    def history(self, symbol: str, n: int) -> list[float]:
        return list(self.closes[: self.quotes[self.at][0]])[-n:]

    def latest(self, symbol: str) -> Quote | None:
        day, price = self.quotes[self.at]
        return Quote(price, date(2024, 1, 1 + day))

    def advance(self) -> bool:
        self.at += 1
        return self.at < len(self.quotes)


def test_within_a_session_the_newer_price_takes_the_place_of_the_older() -> None:
    averages = []

    class Watching(Trend):
        def on_data(self, price: float) -> None:
            averages.append(self.sma.get_value())

    feed = LiveFeed([(2, 6), (2, 9), (3, 12), (3, 15)], closes=[1, 2, 3, 4])
    strategy = Watching(InMemoryPortfolio(), sma_window=3, feed=feed, clock=ManualClock())
    strategy.portfolio.upsert_portfolio(NAME, cash=1)  # type: ignore[attr-defined]
    strategy.run(stop_at_end=True)
    assert averages == [3, 4, 17 / 3, 20 / 3]


# Trading


def test_orders_carry_the_price_of_the_symbol_traded_and_positions_are_marked() -> None:
    portfolio = run_over(Trend(sma_window=2), [10, 11, 12], position_prices=[1, 20, 25], cash=100)
    assert orders(portfolio) == [(1, 5, 20)]
    assert portfolio.get_portfolio(NAME).equity == 125


def test_without_a_fresh_price_nothing_is_sent_and_that_is_said_once(events: Events) -> None:
    answers = []

    class Buyer(Trend):
        def on_data(self, price: float) -> None:
            self.seen.append(price)
            answers.append(self.buy_all("SPXL"))

    strategy = Buyer(sma_window=1)
    portfolio = run_over(strategy, [1, 2, 3], position_prices=[None, None, 5], cash=10)
    assert strategy.seen == [1, 2, 3]
    assert answers[:2] == [None, None]
    assert orders(portfolio) == [(1, 2, 5)]
    (said,) = events("error")
    assert said["error"] == "BUY SPXL: no fresh price of SPXL, nothing was sent"


def test_a_refused_order_is_said_once_and_the_strategy_goes_on(events: Events) -> None:
    strategy = Trend(sma_window=1)
    strategy.on_data = lambda price: strategy.buy_all("SPXL")  # type: ignore[assignment, method-assign]
    run_over(strategy, [200, 200, 50, 50], cash=100)
    first, second = events("error")
    assert first["reason"] == second["reason"] == "INSUFFICIENT_CASH"
    assert len(events("order")) == 1


def test_events_carry_the_fields_that_a_supervisor_shows(events: Events) -> None:
    run_over(Trend(sma_window=2), [10, 11], position_prices=[1, 20], cash=100)
    (tick,), (order,) = events("tick"), events("order")
    assert tick["level"] == "INFO"
    assert {name: tick[name] for name in ("strategy_name", "symbol", "price", "average")} == {
        "strategy_name": NAME,
        "symbol": "SPY",
        "price": 11.0,
        "average": 10.5,
    }
    assert (tick["position_symbol"], tick["position_price"]) == ("SPXL", 20.0)
    assert (tick["session"], tick["feed"]) == ("2000-01-02", "test prices")
    assert (order["side"], order["quantity"], order["price"]) == ("BUY", 5, 20)
    assert (order["status"], len(order["order_id"])) == ("EXECUTED", 36)
    assert [len(events(kind)) for kind in ("started", "stopped")] == [1, 1]


def test_an_error_in_on_data_is_said_with_the_name_and_the_strategy_goes_on(
    events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Trend):
        def on_data(self, price: float) -> None:
            self.seen.append(price)
            _ = 1 / (price - 2)

    strategy = Faulty(sma_window=1)
    run_over(strategy, [1, 2, 3])
    assert strategy.seen == [1, 2, 3]
    (said,) = events("error")
    assert said["error"].startswith("on_data failed: ZeroDivisionError: float division by zero")
    assert "test_scheduler.py:" in said["error"]
    assert "Traceback" in said["traceback"]
    assert any(f"{NAME} on_data failed" in line for line in caplog.messages)


def test_an_error_of_the_feed_is_said_and_the_strategy_goes_on(events: Events) -> None:
    class Broken(LiveFeed):
        broken = True

        def latest(self, symbol: str) -> Quote | None:
            if self.broken:
                self.broken = False
                raise OSError("no feed")
            return super().latest(symbol)

    strategy = Trend(sma_window=1, feed=Broken([(0, 1.0)] * 2, [1]), clock=ManualClock())
    strategy.portfolio = InMemoryPortfolio()
    strategy.portfolio.upsert_portfolio(NAME, cash=1)
    strategy.run(stop_at_end=True)
    assert "no feed" in events("error")[0]["error"]
    assert strategy.seen == [1, 1]


def test_at_the_end_of_its_history_a_strategy_says_so_and_stays(events: Events) -> None:
    waits: list[float | None] = []

    class Clock(ManualClock):
        def wait(self, stop: Any, timeout_s: float | None) -> None:
            waits.append(timeout_s)
            super().wait(stop, timeout_s)

    strategy = Trend(sma_window=1, feed=prices_feed({"SPY": [1, 2]}), clock=Clock())
    strategy.portfolio = InMemoryPortfolio()
    strategy.portfolio.upsert_portfolio(NAME, cash=1)
    strategy.run()
    assert waits == [1.0, None]
    assert [idle["message"] for idle in events("idle")] == ["waits: the price history has ended"]


# A router that goes away


def test_a_lost_router_is_said_once_and_no_day_is_passed_over(
    router: ScriptedRouter, events: Events
) -> None:
    router.memory.upsert_portfolio(NAME, cash=100)
    prices = [10.0, 11, 12, 9, 8, 12, 13]

    class Losing(Trend):
        def on_data(self, price: float) -> None:
            super().on_data(price)
            if price == 12 and len(events("router_lost")) < 2:
                router.fail(grpc.StatusCode.UNAVAILABLE, times=5, reason="ROUTER_STOPPING")

    strategy = Losing(sma_window=2, feed=prices_feed({"SPY": prices, "SPXL": prices}, window=2))
    with PortfolioClient(router.address, retry_for_s=0) as client:
        strategy.portfolio, strategy.clock = client, ManualClock()
        strategy.run(stop_at_end=True)
    expected = run_over(Trend(sma_window=2), prices, cash=100)
    assert orders(router.memory) == orders(expected)
    assert strategy.seen == prices[1:]
    assert len(events("router_lost")) == len(events("router_back")) == 2


def test_a_strategy_that_starts_before_its_router_waits_for_it(events: Events) -> None:
    router = ScriptedRouter()
    router.port = free_port()
    router.memory.upsert_portfolio(NAME, cash=100)

    class Clock(ManualClock):
        def wait(self, stop: Any, timeout_s: float | None) -> None:
            super().wait(stop, timeout_s)
            if self.monotonic() == 3:
                router.__enter__()
                self.advance(0.5)

    # A look a minute, but a lost router is tried again each second.
    strategy = Trend(sma_window=1, interval_s=60, feed=prices_feed({"SPY": [1, 2]}))
    with PortfolioClient(router.address, retry_for_s=0) as client:
        strategy.portfolio, strategy.clock = client, Clock()
        strategy.run(stop_at_end=True)
    router.__exit__()
    assert strategy.seen == [1, 2]
    assert strategy.times[0] % 60 > 0  # as soon as the router was there, not at the next look
    assert strategy.times[1] % 60 == 0
    (lost,) = events("router_lost")
    assert "No portfolio router answers" in lost["message"]
    assert len(events("router_back")) == 1


def test_an_order_whose_answer_was_lost_is_not_placed_again(router: ScriptedRouter) -> None:
    router.memory.upsert_portfolio(NAME, cash=100)

    class Losing(Trend):
        def buy_all(self, symbol: str) -> Any:
            if not self.seen[1:]:
                router.fail(grpc.StatusCode.UNAVAILABLE, after_doing=True)
            return super().buy_all(symbol)

    strategy = Losing(sma_window=2, feed=prices_feed({"SPY": [1, 2], "SPXL": [1, 2]}, window=2))
    with PortfolioClient(router.address, retry_for_s=0) as client:
        strategy.portfolio, strategy.clock = client, ManualClock()
        strategy.run(stop_at_end=True)
    assert strategy.seen == [2, 2]  # the same day again, and the router says: invested
    assert orders(router.memory) == [(1, 50, 2)]


# Restarts

CENTS = st.integers(min_value=500, max_value=2000).map(lambda cents: cents / 100)


def write_prices(folder: Path, prices: Sequence[float], held: Sequence[float | None]) -> None:
    days = pandas.bdate_range("2024-01-01", periods=len(prices)).strftime("%Y-%m-%d")
    for symbol, series in (("SPY", prices), ("SPXL", held)):
        rows = [f"{day},{p}\n" for day, p in zip(days, series, strict=True) if p is not None]
        (folder / f"{symbol}.csv").write_text("date,close\n" + "".join(rows))


def run_until(strategy: Trend, ticks: int | None) -> None:
    if ticks is not None:
        decide = strategy.on_data

        def counted(price: float) -> None:
            decide(price)
            if len(strategy.seen) >= ticks:
                strategy.stop()

        strategy.on_data = counted  # type: ignore[method-assign]
    strategy.run(stop_at_end=True)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prices=st.lists(CENTS, min_size=6, max_size=30),
    stops=st.lists(st.integers(min_value=1, max_value=5), max_size=4),
)
def test_a_strategy_that_was_restarted_decides_as_if_it_had_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, prices: list[float], stops: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("prices")
    write_prices(folder, prices, prices)
    seen, portfolio = [], InMemoryPortfolio()
    portfolio.upsert_portfolio(NAME, cash=1000)
    for ticks in [*stops, None]:
        strategy = Trend(
            portfolio, sma_window=5, feed=f"csv:{folder}", data_dir=folder, clock=ManualClock()
        )
        run_until(strategy, ticks)
        seen += strategy.seen
    never_stopped = Trend(sma_window=5)
    expected = run_over(never_stopped, prices, cash=1000)
    assert seen == never_stopped.seen
    assert orders(portfolio) == orders(expected)


def test_a_crash_between_an_order_and_the_kept_place_trades_nothing_twice(tmp_path: Path) -> None:
    prices = [10.0, 9, 11, 12]
    write_prices(tmp_path, prices, prices)
    portfolio = InMemoryPortfolio()
    portfolio.upsert_portfolio(NAME, cash=100)
    place = tmp_path / "replay" / f"{NAME}.json"
    for ticks in (2, None):
        strategy = Trend(
            portfolio, sma_window=2, feed=f"csv:{tmp_path}", data_dir=tmp_path, clock=ManualClock()
        )
        run_until(strategy, ticks)
        if ticks:
            assert orders(portfolio) == [(1, 9, 11)]
            place.write_text(place.read_text().replace("2024-01-03", "2024-01-02"))
    assert strategy.seen == [11, 12]
    assert orders(portfolio) == [(1, 9, 11)]


def in_pandas(prices: Sequence[float], held: Sequence[float | None], window: int) -> float:
    """The final equity, computed without the SDK, in whole cents."""
    averages = pandas.Series(prices).rolling(window).mean().tolist()
    cash, shares, mark = 100_000_00, 0, 0
    for price, average, traded in list(zip(prices, averages, held, strict=True))[window - 1 :]:
        if traded is None:
            continue
        cents = mark = round(traded * 100)
        above = price - average > 1e-9  # pandas' average is off by rounding
        if above and not shares:
            shares, cash = cash // cents, cash % cents
        elif not above and shares:
            shares, cash = 0, cash + shares * cents
    return (cash + shares * mark) / 100


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    days=st.lists(st.tuples(CENTS, st.one_of(st.none(), CENTS)), min_size=8, max_size=60),
    window=st.integers(min_value=1, max_value=8),
)
def test_a_csv_run_equals_an_independent_computation_in_pandas(
    tmp_path_factory: pytest.TempPathFactory,
    days: list[tuple[float, float | None]],
    window: int,
) -> None:
    folder = tmp_path_factory.mktemp("prices")
    prices, held = [day[0] for day in days], [day[1] for day in days]
    write_prices(folder, prices, held)
    portfolio = InMemoryPortfolio()
    portfolio.upsert_portfolio(NAME, cash=100_000)
    Trend(portfolio, sma_window=window, feed=f"csv:{folder}", clock=ManualClock()).run(
        stop_at_end=True
    )
    assert portfolio.get_portfolio(NAME).equity == pytest.approx(
        in_pandas(prices, held, window), abs=0.005
    )
    assert portfolio.audit().balanced
