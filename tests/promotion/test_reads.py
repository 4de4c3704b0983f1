"""What reviews read: the same promises in memory and on PostgreSQL; see `store`."""

from dataclasses import replace
from datetime import date, timedelta
from uuid import UUID

import orjson
import pytest
from sqlalchemy.dialects import postgresql

from services.portfolio.analysis.statistics import Day
from services.portfolio.domain.book import RequestedMode, Strategy
from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.order import Mode, Order, Status
from services.portfolio.domain.promotion import Decision, Evidence, Outcome
from services.portfolio.domain.valuation import Valuation, ValuationKind
from services.portfolio.ports import Changes, Needs, OrderFilter, PriceMark
from services.portfolio.promotion.ports import MOST_TRADES, Footing
from services.portfolio.storage.reads import newest_orders
from tests.ledger.values import d, new_id
from tests.ports.makers import LIVE, PAPER, at, opened, order, position, save, strategy
from tests.ports.stores import Store, postgresql_store, run_sql

FIRST = date(2024, 1, 1)


def valuation(
    number: int, growth: str, seconds: float, mode: Mode = PAPER, *, flow: int = 0
) -> Valuation:
    """The close of the number's day, or a flow before it."""
    kind = ValuationKind.FLOW if flow else ValuationKind.CLOSE
    session = FIRST + timedelta(days=number)
    return Valuation(
        "A", mode, number, session, kind, 1, d(60), d(40), d(flow), d(growth), at(seconds)
    )


def decision(
    name: str,
    seconds: float,
    to_mode: Mode,
    outcome: Outcome = Outcome.CHANGED,
    rule: str = "demotion",
) -> Decision:
    """A decision at a time."""
    evidence = (Evidence("days", "1", "at least 2", holds=False),)
    from_mode = LIVE if to_mode is PAPER else PAPER
    wish = RequestedMode.AUTO
    return Decision(
        new_id(), name, at(seconds), rule, wish, from_mode, to_mode, outcome, "So.", evidence
    )


def changed(kept: Strategy, *decisions: Decision) -> Changes:
    """A strategy as it is now, and decisions."""
    return Changes(strategies={kept.name: kept}, decisions=list(decisions))


async def test_what_does_not_exist_is_absent(store: Store) -> None:
    assert await store.promotion.footings() == []
    assert await store.promotion.footings(["Nobody"]) == []
    assert await store.promotion.record("Nobody") is None
    assert await store.promotion.decisions(None, None, 10) == []
    assert await store.promotion.decisions("Nobody", new_id(), 10) == []


async def test_footings_say_which_mode_is_in_force_and_whether_its_book_is_flat(
    store: Store,
) -> None:
    reserved = replace(position("SPXL", 1, 5), quantity=d(1), reserved_quantity=d(1))
    await save(store.ledger, opened("Held", 10, PAPER, reserved))
    await save(store.ledger, opened("Flat", 10, PAPER, position("SPXL", 0, 0)))
    await save(store.ledger, opened("Buying", 10), opened("Live", 10, PAPER))
    await save(store.ledger, opened("Live", 10, LIVE, position("AVL", 2, 5)), opened(RESERVE))
    async with store.ledger.transaction() as transaction:
        found = await transaction.load(Needs(strategies={"Buying"}))
        buying = replace(found.books["Buying", PAPER], reserved_cash=d(3), version=2)
        session = replace(strategy("Buying"), session=FIRST, promoted=True)
        books = {("Buying", PAPER): buying}
        await transaction.save(Changes(strategies={"Buying": session}, books=books))
    auto = RequestedMode.AUTO
    every = [
        Footing("Buying", auto, PAPER, True, FIRST, False, False),
        Footing("Flat", auto, PAPER, False, None, True, False),
        Footing("Held", auto, PAPER, False, None, False, False),
        Footing("Live", auto, LIVE, False, None, False, True),
    ]
    assert await store.promotion.footings() == every
    assert await store.promotion.footings(["Live", "Flat", RESERVE]) == [every[1], every[3]]


async def test_decisions_read_back_exactly_by_page_newest_first(store: Store) -> None:
    await save(store.ledger, opened("A"), opened("B"))
    every = [
        decision(name, number, LIVE, outcome)
        for number, outcome in enumerate(Outcome)
        for name in "AB"
    ]
    await save(store.ledger, changed(strategy("A"), *every))
    for name, wanted in ((None, every), ("A", every[::2]), ("Nobody", [])):
        found: list[Decision] = []
        before: UUID | None = None
        while page := await store.promotion.decisions(name, before, 2):
            found += page
            before = found[-1].decision_id
        assert found == wanted[::-1]


async def test_the_writer_is_told_the_last_decision_of_each_strategy(store: Store) -> None:
    await save(store.ledger, opened("A"), opened("B"))
    decisions = [decision("A", number, LIVE) for number in range(3)]
    await save(store.ledger, changed(strategy("A"), *decisions))
    async with store.ledger.transaction() as transaction:
        found = await transaction.load(Needs(strategies={"A", "B"}, decided=True))
        assert found.decisions == {"A": decisions[-1]}
        assert (await transaction.load(Needs(strategies={"A"}))).decisions == {}


async def test_on_paper_all_counts_until_it_first_comes_back(store: Store) -> None:
    await save(store.ledger, opened("A"), opened("A", 10, LIVE))
    kept = replace(strategy("A"), session=FIRST)
    went = decision("A", 0, LIVE)
    waits = decision("A", 1, PAPER, Outcome.WAITS_UNTIL_FLAT)
    off = decision("A", 2, PAPER, rule="trading_mode")
    await save(store.ledger, changed(kept, went, waits, off))
    await save(store.ledger, filled("A", 0, 1, 2))
    values = [valuation(1, "1", 0, flow=10), valuation(2, "1.5", 1), valuation(3, "0.75", 2)]
    other = valuation(1, "9", 1, LIVE)
    await save(store.ledger, Changes(valuations=[*values, other]))
    await store.reads.mark([PriceMark("A", "SPXL", d(1), at(5))])

    record = await store.promotion.record("A")

    assert record is not None
    assert (record.strategy, record.last, record.trades) == (kept, off, 3)
    assert list(record.days) == [
        Day(FIRST + timedelta(days=2), 1.5, 100.0, 0.4),
        Day(FIRST + timedelta(days=3), 0.75, 100.0, 0.4),
    ]
    assert record.price_time == at(5)


async def test_after_it_came_back_only_what_follows_counts(store: Store) -> None:
    await save(store.ledger, opened("A"))
    back = decision("A", 10, PAPER, rule="demotion")
    later = decision("A", 20, PAPER, Outcome.STAYS, rule="promotion")
    await save(store.ledger, changed(strategy("A"), back, later))
    values = [
        valuation(1, "2", 5),
        valuation(2, "4", 9, flow=10),
        valuation(3, "6", 11, flow=10),  # in the first session of what counts
        valuation(4, "8", 12),
        valuation(5, "6", 13),
    ]
    await save(store.ledger, Changes(valuations=values), filled("A", 9, 11))
    record = await store.promotion.record("A")
    assert record is not None
    assert [day.growth for day in record.days] == [2.0, 1.5]
    assert (record.last, record.trades, record.price_time) == (later, 1, None)


async def test_of_a_live_strategy_what_its_live_book_did_since_counts(store: Store) -> None:
    await save(store.ledger, opened("A"), opened("A", 10, LIVE))
    live = replace(strategy("A", LIVE), promoted=True, live_since=at(10))
    await save(store.ledger, changed(live))
    own = [valuation(1, "3", 9, LIVE), valuation(2, "1.5", 11, LIVE), valuation(3, "6", 12, LIVE)]
    await save(store.ledger, Changes(valuations=[*own, valuation(1, "9", 11)]))
    record = await store.promotion.record("A")
    assert record is not None
    assert [day.growth for day in record.days] == [0.5, 2.0]
    assert record.strategy == live


async def test_trades_are_counted_up_to_a_bound(store: Store) -> None:
    await save(store.ledger, opened("A"), filled("A", *range(MOST_TRADES + 1)))
    await save(store.ledger, unfilled("A"))
    record = await store.promotion.record("A")
    assert record is not None
    assert record.trades == MOST_TRADES


@pytest.mark.parametrize("name", [RESERVE])
async def test_the_reserve_has_no_record(store: Store, name: str) -> None:
    await save(store.ledger, opened(name))
    assert await store.promotion.record(name) is None


def filled(name: str, *seconds: float) -> Changes:
    """Filled orders at these times; their ids tell the time too."""
    orders = [
        replace(
            order(name, status=Status.EXECUTED),
            order_id=_id_at(second, number),
            create_time=at(second),
            filled_quantity=d(10),
            filled_value=d(10),
        )
        for number, second in enumerate(seconds)
    ]
    return _orders(orders)


def unfilled(name: str) -> Changes:
    """An order of which nothing was filled."""
    return _orders([order(name, status=Status.REJECTED)])


def _orders(orders: list[Order]) -> Changes:
    return Changes(orders={each.order_id: each for each in orders})


def _id_at(seconds: float, number: int) -> UUID:
    milliseconds = round(at(seconds).timestamp() * 1000)
    return UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | number)


LIVE_YEARS = """
INSERT INTO orders (order_id, strategy_name, mode, symbol, side, quantity, price, status,
                    filled_quantity, filled_value, commission, reserved_cash, reason, request_id,
                    create_time, update_time, twin_of)
SELECT lpad(to_hex(number), 32, '0')::uuid, 'A',
       CASE number % 2 WHEN 0 THEN 'LIVE' ELSE 'PAPER' END,
       'SPXL', 'BUY', 1, 1, 'EXECUTED', 1, 1, 0, 0, '', '', now(), now(),
       CASE number % 2 WHEN 1 THEN lpad(to_hex(number - 1), 32, '0')::uuid END
FROM generate_series(2, 40001) AS number
"""


async def test_many_twins_cost_a_list_of_orders_no_more_than_their_number(
    migrated_url: str,
) -> None:
    async with postgresql_store(migrated_url) as one:
        await save(one.ledger, opened("A"), opened("A", 10, LIVE))
        await run_sql(migrated_url, LIVE_YEARS)
        await run_sql(migrated_url, "ANALYZE orders")
        middle = UUID(int=20_000)
        for which in (OrderFilter("A"), OrderFilter(), OrderFilter("A", "SPXL", Status.EXECUTED)):
            for before in (None, middle):
                assert await entries_read(migrated_url, which, before) <= 101
                page = await one.reads.orders(which, before, 50)
                assert [order.twin_of for order in page] == [None] * 50


async def entries_read(url: str, which: OrderFilter, before: UUID | None) -> int:
    """How many orders PostgreSQL looks at for a page of 50."""
    query = newest_orders(which, before, 50).compile(
        dialect=postgresql.dialect(),  # type: ignore[no-untyped-call]
        compile_kwargs={"literal_binds": True},
    )
    ((text,),) = await run_sql(url, f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
    scan = orjson.loads(text)[0]["Plan"]["Plans"][0]
    assert scan["Node Type"].startswith("Index Scan"), scan
    read: int = round(scan["Actual Rows"] + scan["Rows Removed by Filter"])
    return read
