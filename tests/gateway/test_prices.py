"""Market data and the account as the real client library sees them."""

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.gateway import FixedMarket, SampleMarket, Side
from services.gateway.account import Account, commission_of
from services.gateway.market import WARM_UP_DAYS
from services.gateway.prices import LIVE_TICKS
from services.gateway.records import Execution
from SureshotSDK.feeds._replay import sample_closes
from tests.gateway.client import IS_IB_ASYNC, client_of, numbered, stock
from tests.support.gateway import gateway

FRIDAY = date(2024, 1, 5)


def a_market() -> FixedMarket:
    return FixedMarket({"SPXL": ["98", "99.5", "101.25"]}, last_day=FRIDAY)


async def bars_of(client: Any, symbol: str = "SPXL", **changes: Any) -> list[tuple[date, float]]:
    asked = {
        "endDateTime": "",
        "durationStr": "30 D",
        "barSizeSetting": "1 day",
        "whatToShow": "TRADES",
        "useRTH": True,
        **changes,
    }
    bars = await client.ib.reqHistoricalDataAsync(stock(symbol), **asked)
    return [(bar.date, bar.close) for bar in bars]


async def test_daily_bars_end_with_the_current_day() -> None:
    async with gateway(market=a_market()) as broker, client_of(broker) as client:
        all_bars = [(date(2024, 1, 3), 98.0), (date(2024, 1, 4), 99.5), (FRIDAY, 101.25)]
        assert await bars_of(client) == all_bars
        assert await bars_of(client, durationStr="2 D") == all_bars[1:]
        assert await bars_of(client, durationStr="1 Y", whatToShow="ADJUSTED_LAST") == all_bars
        assert await bars_of(client, endDateTime="20240104 16:00:00 US/Eastern") == all_bars[:2]
        broker.next_day()
        assert (await bars_of(client))[-1] == (date(2024, 1, 8), 101.25)


async def test_bars_that_there_are_not_are_an_empty_list_and_an_error() -> None:
    async with gateway(market=a_market()) as broker, client_of(broker) as client:
        assert await bars_of(client, endDateTime="20200101 16:00:00 US/Eastern") == []
        assert await bars_of(client, "ZZZZ") == []
        assert await bars_of(client, barSizeSetting="1 min") == []
        assert await bars_of(client, durationStr="soon") == []
        assert client.seen == ["error 162", "error 200", "error 162", "error 162"]


async def test_a_snapshot_gives_bid_ask_last_and_the_close_before() -> None:
    async with gateway(market=a_market()) as broker, client_of(broker) as client:
        (ticker,) = await client.ib.reqTickersAsync(numbered("SPXL"))
        assert (ticker.bid, ticker.ask, ticker.last, ticker.close) == (101.24, 101.26, 101.25, 99.5)
        if IS_IB_ASYNC:  # ib_insync drops this tick
            assert ticker.lastTimestamp.date() == FRIDAY


async def test_the_time_of_the_last_trade_says_which_day_it_is() -> None:
    async with gateway(market=a_market()) as broker, client_of(broker) as client:
        ticks: list[tuple[int, str]] = []
        wrapper = client.ib.wrapper
        wrapper.tickString = lambda _request, kind, text: ticks.append((kind, text))
        await client.ib.reqTickersAsync(numbered("SPXL"))
        assert ticks == [(LIVE_TICKS[-1], "1704488399")]  # 2024-01-05 15:59:59 in New York


async def test_a_stream_follows_prices_days_and_the_close_of_the_market() -> None:
    async with gateway(market=a_market()) as broker, client_of(broker) as client:
        ticker = client.ib.reqMktData(numbered("SPXL"))
        await client.settled()
        assert ticker.last == 101.25
        broker.set_price("SPXL", Decimal("102.5"))
        await client.settled()
        assert (ticker.last, ticker.close) == (102.5, 99.5)
        broker.next_day()
        await client.settled()
        assert (ticker.last, ticker.close) == (102.5, 102.5)
        broker.set_market_closed(True)
        await client.settled()
        assert (ticker.bid, ticker.ask, ticker.last) == (-1, -1, 102.5)
        client.ib.cancelMktData(ticker.contract)
        await client.settled()
        broker.set_price("SPXL", Decimal(1))
        await client.settled()
        assert ticker.last == 102.5


async def test_market_data_that_the_account_may_not_see_is_an_error() -> None:
    async with gateway(market=a_market()) as broker, client_of(broker) as client:
        for data, code in (("DELAYED_ONLY", 354), ("UNSUBSCRIBED", 10089), ("COMPETING", 10197)):
            broker.set_market_data(data)
            client.seen_from_now()
            ticker = client.ib.reqMktData(numbered("SPXL"))
            await client.settled()
            assert client.seen == [f"error {code}"]
            assert math.isnan(ticker.last)
            client.ib.cancelMktData(ticker.contract)
        broker.set_market_data("DELAYED_ONLY")
        client.ib.reqMarketDataType(3)
        ticker = client.ib.reqMktData(numbered("SPXL"))
        await client.settled()
        assert (ticker.last, ticker.marketDataType) == (101.25, 3)


async def test_an_unknown_symbol_has_no_prices() -> None:
    async with gateway() as broker, client_of(broker) as client:
        client.ib.reqMktData(numbered("ZZZZ"))
        await client.settled()
        assert client.seen == ["error 200"]


async def test_the_sample_market_shows_the_days_that_the_replay_feed_shows() -> None:
    market = SampleMarket()
    recorded = sample_closes("SPXL")
    shown = market.closes("SPXL")
    assert len(shown) == WARM_UP_DAYS + 1
    assert float(shown[-1].price) == recorded[shown[-1].day]
    market.go_to(3)
    assert market.closes("SPXL")[-4] == shown[-1]
    market.set_price("SPXL", Decimal(7))
    assert market.closes("SPXL")[-1].price == 7
    market.go_to(10**9)
    assert market.closes("SPXL")[-1].day == max(recorded)
    assert market.closes("ZZZZ") == []


async def test_positions_carry_the_listing_exchange_and_the_account_its_figures() -> None:
    async with gateway(cash=Decimal(10_000)) as broker, client_of(broker) as client:
        client.place("BUY", 10)
        client.place("SELL", 4, ref="ref-2")
        await client.settled()
        (held,) = await client.ib.reqPositionsAsync()
        assert (held.contract.exchange, held.position) == ("ARCA", 6)
        assert held.avgCost == 100.11  # 100.01 and a tenth of the commission of 1.00
        bought, sold = client.ib.fills()
        assert (bought.commissionReport.commission, bought.commissionReport.realizedPNL) == (1, 0)
        # 4 shares at 99.99 that cost 100.11 each, less the commission
        assert sold.commissionReport.realizedPNL == -1.48
        cash = 10_000 - Decimal("1000.10") - 1 + Decimal("399.96") - 1
        assert broker.snapshot().cash == cash
        broker.deposit(Decimal("0.5"))
        figures = {one.tag: one.value for one in await client.ib.accountSummaryAsync()}
        assert figures["TotalCashValue"] == f"{cash + Decimal('0.5'):.2f}"
        assert figures["NetLiquidation"] == f"{cash + Decimal('600.5'):.2f}"
        await client.settled()
        streamed = {one.tag: one.value for one in client.ib.accountValues()}
        assert streamed["AvailableFunds"] == figures["TotalCashValue"]


def test_commission_is_that_of_the_fixed_plan() -> None:
    assert [commission_of(Decimal(n)) for n in (1, 200, 201, 1000)] == [
        1,
        1,
        Decimal("1.01"),
        5,
    ]


trades = st.tuples(
    st.sampled_from(Side), st.integers(1, 500), st.decimals("0.01", "999.99", places=2)
)


@given(st.lists(trades, max_size=30))
def test_cash_and_shares_are_the_sum_of_the_trades(
    made: list[tuple[Side, int, Decimal]],
) -> None:
    account = Account(Decimal(1000))
    for number, (side, shares, price) in enumerate(made):
        account.book(an_execution(number, side, Decimal(shares), price))
    signed = [(side.sign * shares, price, shares) for side, shares, price in made]
    assert account.holding("SPXL").quantity == sum(shares for shares, _, _ in signed)
    assert account.cash == 1000 - sum(
        shares * price + commission_of(Decimal(count)) for shares, price, count in signed
    )


def an_execution(number: int, side: Side, shares: Decimal, price: Decimal) -> Execution:
    return Execution(
        f"a.{number}.01",
        1,
        1,
        1,
        "",
        "SPXL",
        side,
        shares,
        price,
        shares,
        price,
        commission_of(shares),
        None,
        datetime(2024, 1, 5, tzinfo=UTC),
    )
