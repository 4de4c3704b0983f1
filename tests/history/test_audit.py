"""The audit recomputes valuations: a figure that was touched is found and named."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from services.portfolio.commands import CreateOrder, DeletePosition, SetPosition
from services.portfolio.domain.money import GROWTH_STEP, STEP
from services.portfolio.domain.order import Side
from services.portfolio.domain.valuation import Valuation
from services.portfolio.ports import PositionFilter
from services.portfolio.storage.memory import MemoryLedger
from tests.history.desk import Desk, day, desk_on
from tests.ledger.values import d
from tests.ports.makers import PAPER
from tests.ports.stores import Store, run_sql

Touch = Callable[[Valuation], Valuation | None]

# What is touched, by SQL and in memory; what the audit names.
TOUCHED: dict[str, tuple[str, Touch, set[str]]] = {
    "the cash of a close": (
        "UPDATE valuations SET cash = cash + 0.00000001, "
        "positions_value = positions_value - 0.00000001 WHERE number = 2",
        lambda v: replace(v, cash=v.cash + STEP, positions_value=v.positions_value - STEP),
        {"valuation 2 cash"},
    ),
    "what the shares of a close were worth": (
        "UPDATE valuations SET positions_value = positions_value + 1 WHERE number = 2",
        lambda v: replace(v, positions_value=v.positions_value + 1),
        {"valuation 2 growth", "valuation 3 growth"},
    ),
    "the growth of a close": (
        "UPDATE valuations SET growth = growth + 0.000000000000000001 WHERE number = 2",
        lambda v: replace(v, growth=v.growth + GROWTH_STEP),
        {"valuation 2 growth", "valuation 3 growth"},
    ),
    "the flow before a deposit": (
        "UPDATE valuations SET flow = flow + 1 WHERE number = 3",
        lambda v: replace(v, flow=v.flow + 1),
        {"valuation 3 flow", "valuation 4 growth"},
    ),
    "a deposit that nothing was valued before": (
        "DELETE FROM valuations WHERE number = 3",
        lambda _: None,
        {"flow at version 3", "valuation 4 growth"},
    ),
}


async def live_through(desk: Desk) -> None:
    """A deposit (valuation 1), a close (2), another deposit (3) and what follows, then B."""
    await desk.set_cash("A", 1000)
    await desk.mark("A", day(1), SPXL=10)
    await desk.writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(30), d(10)))
    await desk.mark("A", day(1), SPXL=13)
    await desk.mark("A", day(2), SPXL=13)
    await desk.set_cash("A", 2000)
    await desk.writer.submit(SetPosition("A", "AVL", d(7), d(3)))
    await desk.mark("A", day(3), SPXL=12)
    (avl, _) = await desk.store.reads.positions(PositionFilter("A"), None, 9)
    await desk.writer.submit(DeletePosition(avl.position_id))
    await desk.writer.submit(CreateOrder("A", "SPXL", Side.SELL, d(30), d(11)))
    await desk.mark("A", day(4), SPXL=12)
    await desk.set_cash("B", 0)
    await desk.set_cash("B", 5)


async def test_what_was_valued_as_it_went_is_balanced(store: Store) -> None:
    async with desk_on(store) as desk:
        await live_through(desk)
        assert len(await desk.closes("A")) == 3
        assert await store.reads.audit() == (2, [])


@pytest.mark.parametrize("what", TOUCHED)
async def test_a_touched_valuation_is_found_by_the_audit(
    store: Store, store_url: str | None, what: str
) -> None:
    statement, touch, figures = TOUCHED[what]
    async with desk_on(store) as desk:
        await live_through(desk)
        if store_url is not None:
            await run_sql(store_url, statement)
        else:
            assert isinstance(store.ledger, MemoryLedger)
            rows = store.ledger.tables.valuations
            key = (("A", PAPER), 3 if "deposit" in what else 2)
            touched = touch(rows.pop(key))
            if touched is not None:
                rows[key] = touched
        _, differences = await store.reads.audit()
        found = {difference.figure for difference in differences}
        assert figures <= found
        assert {(difference.strategy_name, difference.mode) for difference in differences} == {
            ("A", PAPER)
        }
