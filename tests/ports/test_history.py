"""The history that all stores keep: in memory and on PostgreSQL; see `store`."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from services.portfolio.commands import (
    BuyAll,
    CreateOrder,
    DeletePosition,
    SetPosition,
    UpdateOrderStatus,
)
from services.portfolio.domain.book import RequestedMode, State, Strategy
from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.errors import NotAStrategyError, StrategyNotFoundError
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.money import LARGEST, ZERO
from services.portfolio.domain.order import Side, Status
from services.portfolio.domain.valuation import Valuation, ValuationKind
from services.portfolio.history.commands import CloseSession
from services.portfolio.history.history import History
from services.portfolio.history.ports import Close
from services.portfolio.ports import Changes, PositionFilter, StorageConflictError
from services.portfolio.risk.commands import HaltPortfolio, ResumePortfolio
from tests.history.desk import Desk, day, desk_on
from tests.ledger.values import d
from tests.ports.makers import LIVE, PAPER, at, book, opened, save
from tests.ports.stores import Store
from tests.writer.desks import BY_HAND, assert_balanced, order_of


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    """A desk with strategy A, which has 1000 USD; its ledger is balanced in the end."""
    async with desk_on(store) as one:
        await one.set_cash("A", 1000)
        yield one
        await assert_balanced(store.reads)


async def test_nothing_is_closed_before_a_second_session(desk: Desk) -> None:
    assert await desk.session("A") is None
    await desk.mark("A", day(1), SPXL=10)
    await desk.mark("A", day(1), SPXL=11)
    assert await desk.session("A") == day(1)
    assert await desk.closes("A") == []
    assert await desk.whole() == []
    report = await History(desk.store.history).report("A", None)
    assert (report.performance.days, report.performance.total_return) == (0, None)


async def test_a_later_session_closes_the_one_before_at_its_last_prices(desk: Desk) -> None:
    await desk.mark("A", day(1), SPXL=10)
    await desk.writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(60), d(10)))
    await desk.mark("A", day(1), SPXL="10.5")
    await desk.mark("A", day(4), SPXL=99)
    assert await desk.closes("A") == [Close(day(1), d(400), d(630), d(1000), 1.03, 1.0, 1.03)]
    (view,) = await desk.store.reads.portfolios(["A"])
    assert view.equity == 400 + 60 * 99
    await desk.mark("A", day(5), SPXL="9.75")
    first, second = await desk.closes("A")
    assert (second.session, second.equity, second.flow) == (day(4), 6340, 0)
    assert second.growth_before == first.growth
    assert second.daily_return == pytest.approx(6340 / 1030 - 1, abs=1e-15)


async def test_prices_of_an_earlier_session_only_mark(desk: Desk) -> None:
    await desk.mark("A", day(5), SPXL=10)
    await desk.mark("A", day(3), SPXL=7)
    assert await desk.session("A") == day(5)
    assert await desk.closes("A") == []
    await desk.writer.submit(SetPosition("A", "SPXL", d(1), d(5)))
    await desk.mark("A", day(3), SPXL=8)
    (view,) = await desk.store.reads.portfolios(["A"])
    assert view.positions_value == 8


async def test_prices_without_a_session_are_of_today_in_new_york(store: Store) -> None:
    now = datetime(2024, 3, 6, 4, 59, tzinfo=UTC)
    async with desk_on(store, clock=lambda: now) as desk:
        await desk.set_cash("A", 1000)
        await desk.mark("A", None, SPXL=10)
        assert await desk.session("A") == date(2024, 3, 5)
        now = datetime(2024, 3, 6, 5, 0, tzinfo=UTC)
        await desk.mark("A", None, SPXL=10)
        assert await desk.session("A") == date(2024, 3, 6)
        assert [close.session for close in await desk.closes("A")] == [date(2024, 3, 5)]
        # A clock of another replica that is behind takes nothing back.
        now = datetime(2024, 3, 6, 4, 59, tzinfo=UTC)
        await desk.mark("A", None, SPXL=10)
        assert await desk.session("A") == date(2024, 3, 6)
        await assert_balanced(store.reads)


async def test_who_names_its_sessions_is_never_taken_to_today(desk: Desk) -> None:
    await desk.mark("A", day(1), SPXL=10)
    await desk.mark("A", None, SPXL=11)
    await desk.writer.submit(CloseSession("A", date(2030, 1, 1), given=False))
    assert await desk.session("A") == day(1)
    await desk.mark("A", day(2), SPXL=12)
    assert [close.session for close in await desk.closes("A")] == [day(1)]


async def test_to_name_the_session_that_today_is_already_closes_nothing(store: Store) -> None:
    now = datetime(2024, 3, 5, 15, 0, tzinfo=UTC)
    async with desk_on(store, clock=lambda: now) as desk:
        await desk.set_cash("A", 1000)
        await desk.mark("A", None, SPXL=10)
        await desk.mark("A", date(2024, 3, 5), SPXL=10)
        now = datetime(2024, 3, 9, 15, 0, tzinfo=UTC)
        await desk.mark("A", None, SPXL=10)
        assert await desk.session("A") == date(2024, 3, 5)
        assert await desk.closes("A") == []


async def test_a_replay_that_begins_after_a_price_by_hand_has_its_history(desk: Desk) -> None:
    await desk.mark("A", None, SPXL=10)
    await desk.mark("A", day(1), SPXL=10)
    assert await desk.session("A") == day(1)
    await desk.mark("A", day(2), SPXL=10)
    assert [close.session for close in await desk.closes("A")] == [day(1)]


async def test_sessions_never_go_back_once_something_was_valued_in_one(store: Store) -> None:
    now = datetime(2024, 3, 5, 15, 0, tzinfo=UTC)
    async with desk_on(store, clock=lambda: now) as desk:
        for name in "AB":
            await desk.set_cash(name, 1000)
            await desk.mark(name, None, SPXL=10)
        await desk.set_cash("A", 2000)
        now = datetime(2024, 3, 6, 15, 0, tzinfo=UTC)
        await desk.mark("B", None, SPXL=10)
        for name in "AB":
            reached = await desk.session(name)
            await desk.mark(name, day(1), SPXL=10)
            await desk.mark(name, day(2), SPXL=10)
            assert await desk.session(name) == reached
        assert [close.session for close in await desk.whole()] == [date(2024, 3, 5)]
        await assert_balanced(store.reads)


async def test_prices_of_an_unknown_strategy_and_of_the_reserve_are_refused(desk: Desk) -> None:
    for name in ("Nobody", RESERVE):
        with pytest.raises(StrategyNotFoundError):
            await desk.mark(name, day(1), SPXL=10)
    reserve = Strategy(RESERVE, RequestedMode.PAPER, PAPER, State.HALTED, "", at(0))
    made = replace(opened(RESERVE, 9), strategies={RESERVE: reserve}, cash_entries=[])
    await save(desk.store.ledger, replace(made, books={(RESERVE, PAPER): book(RESERVE, ZERO)}))
    with pytest.raises(NotAStrategyError):
        await desk.mark(RESERVE, day(1), SPXL=10)


async def test_both_books_of_a_strategy_are_closed(desk: Desk) -> None:
    await desk.mark("A", day(1), SPXL=10)
    live = replace(book("A", d(50), 1), mode=LIVE)
    entries = opened("A", 50, LIVE).cash_entries
    await save(desk.store.ledger, Changes(books={("A", LIVE): live}, cash_entries=entries))
    await desk.mark("A", day(2), SPXL=10)
    assert [close.equity for close in await desk.closes("A", PAPER)] == [1000]
    assert [close.equity for close in await desk.closes("A", LIVE)] == [50]
    # That book is older than valuations: what it was first worth counts as what it began with.
    assert [close.flow for close in await desk.closes("A", LIVE)] == [50]


async def test_racing_prices_close_a_session_once(desk: Desk) -> None:
    for number in range(1, 6):
        await asyncio.gather(*(desk.mark("A", day(number), SPXL=10 + i) for i in range(20)))
    assert [close.session for close in await desk.closes("A")] == [day(n) for n in range(1, 5)]


async def test_a_session_closes_once_whatever_is_written(desk: Desk) -> None:
    await desk.mark("A", day(1), SPXL=10)
    await desk.mark("A", day(2), SPXL=10)
    close = Valuation(
        "A", PAPER, 3, day(1), ValuationKind.CLOSE, 1, d(1000), ZERO, ZERO, d(1), at(1)
    )
    with pytest.raises(StorageConflictError):
        await save(desk.store.ledger, Changes(valuations=[close], books={}))


async def test_what_comes_and_goes_is_a_flow_and_no_growth(desk: Desk) -> None:
    await desk.mark("A", day(1), SPXL=10)
    await desk.writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(50), d(10)))
    await desk.mark("A", day(2), SPXL=11)  # 1000 at the close before it
    await desk.set_cash("A", 2500)  # 1050 until then, 3050 after
    await desk.writer.submit(SetPosition("A", "AVL", d(10), d(5)))
    await desk.mark("A", day(2), SPXL=22, AVL=5)
    await desk.set_cash("A", 500)
    await desk.mark("A", day(3), SPXL=1)
    first, second = await desk.closes("A")
    assert (first.equity, first.flow, first.growth) == (1000, 1000, 1.0)
    assert (second.equity, second.flow) == (500 + 50 * 22 + 50, 2000 + 50 - 2000)
    assert second.growth == pytest.approx(1.05 * (2500 + 1100 + 50) / 3100, rel=1e-12)


async def test_pages_of_closes_cover_everything_once_newest_first(desk: Desk) -> None:
    await desk.set_cash("B", 500)
    for number in range(1, 12):
        await desk.mark("A", day(number), SPXL=10 + number)
        await desk.mark("B", day(number * 2), SPXL=10 + number)
    history = History(desk.store.history)
    for name, everything in (("A", await desk.closes("A")), ("", await desk.whole())):
        assert len(everything) >= 10
        pages: list[Close] = []
        before = None
        while page := await history.closes(name, None, before, 3):
            assert len(page) <= 3
            pages += page
            before = page[-1].session
        assert pages == everything[::-1]


async def test_the_whole_counts_who_did_not_close_as_before(desk: Desk) -> None:
    await desk.set_cash("B", 3000)
    await desk.set_cash("C", 77)  # never reports a price
    for name in "AB":
        await desk.mark(name, day(1), SPXL=10)
        await desk.writer.submit(CreateOrder(name, "SPXL", Side.BUY, d(100), d(10)))
    await desk.mark("A", day(2), SPXL=11)
    await desk.mark("B", day(2), SPXL=11)
    await desk.mark("A", day(3), SPXL=12)  # closes day 2 at 1100; B is silent
    await desk.mark("A", day(4), SPXL=12)  # closes day 3 at 1200
    await desk.mark("B", day(4), SPXL=22)  # closes day 2 at 3100, later
    await desk.mark("A", day(5), SPXL=12)
    await desk.mark("B", day(5), SPXL=22)  # closes day 4 at 4200
    closes = await desk.whole()
    assert [(c.session, c.equity, c.cash, c.flow) for c in closes] == [
        (day(1), 4000, 2000, 4000),
        (day(2), 4200, 2000, 0),
        (day(3), 4300, 2000, 0),
        (day(4), 5400, 2000, 0),
    ]
    assert [c.growth for c in closes] == pytest.approx([1, 4200 / 4000, 4300 / 4000, 5400 / 4000])
    assert closes[2].growth_before == pytest.approx(closes[1].growth)


async def test_what_moves_from_one_strategy_to_another_is_no_gain_of_the_whole(
    desk: Desk,
) -> None:
    await desk.set_cash("B", 1000)
    for name in "AB":
        await desk.mark(name, day(1), SPXL=10)
    await desk.writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(20), d(10)))
    await desk.mark("A", day(2), SPXL=10)
    await desk.mark("B", day(2), SPXL=10)
    await desk.set_cash("A", 300)  # 500 go to B, and 100 more come from outside
    await desk.set_cash("B", 1600)
    await desk.mark("A", day(2), SPXL=11)  # A has 500 and makes 4 %
    for name in "AB":
        await desk.mark(name, day(3), SPXL=11)
    first, second = await desk.whole()
    assert (first.equity, second.equity, second.flow) == (2000, 2120, 100)
    assert second.growth == pytest.approx(1 + 0.04 * 500 / 2100, rel=1e-12)


async def test_the_reserve_is_no_part_of_the_whole(desk: Desk) -> None:
    await desk.mark("A", day(1), SPXL=10)
    await desk.mark("A", day(2), SPXL=10)
    reserve = Strategy(RESERVE, RequestedMode.PAPER, PAPER, State.HALTED, "", at(0))
    worth = Valuation(
        RESERVE, PAPER, 1, day(1), ValuationKind.CLOSE, 1, d(9), ZERO, ZERO, d(1), at(1)
    )
    made = opened(RESERVE, 9)
    await save(desk.store.ledger, replace(made, strategies={RESERVE: reserve}, valuations=[worth]))
    assert [close.equity for close in await desk.whole()] == [1000]
    assert await desk.store.history.strategy(RESERVE) is None


async def test_the_whole_is_of_the_books_in_force_unless_a_mode_is_named(store: Store) -> None:
    async with desk_on(store) as desk:
        for name, mode in (("P", PAPER), ("L", LIVE)):
            await save(store.ledger, opened(name, 100, mode))
        await save(store.ledger, replace(opened("L", 7, PAPER), strategies={}))
        for number in (1, 2):
            for name in "PL":
                await desk.mark(name, day(number), SPXL=1)
        equities = {mode: await desk.whole(mode) for mode in (None, LIVE, PAPER)}
        assert {mode: [c.equity for c in closes] for mode, closes in equities.items()} == {
            None: [200],
            LIVE: [100],
            PAPER: [107],
        }
        history = History(store.history)
        assert [close.equity for close in await history.closes("L", None, None, 9)] == [100]
        assert [close.equity for close in await history.closes("L", PAPER, None, 9)] == [7]
        assert (await history.report("L", None)).mode is LIVE
        assert (await history.report("", None)).mode is None


async def test_once_all_is_lost_the_whole_stays_at_nothing(store: Store) -> None:
    ruined = opened("A", 100)
    growths = ["1", "0", "0"]
    ruined.valuations.extend(
        Valuation(
            "A",
            PAPER,
            number,
            day(number),
            ValuationKind.CLOSE,
            1,
            d(100) * d(growth),
            ZERO,
            ZERO,
            d(growth),
            at(number),
        )
        for number, growth in enumerate(growths, 1)
    )
    await save(store.ledger, ruined)
    for closes in (
        await store.history.closes(("A", PAPER), None, None),
        await store.history.closes_of_all(None, None, None),
    ):
        assert [close.growth for close in closes] == [0, 0, 1]
        assert [close.daily_return for close in closes] == [0, -1, 0]
        assert [close.drawdown for close in closes] == [1, 1, 0]
    performance = (await History(store.history).report("A", None)).performance
    assert (performance.total_return, performance.max_drawdown) == (-1, 1)


async def test_trades_are_summed_with_what_they_slipped(store: Store) -> None:
    async with desk_on(store, BY_HAND) as desk:
        for name in "AB":
            await desk.set_cash(name, 10_000)
        fills = [("A", Side.BUY, 10, 100, 6, "101.5", 1), ("A", Side.SELL, 5, 100, 5, "99", 2)]
        fills += [("B", Side.BUY, 1, 50, 1, "49", 3)]
        for name, side, quantity, price, filled, fill_price, commission in fills:
            order = CreateOrder(name, "SPXL", side, d(quantity), d(price))
            placed = await order_of(desk.writer, order)
            report = Report(Status.CANCELLED, d(filled), d(fill_price), d(commission))
            if filled == quantity:
                report = replace(report, status=Status.EXECUTED)
            await desk.writer.submit(UpdateOrderStatus(placed.order_id, report))
        await desk.writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(1), d(100)))  # stays open
        trades = await store.history.trades("A", None)
        assert (trades.value, trades.orders, trades.commission) == (d("609") + 495, 2, 3)
        assert trades.slippage == 6 * d("1.5") + 5
        trades = await store.history.trades(None, PAPER)
        assert (trades.value, trades.orders, trades.commission) == (d("609") + 495 + 49, 3, 6)
        assert trades.slippage == 6 * d("1.5") + 5 - 1
        assert (await store.history.trades(None, LIVE)).orders == 0
        assert (await store.history.trades("Nobody", None)).value == 0
        await assert_balanced(store.reads)


async def test_reality_compares_both_books_since_the_strategy_went_live(store: Store) -> None:
    async with desk_on(store) as desk:
        await desk.set_cash("A", 1000)
        await desk.mark("A", day(1), SPXL=10)
        await desk.writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(100), d(10)))
        await desk.mark("A", day(2), SPXL=20)
        await desk.writer.submit(CreateOrder("A", "SPXL", Side.SELL, d(100), d(30)))
        # It has tripled its money before it goes LIVE, in the middle of day 2.
        (view,) = await store.reads.portfolios(["A"])
        assert (await store.history.strategy("A")) == (PAPER, None)
        since = view.update_time
        live = Strategy(
            "A", RequestedMode.LIVE, LIVE, State.ACTIVE, "", since, day(2), True, live_since=since
        )
        await save(store.ledger, replace(opened("A", 500, LIVE), strategies={"A": live}))
        history = History(store.history)
        report = await history.report("A", None)
        assert report.reality is not None
        assert (report.reality.days, report.reality.live_return) == (0, 0)
        await desk.mark("A", day(3), SPXL=20)
        paper, reality = await _after_cash(desk, "A", 3300, 510)
        report = await history.report("A", PAPER)
        assert report.reality is not None
        assert report.reality.days == 2
        assert report.reality.paper_return == pytest.approx(paper)
        assert report.reality.live_return == pytest.approx(reality)
        assert (await history.report("", None)).reality is None


async def _after_cash(desk: Desk, name: str, paper: int, live: int) -> tuple[float, float]:
    """Both books gain until their cash is this, and the session closes; the gains."""
    ledger = desk.store.ledger
    gains = []
    for mode, cash in ((PAPER, paper), (LIVE, live)):
        closes = await desk.closes(name, mode)
        gains.append(cash / float(closes[-1].equity) - 1)
        number = len(closes) + 2 if mode is PAPER else 2
        growth = Decimal(repr(closes[-1].growth)) * cash / closes[-1].equity
        worth = Valuation(
            name,
            mode,
            number,
            day(3),
            ValuationKind.CLOSE,
            9,
            d(cash),
            ZERO,
            ZERO,
            growth.quantize(d("1e-18")),
            datetime.now(UTC),
        )
        await save(ledger, Changes(valuations=[worth]))
    return gains[0], gains[1]


async def test_an_absurd_price_keeps_no_book_from_being_valued_again(desk: Desk) -> None:
    cheap, dear = d("0.00000001"), 1_000_000_000  # the least and the greatest there is
    for number in (1, 2):  # each time it becomes 10^17 times as much
        await desk.mark("A", day(number), SPXL=cheap)
        await desk.writer.submit(BuyAll("A", "SPXL", cheap))
        await desk.mark("A", day(number), SPXL=dear)
        await desk.mark("A", day(number + 1), SPXL=dear)
        await desk.writer.submit(HaltPortfolio())
        await desk.writer.submit(ResumePortfolio())
        (held,) = await desk.store.reads.positions(PositionFilter("A"), None, 9)
        await desk.writer.submit(DeletePosition(held.position_id))
        await desk.set_cash("A", "1000.01")
    first, last = await desk.closes("A")
    assert first.positions_value == last.positions_value == LARGEST
    assert (first.growth, last.growth) == (pytest.approx(1e17), 1e20)


async def test_a_cost_that_is_set_by_hand_is_no_price(desk: Desk) -> None:
    await desk.mark("A", day(1), SPXL=10)
    await desk.writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(50), d(10)))
    await desk.mark("A", day(1), SPXL=20)
    await desk.writer.submit(SetPosition("A", "SPXL", d(50), d(8)))  # of shares worth 20
    await desk.writer.submit(SetPosition("A", "SPXL", d(60), d(8)))
    (view,) = await desk.store.reads.positions(PositionFilter("A"), None, 9)
    assert (view.average_cost, view.market_price) == (8, 20)
    await desk.mark("A", day(1), SPXL=20)
    await desk.mark("A", day(2), SPXL=20)
    (close,) = await desk.closes("A")
    assert (close.growth, close.flow) == (1.5, 1000 + 10 * 20)
