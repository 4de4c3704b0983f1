"""Plans carried out on a real ledger: what moves, what is due, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
import uuid_utils.compat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.portfolio.allocation.commands import CarryOut, KeepPlan, SettleDue
from services.portfolio.commands import CreateOrder, SetState, UpsertPortfolio
from services.portfolio.domain.audit import Difference
from services.portfolio.domain.book import CashKind, State
from services.portfolio.domain.capital import (
    RESERVE,
    AllocationPolicy,
    Bound,
    PlanState,
)
from services.portfolio.domain.errors import (
    InsufficientCashError,
    LedgerError,
    NotAStrategyError,
    PlanNotFoundError,
    PlanOutdatedError,
    RequestIdReusedError,
)
from services.portfolio.domain.order import Mode, Side
from services.portfolio.domain.reconciliation import Reconciliation
from services.portfolio.live.commands import ShareCash
from services.portfolio.ports import Changes, Needs, UnavailableError
from services.portfolio.storage.memory import MemoryLedger
from tests.allocation.desk import Desk, desk_on
from tests.ledger.values import NOW, d
from tests.ports.makers import LIVE, PAPER, at, book, opened, save, strategy
from tests.ports.stores import Store, memory_store
from tests.support.waiting import wait_until_async
from tests.writer.desks import BY_HAND, writer_on

new_id = uuid_utils.compat.uuid7


async def test_free_cash_moves_at_once_through_the_reserve(desk: Desk) -> None:
    await desk.open(A="900", B="100")
    plan = await desk.allocator.rebalance()
    assert await desk.cash("A", "B", RESERVE) == [500, 500, 0]
    assert (plan.state, plan.capital) == (PlanState.CARRIED_OUT, 1000)
    assert [row.moves_now for row in plan.rows] == [-400, 400, 0]
    assert await desk.allocator.rebalance()  # there is nothing left to move
    assert await desk.cash("A", "B", RESERVE) == [500, 500, 0]


async def test_a_dry_run_moves_nothing_and_can_be_carried_out(desk: Desk) -> None:
    await desk.open(A="900", B="100")
    plan = await desk.allocator.plan(AllocationPolicy(cash_floor=d("0.1")))
    assert await desk.cash("A", "B") == [900, 100]
    assert [row.target_equity for row in plan.rows] == [450, 450, 100]
    carried = await desk.allocator.rebalance(plan.plan_id)
    assert replace(carried, state=plan.state, carry_out_time=None) == plan
    assert await desk.cash("A", "B", RESERVE) == [450, 450, 100]


async def test_shares_are_not_sold_and_their_part_is_due(desk: Desk) -> None:
    await desk.open(A="1000", B="0")
    await desk.buy_all("A", "300")  # 3 shares, 100 stay
    await desk.allocator.rebalance()
    assert await desk.cash("A", "B") == [0, 100]
    assert await desk.dues("A", "B") == [-400, 400, 0]
    with pytest.raises(InsufficientCashError, match=r"-400\.00 USD is free"):
        await desk.writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(1), d(1)))
    await desk.treasurer.look()
    assert await desk.cash("A", "B") == [0, 100]
    await desk.sell_all("A", "310")
    await desk.treasurer.look()
    assert await desk.cash("A", "B", RESERVE) == [530, 500, 0]
    assert await desk.dues("A", "B") == [0, 0, 0]


async def test_who_was_flat_for_a_moment_only_cannot_spend_what_it_owes(desk: Desk) -> None:
    await desk.open(A="1000", B="0")
    await desk.buy_all("A", "100")
    await desk.allocator.rebalance()
    await desk.sell_all("A", "100")
    await desk.buy_all("A", "100")
    assert (await desk.book("A")).positions["SPXL"].quantity == 5
    await desk.treasurer.look()
    assert await desk.cash("A", "B") == [0, 500]


async def test_losses_until_the_sale_are_not_asked_for(desk: Desk) -> None:
    await desk.open(A="1000", B="0")
    await desk.buy_all("A", "100")
    await desk.allocator.rebalance()
    await desk.sell_all("A", "10")
    await desk.treasurer.look()
    assert await desk.cash("A", "B") == [0, 100]
    assert await desk.dues("A", "B") == [0, 400, 0]
    await desk.treasurer.look()
    assert await desk.dues("A", "B") == [0, 400, 0]


async def test_a_new_plan_takes_the_place_of_all_dues(desk: Desk) -> None:
    await desk.open(A="1000", B="0", C="0")
    await desk.buy_all("A", "100")
    await desk.allocator.rebalance()
    assert await desk.dues("A", "B", "C") == [d("-666.67"), d("333.33"), d("333.33"), d("0.01")]
    desk.solver.weights = {"A": 1.0, "B": 0.0, "C": 0.0}
    await desk.allocator.rebalance()
    assert await desk.dues("A", "B", "C") == [0, 0, 0, 0]


async def test_the_reserve_never_falls_below_its_floor(desk: Desk) -> None:
    await desk.open(A="1000", B="0")
    await desk.buy_all("A", "500")
    policy = AllocationPolicy(cash_floor=d("0.2"))
    plan = await desk.allocator.plan(policy)
    await desk.allocator.rebalance(plan.plan_id)
    assert await desk.dues("A", "B") == [-600, 400, 200]
    await desk.sell_all("A", "150")  # 300 of the 600 that it owes
    await desk.treasurer.look()
    assert await desk.cash("A", "B", RESERVE) == [0, 100, 200]


async def test_halted_and_removed_strategies_give_what_they_have(desk: Desk) -> None:
    await desk.open(A="100", H="200", R="300", N="0")
    await desk.writer.submit(SetState("H", State.HALTED, "tired"))
    plan = await desk.allocator.plan(AllocationPolicy(bounds=(Bound("R", d(0), d(0)),)))
    why = {row.strategy_name: row.why for row in plan.rows}
    assert why["H"] == "It is HALTED (tired), and who is gets nothing."
    assert why["R"].startswith("Its max_weight is 0")
    await desk.allocator.rebalance(plan.plan_id)
    assert await desk.cash("A", "H", "R", "N", RESERVE) == [300, 0, 0, 300, 0]


async def test_what_is_told_of_a_plan_follows_what_really_moved(desk: Desk) -> None:
    await desk.open(A="1000", B="0")
    await desk.buy_all("A", "100")
    plan = await desk.allocator.plan()
    assert plan.rows[0].told.endswith("It gives 500.00 USD more when it is flat.")
    await desk.sell_all("A", "100")
    carried = await desk.allocator.rebalance(plan.plan_id)
    assert [row.moves_later for row in carried.rows] == [0, 0, 0]
    assert "flat" not in " ".join(row.told for row in carried.rows)


async def test_a_strategy_that_was_halted_since_gets_nothing(desk: Desk) -> None:
    await desk.open(A="900", B="100")
    plan = await desk.allocator.plan()
    await desk.writer.submit(SetState("B", State.HALTED, "tired"))
    with pytest.raises(PlanOutdatedError, match="gives cash to B, which is HALTED now"):
        await desk.allocator.rebalance(plan.plan_id)
    assert await desk.cash("A", "B") == [900, 100]
    await desk.writer.submit(SetState("B", State.ACTIVE))
    await desk.writer.submit(SetState("A", State.HALTED, "tired"))
    await desk.allocator.rebalance(plan.plan_id)  # who gives may be halted
    assert await desk.cash("A", "B") == [500, 500]


async def test_strategies_that_came_after_a_plan_keep_what_they_have(desk: Desk) -> None:
    await desk.open(A="900", B="100")
    plan = await desk.allocator.plan()
    await desk.open(C="50")
    carried = await desk.allocator.rebalance(plan.plan_id)
    assert await desk.cash("A", "B", "C") == [500, 500, 50]
    assert [row.strategy_name for row in carried.rows] == ["A", "B", RESERVE]


async def test_transfers_are_no_return(desk: Desk) -> None:
    await desk.open(A="1000", B="0")
    await desk.buy_all("A", "100")
    await desk.allocator.rebalance()
    await desk.sell_all("A", "110")
    await desk.treasurer.look()
    book = await desk.book("A")
    assert book.cash == 600
    assert await last_growth_and_flow(desk, "A") == (d("1.1"), d(-500))


async def last_growth_and_flow(desk: Desk, name: str) -> tuple[Decimal, Decimal]:
    """Of the last valuation."""
    async with desk.store.ledger.transaction() as transaction:
        found = await transaction.load(Needs({name}, valued=True))
    valuation = found.valuations[name, PAPER]
    return valuation.growth, valuation.flow


async def test_a_plan_is_carried_out_once(desk: Desk) -> None:
    await desk.open(A="900", B="100")
    plan = await desk.allocator.plan()
    await desk.allocator.rebalance(plan.plan_id)
    with pytest.raises(PlanOutdatedError, match="was carried out before"):
        await desk.allocator.rebalance(plan.plan_id)


async def test_an_unknown_plan_is_not_found(desk: Desk) -> None:
    with pytest.raises(PlanNotFoundError, match="There is no plan"):
        await desk.allocator.rebalance(new_id())


@pytest.mark.parametrize(
    ("minutes", "outdated"), [(59, False), (61, True)], ids=["within an hour", "after it"]
)
async def test_a_plan_is_good_for_an_hour(desk: Desk, minutes: int, outdated: bool) -> None:
    await desk.open(A="900", B="100")
    plan = await desk.allocator.plan()
    old = replace(plan, create_time=plan.create_time - timedelta(minutes=minutes))
    await desk.writer.submit(KeepPlan(old))
    if outdated:
        with pytest.raises(PlanOutdatedError, match="is 61 minutes old, and 60 are allowed"):
            await desk.allocator.rebalance(plan.plan_id)
        assert await desk.cash("A", "B") == [900, 100]
    else:
        await desk.allocator.rebalance(plan.plan_id)
        assert await desk.cash("A", "B") == [500, 500]


@pytest.mark.parametrize(
    ("cash", "outdated"),
    [("1000.00", False), ("1000.01", True), ("800.00", False), ("799.99", True)],
)
async def test_a_tenth_of_the_capital_may_have_come_or_gone(
    desk: Desk, cash: str, outdated: bool
) -> None:
    await desk.open(A="900", B="100")
    plan = await desk.allocator.plan()
    await desk.open(A=cash)
    if outdated:
        with pytest.raises(PlanOutdatedError, match=r"shares 1000\.00 USD, and there are"):
            await desk.allocator.rebalance(plan.plan_id)
        return
    await desk.allocator.rebalance(plan.plan_id)
    half = (d(cash) + 100) / 2
    assert await desk.cash("A", "B", RESERVE) == [half, half, 0]


async def test_a_request_id_carries_out_one_plan(desk: Desk) -> None:
    await desk.open(A="900", B="100")
    first = await desk.allocator.rebalance(request_id="once")
    await desk.open(A="900")
    assert await desk.allocator.rebalance(request_id="once") == first
    assert await desk.cash("A") == [900]
    assert len(desk.solver.asked) == 1  # and the second time nothing was computed
    with pytest.raises(RequestIdReusedError):
        await desk.allocator.rebalance(first.plan_id, request_id="once")


async def test_two_replicas_that_carry_out_the_same_move_once(store: Store) -> None:
    async with desk_on(store) as one, desk_on(store) as other:
        await one.open(A="900", B="100")
        answers = await asyncio.gather(
            *(
                desk.allocator.rebalance(request_id="rebalance:PAPER:2013-02")
                for desk in (one, other)
            )
        )
        assert answers[0] == answers[1]
        assert await one.cash("A", "B") == [500, 500]
        assert (
            sum(p.state is PlanState.CARRIED_OUT for p in await one.allocator.plans(None, 9)) == 1
        )


async def test_two_treasurers_settle_once(store: Store) -> None:
    async with desk_on(store) as one, desk_on(store) as other:
        await one.open(A="1000", B="0")
        await one.buy_all("A", "100")
        await one.allocator.rebalance()
        await one.sell_all("A", "100")
        await asyncio.gather(one.treasurer.look(), other.treasurer.look())
        assert await one.cash("A", "B", RESERVE) == [500, 500, 0]


@pytest.fixture
async def treasurer(desk: Desk) -> AsyncIterator[Desk]:
    """The desk with its treasurer at work."""
    task = asyncio.create_task(desk.treasurer.run())
    yield desk
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_treasurer_settles_as_soon_as_somebody_is_flat(treasurer: Desk) -> None:
    desk = treasurer
    await desk.open(A="1000", B="0")
    await desk.buy_all("A", "100")
    await desk.allocator.rebalance()
    await desk.sell_all("A", "100")

    async def settled() -> bool:
        return await desk.cash("A", "B") == [500, 500]

    await wait_until_async(settled, 4, "the treasurer settles")  # it looks on its own every 5 s


async def test_the_treasurer_looks_at_all_when_the_feed_is_back(treasurer: Desk) -> None:
    desk = treasurer
    await desk.open(A="1000", B="0")
    await desk.buy_all("A", "100")
    await desk.allocator.rebalance()
    await desk.store.cut()

    async def settled() -> bool:
        try:
            if (await desk.book("A")).positions["SPXL"].quantity:
                await desk.sell_all("A", "100")
            return await desk.cash("A", "B") == [500, 500]
        except UnavailableError:  # the writer's connection was cut too
            return False

    await wait_until_async(settled, 20, "the treasurer settles")


async def test_nobody_trades_for_the_reserve_or_sets_its_cash(desk: Desk) -> None:
    await desk.open(A="900", B="100")
    await desk.allocator.rebalance()
    with pytest.raises(NotAStrategyError):
        await desk.buy_all(RESERVE)
    with pytest.raises(NotAStrategyError, match="Give a strategy another name"):
        await desk.writer.submit(UpsertPortfolio(RESERVE, d(5)))
    names = [view.strategy_name for view in await desk.store.reads.portfolios()]
    assert names == ["A", "B"]


async def test_cash_that_an_open_order_has_reserved_stays(store: Store) -> None:
    async with desk_on(store) as desk, writer_on(store.ledger, BY_HAND) as by_hand:
        await desk.open(A="1000", B="0")
        await by_hand.submit(CreateOrder("A", "SPXL", Side.BUY, d(7), d(100)))
        await desk.allocator.rebalance()
        assert await desk.cash("A", "B") == [700, 300]
        assert await desk.dues("A", "B") == [-200, 200, 0]


async def test_the_audit_finds_a_transfer_that_lacks_its_other_half(store: Store) -> None:
    async with desk_on(store) as desk:
        await desk.open(A="900", B="100")
        await desk.allocator.rebalance()
    day = opened("X", 0)
    (entry,) = day.cash_entries
    one_sided = replace(entry, kind=CashKind.TRANSFER, book_version=2, amount=d(5), time=at(2))
    await save(store.ledger, day)
    await save(
        store.ledger,
        Changes(books={("X", PAPER): book("X", d(5), 2)}, cash_entries=[one_sided]),
    )
    books, differences = await store.reads.audit()
    assert differences == [
        Difference(RESERVE, Mode.PAPER, "transfers of all books", d(5), d(0)),
    ]
    assert books == 4


@pytest.mark.parametrize(("worth", "capital"), [(None, 600), ("400", 400), ("5000", 600)])
async def test_live_shares_what_its_cap_and_the_account_allow(
    store: Store, worth: str | None, capital: int
) -> None:
    await save(store.ledger, opened("A", 800, LIVE), opened("B", 200, LIVE), opened("P", 999))
    baton = store.new_baton()
    assert await baton.take()
    seen = Reconciliation(NOW, (), d(1000), d(1000), None if worth is None else d(worth))
    await baton.keep(seen)
    async with desk_on(store, LIVE, live_capital="600") as desk:
        plan = await desk.allocator.rebalance()
        assert plan.capital == capital
        cash = [(await desk.book(name, LIVE)).cash for name in ("A", "B", RESERVE)]
        assert cash == [capital / 2, capital / 2, 1000 - capital]
        assert await desk.cash("P") == [999]


async def test_a_new_live_book_gets_nothing_that_is_in_the_reserve(store: Store) -> None:
    await save(store.ledger, opened("A", 60, LIVE), opened("B", 40, LIVE), opened("C", 0, LIVE))
    async with desk_on(store, LIVE, live_capital="60") as desk:
        desk.solver.weights = {"A": 0.5, "B": 0.5, "C": 0.0}
        await desk.allocator.rebalance()
        assert (await desk.book(RESERVE, LIVE)).cash == 40
        await desk.writer.submit(ShareCash(("A", "B", "C"), d(100), d(1000)))
        assert (await desk.book("C", LIVE)).cash == 0
        await desk.writer.submit(ShareCash(("A", "B", "C"), d(105), d(1000)))
        assert (await desk.book("C", LIVE)).cash == 5


async def test_a_strategy_that_left_the_mode_is_left_alone_and_owes_nothing(desk: Desk) -> None:
    await desk.open(A="1000", B="0")
    await desk.buy_all("A", "100")
    await desk.allocator.rebalance()
    live = replace(strategy("B", LIVE))
    live_book = book("B", d(0), 1, LIVE)
    opening = opened("B", 0, LIVE)
    await save(
        desk.store.ledger,
        Changes(
            strategies={"B": live},
            books={("B", LIVE): live_book},
            cash_entries=opening.cash_entries,
        ),
    )
    await desk.allocator.rebalance()
    assert await desk.dues("A", "B") == [0, 0, 0]


async def test_settling_what_is_not_due_changes_nothing(desk: Desk) -> None:
    await desk.open(A="900", B="100")
    await desk.allocator.rebalance()
    before = await desk.book("A")
    await desk.writer.submit(SettleDue(Mode.PAPER, ("A", "B", "Nobody"), new_id()))
    assert await desk.book("A") == before


async def test_a_plan_that_is_asked_for_and_not_made_moves_nothing(desk: Desk) -> None:
    with pytest.raises(LedgerError, match="no plan to carry out"):
        await desk.writer.submit(CarryOut(None, Mode.PAPER, "r"))


CASH = st.integers(0, 10**7).map(lambda units: str(Decimal(units).scaleb(-3)))
STEP = (
    st.tuples(st.just("buy"), st.integers(0, 3), st.integers(1, 5000))
    | st.tuples(st.just("sell"), st.integers(0, 3), st.integers(1, 5000))
    | st.tuples(st.just("mark"), st.integers(0, 3), st.integers(1, 5000))
    | st.tuples(st.just("cash"), st.integers(0, 3), st.integers(0, 10**6))
    | st.tuples(st.just("halt"), st.integers(0, 3), st.just(0))
    | st.tuples(st.just("rebalance"), st.integers(0, 4**4 - 1), st.integers(0, 40))
    | st.tuples(st.just("settle"), st.just(0), st.just(0))
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(CASH, min_size=2, max_size=4), st.lists(STEP, min_size=3, max_size=25))
async def test_whatever_happens_transfers_make_and_lose_no_cent(
    cash: list[str], steps: list[tuple[str, int, int]]
) -> None:
    store = memory_store()
    assert isinstance(store.ledger, MemoryLedger)
    names = [f"S{number}" for number in range(len(cash))]
    async with desk_on(store) as desk:
        await desk.open(**dict(zip(names, cash, strict=True)))
        for word, which, much in steps:
            try:
                await _do(desk, names, word, which, d(much).scaleb(-2))
            except LedgerError:
                continue
            _check(store.ledger)


async def _do(desk: Desk, names: list[str], word: str, which: int, much: Decimal) -> None:
    """One step of the property test."""
    name = names[which % len(names)]
    if word == "buy":
        await desk.buy_all(name, str(much))
    elif word == "sell":
        await desk.sell_all(name, str(much))
    elif word == "mark":
        await desk.mark(name, str(much))
    elif word == "cash":
        await desk.open(**{name: str(much)})
    elif word == "halt":
        await desk.writer.submit(SetState(name, State.HALTED))
    elif word == "settle":
        await desk.treasurer.look()
    else:
        parts = [which // 4**place % 4 for place in range(len(names))]
        total = sum(parts) or 1
        floor = float(much)
        weights = {n: part / total * (1 - floor) for n, part in zip(names, parts, strict=True)}
        desk.solver.weights = weights
        plan = await desk.allocator.plan(AllocationPolicy(cash_floor=much))
        await desk.allocator.rebalance(plan.plan_id)


def _check(ledger: MemoryLedger) -> None:
    entries = ledger.tables.cash_entries.values()
    assert sum(e.amount for e in entries if e.kind is CashKind.TRANSFER) == 0
    assert all(one.cash >= one.reserved_cash >= 0 for one in ledger.tables.books.values())
