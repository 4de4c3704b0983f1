"""The ibkr feed on the simulated IB Gateway, through the library of this environment."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import pytest

from services.gateway import FixedMarket, MarketData, Scenario, SimulatedGateway
from services.mesh.ports import free_port
from SureshotSDK._settings import FEED_CLIENT_IDS, read_settings
from SureshotSDK.feeds import ConnectedFeed, IbkrFeed, IbkrSettings, Quote
from SureshotSDK.feeds import _ib_connection as ib_connection
from SureshotSDK.Scheduler import Scheduler
from SureshotSDK.testing import InMemoryPortfolio
from tests.support.waiting import wait_until, wait_until_async

T = TypeVar("T")

FRIDAY, MONDAY = date(2024, 1, 5), date(2024, 1, 8)
CLIENT_IDS = (100_001, 100_002, 100_003)


@pytest.fixture
async def gateway() -> AsyncIterator[SimulatedGateway]:
    """Closes of SPY 101 to 105, of SPXL 50 and 52; Friday is the current day."""
    closes = {"SPY": [101, 102, 103, 104, 105], "SPXL": [50, 52]}
    async with SimulatedGateway(market=FixedMarket(closes, last_day=FRIDAY)) as running:
        yield running


@pytest.fixture
async def feed(gateway: SimulatedGateway) -> AsyncIterator[IbkrFeed]:
    async with feed_of(gateway.port) as one:
        yield one


@asynccontextmanager
async def feed_of(port: int, **options: float) -> AsyncIterator[IbkrFeed]:
    feed = IbkrFeed(IbkrSettings("127.0.0.1", port, CLIENT_IDS), **options)
    try:
        yield feed
    finally:
        await asyncio.to_thread(feed.close)


async def latest(feed: IbkrFeed, symbol: str = "SPY") -> Quote | None:
    return await asyncio.to_thread(feed.latest, symbol)


async def history(feed: IbkrFeed, n: int, symbol: str = "SPY") -> list[float]:
    return await asyncio.to_thread(feed.history, symbol, n)


async def until(feed: IbkrFeed, condition: Callable[[Quote | None, str], T]) -> T:
    """Looks at SPY until the condition on the quote, and why there is none, holds."""

    def look() -> T:
        return condition(feed.latest("SPY"), feed.why_none("SPY"))

    return await asyncio.to_thread(wait_until, look)


async def test_the_latest_price_is_that_of_the_last_trade_on_its_day(feed: IbkrFeed) -> None:
    assert await latest(feed) == Quote(105.0, FRIDAY)
    assert await latest(feed, "SPXL") == Quote(52.0, FRIDAY)
    assert feed.why_none("SPY") == ""
    assert feed.description == "Interactive Brokers"
    assert feed.advance()
    assert isinstance(feed, ConnectedFeed)


async def test_the_history_ends_before_the_current_session(feed: IbkrFeed) -> None:
    assert await history(feed, 2) == [103.0, 104.0]
    assert await history(feed, 99) == [101.0, 102.0, 103.0, 104.0]
    assert await history(feed, 300) == [101.0, 102.0, 103.0, 104.0]
    assert await history(feed, 0) == []
    assert await history(feed, 3, "SPXL") == [50.0]


async def test_a_new_price_is_seen(gateway: SimulatedGateway, feed: IbkrFeed) -> None:
    await latest(feed)
    gateway.set_price("SPY", Decimal("106.25"))
    await until(feed, lambda quote, _: quote == Quote(106.25, FRIDAY))
    assert await history(feed, 2) == [103.0, 104.0]


async def test_the_day_of_the_last_trade_is_the_session(
    gateway: SimulatedGateway, feed: IbkrFeed
) -> None:
    assert await history(feed, 2) == [103.0, 104.0]
    gateway.next_day()
    await until(feed, lambda quote, _: quote == Quote(105.0, MONDAY))
    assert await history(feed, 2) == [104.0, 105.0]


async def test_history_is_asked_for_once_a_session(
    feed: IbkrFeed, caplog: pytest.LogCaptureFixture
) -> None:
    assert await history(feed, 2) == [103.0, 104.0]
    assert await history(feed, 9) == [101.0, 102.0, 103.0, 104.0]
    assert await history(feed, 9) == [101.0, 102.0, 103.0, 104.0]
    assert "too little history of SPY: 4 of 9 sessions before 2024-01-05" in caplog.text
    assert caplog.text.count("too little history") == 1


async def test_a_closed_market_has_no_fresh_price(
    gateway: SimulatedGateway, feed: IbkrFeed
) -> None:
    gateway.set_market_closed(True)
    assert await latest(feed) is None
    assert feed.why_none("SPY") == "the market of SPY is closed: there is neither bid nor ask"
    assert await history(feed, 2) == [103.0, 104.0]
    gateway.set_market_closed(False)
    await until(feed, lambda quote, _: quote == Quote(105.0, FRIDAY))
    gateway.set_market_closed(True)
    await until(feed, lambda quote, _: quote is None)


async def test_a_stock_that_has_not_traded_for_long_has_no_fresh_price(
    gateway: SimulatedGateway,
) -> None:
    async with feed_of(gateway.port, max_age_s=1) as feed:
        await until(feed, lambda _, why: why == "SPY has not traded for 1 s")
        gateway.set_price("SPY", Decimal(107))
        await until(feed, lambda quote, _: quote == Quote(107.0, FRIDAY))


async def test_delayed_prices_are_used_where_live_ones_are_not_subscribed_and_said_so(
    gateway: SimulatedGateway, feed: IbkrFeed, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.set_market_data(MarketData.DELAYED_ONLY)
    assert await latest(feed) == Quote(105.0, FRIDAY)
    assert await latest(feed, "SPXL") == Quote(52.0, FRIDAY)
    assert feed.description == "Interactive Brokers (SPXL, SPY delayed)"
    assert "SPY: no subscription to live prices (354)" in caplog.text
    gateway.set_market_data(MarketData.SUBSCRIBED)
    await until(feed, lambda *_: feed.description == "Interactive Brokers")


async def test_without_any_subscription_it_is_said_what_to_do(
    gateway: SimulatedGateway, feed: IbkrFeed
) -> None:
    gateway.set_market_data(MarketData.UNSUBSCRIBED)
    assert await latest(feed) is None
    assert "no market data subscription for SPY" in feed.why_none("SPY")
    assert "(10089): subscribe to it" in feed.why_none("SPY")


async def test_a_competing_session_is_named_and_a_later_trade_counts_again(
    gateway: SimulatedGateway, feed: IbkrFeed
) -> None:
    assert await latest(feed) == Quote(105.0, FRIDAY)
    gateway.notice(10197)
    await until(feed, lambda quote, why: quote is None and "another session" in why)
    gateway.set_price("SPY", Decimal(108))
    await until(feed, lambda quote, _: quote == Quote(108.0, FRIDAY))


async def test_prices_that_a_competing_session_has_are_asked_for_again_after_a_while(
    gateway: SimulatedGateway, feed: IbkrFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("SureshotSDK.feeds._ib_link._ASK_REFUSED_AGAIN_S", 0.1)
    gateway.set_market_data(MarketData.COMPETING)
    assert await latest(feed) is None
    assert "another session of the same login" in feed.why_none("SPY")
    gateway.set_market_data(MarketData.SUBSCRIBED)
    await until(feed, lambda quote, _: quote == Quote(105.0, FRIDAY))


async def test_a_refused_symbol_is_asked_for_again_after_a_while(
    gateway: SimulatedGateway, feed: IbkrFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("SureshotSDK.feeds._ib_link._ASK_REFUSED_AGAIN_S", 0.1)
    assert await latest(feed, "HOOD") is None
    assert feed.why_none("HOOD") == "Interactive Brokers knows no US stock HOOD (200)"
    assert await history(feed, 5, "HOOD") == []
    gateway.set_price("HOOD", Decimal(30))

    def look() -> bool:
        return feed.latest("HOOD") == Quote(30.0, FRIDAY)

    await asyncio.to_thread(wait_until, look)


async def test_a_lost_connection_is_made_again_and_the_prices_go_on(
    gateway: SimulatedGateway, feed: IbkrFeed
) -> None:
    assert await latest(feed) == Quote(105.0, FRIDAY)
    await gateway.refuse_connections(True)
    gateway.drop_connections()
    away = f"IB Gateway at 127.0.0.1:{gateway.port} is away, connecting again: "
    await until(feed, lambda quote, why: quote is None and why.startswith(away))
    await until(feed, lambda _, why: "nothing listens there" in why)
    gateway.set_price("SPY", Decimal(109))
    await gateway.refuse_connections(False)
    await until(feed, lambda quote, _: quote == Quote(109.0, FRIDAY))
    assert gateway.snapshot().connections == [CLIENT_IDS[0]]


async def test_while_the_gateway_is_away_nothing_waits(
    gateway: SimulatedGateway, feed: IbkrFeed
) -> None:
    async with asyncio.timeout(20):
        assert await latest(feed) == Quote(105.0, FRIDAY)
        await gateway.refuse_connections(True)
        gateway.drop_connections()
        await until(feed, lambda quote, _: quote is None)
        for _ in range(10):  # ten times the patience would be 50 s
            assert await latest(feed, "SPXL") is None
        assert await history(feed, 3) == []


async def test_a_gateway_may_start_after_the_feed() -> None:
    port = free_port()
    async with feed_of(port, patience_s=0.1) as feed:
        await until(feed, lambda _, why: "nothing listens there" in why)
        assert await history(feed, 3) == []
        market = FixedMarket({"SPY": 1}, last_day=FRIDAY)
        async with SimulatedGateway(market=market, port=port):
            await until(feed, lambda quote, _: quote == Quote(1.0, FRIDAY))


async def test_a_host_that_is_none_is_said() -> None:
    async with feed_of(1, patience_s=0.1) as feed:
        feed._settings = IbkrSettings("no-such-host.invalid", 4002, (1,))
        await until(feed, lambda _, why: "there is no host of that name" in why)


@pytest.mark.parametrize("back", [1101, 1102])
async def test_while_ib_gateway_has_lost_the_broker_no_price_is_fresh(
    gateway: SimulatedGateway, feed: IbkrFeed, back: int
) -> None:
    assert await latest(feed) == Quote(105.0, FRIDAY)
    gateway.notice(1100)
    await until(feed, lambda quote, why: quote is None and "has lost Interactive Brokers" in why)
    gateway.market.set_price("SPY", Decimal(110))  # changed while nobody was told
    gateway.notice(back)
    assert await until(feed, lambda quote, _: quote) == Quote(110.0, FRIDAY)


async def test_a_lost_data_farm_takes_the_price_away_until_the_next_trade(
    gateway: SimulatedGateway, feed: IbkrFeed
) -> None:
    assert await latest(feed) == Quote(105.0, FRIDAY)
    gateway.notice(2103)
    await until(feed, lambda quote, why: quote is None and "data farm (2103)" in why)
    gateway.set_price("SPY", Decimal(111))
    await until(feed, lambda quote, _: quote == Quote(111.0, FRIDAY))


async def test_a_client_id_in_use_is_passed_over(gateway: SimulatedGateway, feed: IbkrFeed) -> None:
    async with feed_of(gateway.port) as first, asyncio.timeout(10):
        assert await latest(first) == Quote(105.0, FRIDAY)
        assert await latest(feed) == Quote(105.0, FRIDAY)
        assert gateway.snapshot().connections == list(CLIENT_IDS[:2])


async def test_when_no_client_id_is_free_it_is_said_and_tried_on(
    gateway: SimulatedGateway,
) -> None:
    gateway.set_scenario(Scenario.CLIENT_ID_TAKEN, times=len(CLIENT_IDS))
    async with feed_of(gateway.port, patience_s=0.1) as feed:
        why = "all its client ids are in use: 100001, 100002, 100003"
        await until(feed, lambda _, said: why in said)
        await until(feed, lambda quote, _: quote == Quote(105.0, FRIDAY))


async def test_a_gateway_that_falls_silent_is_left_and_found_again(
    gateway: SimulatedGateway, feed: IbkrFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ib_connection, "SILENCE_S", 0.6)
    monkeypatch.setattr(ib_connection, "CONNECT_S", 0.3)
    monkeypatch.setattr(ib_connection, "HISTORY_S", 0.3)
    assert await latest(feed) == Quote(105.0, FRIDAY)
    connected = gateway.snapshot().connections
    gateway.go_silent(True)
    assert await history(feed, 3) == []
    await until(feed, lambda _, why: "it does not answer" in why)
    gateway.go_silent(False)
    await until(feed, lambda quote, _: quote == Quote(105.0, FRIDAY))
    assert connected == [CLIENT_IDS[0]]


async def test_a_quiet_market_is_no_silence(
    gateway: SimulatedGateway, feed: IbkrFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ib_connection, "SILENCE_S", 0.6)
    end = time.monotonic() + 1.5  # unless it asked for the time, it would be away by then
    while time.monotonic() < end:
        assert await latest(feed) == Quote(105.0, FRIDAY)


async def test_a_closed_feed_leaves_nothing_behind_and_can_be_used_again(
    gateway: SimulatedGateway, feed: IbkrFeed
) -> None:
    assert await latest(feed) == Quote(105.0, FRIDAY)
    await asyncio.to_thread(feed.close)
    assert "ibkr-feed" not in [thread.name for thread in threading.enumerate()]
    await wait_until_async(lambda: left(gateway))
    assert await latest(feed) == Quote(105.0, FRIDAY)


async def left(gateway: SimulatedGateway) -> bool:
    return not gateway.snapshot().connections


async def test_closing_while_it_connects_does_not_wait(gateway: SimulatedGateway) -> None:
    gateway.go_silent(True)
    async with asyncio.timeout(10):
        async with feed_of(gateway.port, patience_s=0.1) as feed:
            assert await latest(feed) is None


def test_it_sends_nothing_but_requests_for_prices() -> None:
    uses = Path(ib_connection.__file__).read_text().split("self._client.")[1:]
    assert {use.partition("(")[0] for use in uses} == {
        "connectAsync",
        "disconnect",
        "getReqId",
        "reqCurrentTime",
        "reqMktData",
        "cancelMktData",
        "reqMarketDataType",
        "reqHistoricalData",
        "cancelHistoricalData",
    }


class Trend(Scheduler):
    name = "Trend_SPXL"

    def on_data(self, price: float) -> None:
        if price > self.sma.get_value() and not self.invested:
            self.buy_all(self.positionSymbol)


@pytest.fixture
def environment(gateway: SimulatedGateway, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {
        "PRICE_FEED": "ibkr",
        "IBKR_HOST": "127.0.0.1",
        "IBKR_PORT": str(gateway.port),
        "INTERVAL_S": "0.05",
        "SMA_WINDOW": "3",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


async def test_a_strategy_trades_on_its_prices_and_closes_it_at_the_end(
    gateway: SimulatedGateway,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "SureshotSDK")
    gateway.set_market_closed(True)
    portfolio = InMemoryPortfolio()
    portfolio.upsert_portfolio("Trend_SPXL", cash=1000)
    strategy = Trend(portfolio)
    running = asyncio.create_task(asyncio.to_thread(strategy.run))
    await asyncio.to_thread(wait_until, lambda: "the market of SPY is closed" in caplog.text)
    gateway.set_market_closed(False)
    await asyncio.to_thread(wait_until, lambda: list(portfolio.list_orders()))
    strategy.stop()
    await running
    [order] = portfolio.list_orders()
    assert (order.symbol, order.quantity, order.price) == ("SPXL", 19, 52.0)
    assert "average 104.00, SPXL 52 [Interactive Brokers]" in caplog.text
    assert "ibkr-feed" not in [thread.name for thread in threading.enumerate()]


async def test_a_sale_without_a_fresh_price_says_why(
    gateway: SimulatedGateway,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy = Trend(InMemoryPortfolio())
    assert await asyncio.to_thread(strategy.sell_all, "GONE") is None
    why = "no fresh price of GONE (Interactive Brokers knows no US stock GONE (200)), nothing was"
    assert why in caplog.text
    await asyncio.to_thread(strategy._close)


def settings_of(name: str = "Trend_SPXL", **environ: str) -> IbkrSettings:
    environ = {"PRICE_FEED": "ibkr", "IBKR_HOST": "gw", "IBKR_PORT": "4002", **environ}
    settings = read_settings(object(), {"strategy_name": name}, environ).ibkr
    assert settings
    return settings


def test_the_client_id_follows_from_the_strategys_name() -> None:
    ids = settings_of().client_ids
    assert ids == settings_of().client_ids
    assert ids != settings_of("Other_SPXL").client_ids
    assert len(ids) == 10
    assert set(ids) <= set(FEED_CLIENT_IDS)
    routers = str(ids[1])
    assert settings_of(IBKR_CLIENT_ID=routers).client_ids == (ids[0], *ids[2:])


def test_a_client_id_of_ones_own_comes_first() -> None:
    own = settings_of(IBKR_FEED_CLIENT_ID="7", IBKR_CLIENT_ID="1")
    assert own.client_ids == (7, *settings_of().client_ids)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"IBKR_HOST": ""}, "needs IBKR_HOST: where IB Gateway or TWS listens"),
        ({"IBKR_HOST": "", "IBKR_PORT": ""}, "needs IBKR_HOST and IBKR_PORT"),
        ({"IBKR_PORT": "0"}, "IBKR_PORT is 0; it is 1 to 65535"),
        ({"IBKR_PORT": "paper"}, "IBKR_PORT is 'paper'; it is a number"),
        ({"IBKR_FEED_CLIENT_ID": "-1"}, "IBKR_FEED_CLIENT_ID is -1; it is 0 to 2147483647"),
        ({"IBKR_FEED_CLIENT_ID": "7", "IBKR_CLIENT_ID": "7"}, "as is the router's"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        settings_of(**environ)


def test_without_a_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("SureshotSDK.feeds._ib_library.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="install the extra `ibkr`"):
        IbkrFeed(IbkrSettings("127.0.0.1", 4002, (1,)))


def test_the_library_is_loaded_late_and_touches_nothing_of_the_main_thread() -> None:
    code = (
        "import asyncio, sys\n"
        "from SureshotSDK.feeds import IbkrFeed, IbkrSettings\n"
        "assert not {'ib_insync', 'ib_async', 'eventkit'} & set(sys.modules)\n"
        f"with IbkrFeed(IbkrSettings('127.0.0.1', {free_port()}, (1,)), patience_s=0.1) as feed:\n"
        "    assert feed.latest('SPY') is None\n"
        "assert {'ib_insync', 'ib_async'} & set(sys.modules)\n"
        "assert asyncio.run.__module__ == 'asyncio.runners', 'it was patched'\n"
        "assert asyncio.run(asyncio.sleep(0, 'ran')) == 'ran'\n"
    )
    # An event loop that the library left in the main thread would be a ResourceWarning at the end.
    command = [sys.executable, "-W", "always", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
