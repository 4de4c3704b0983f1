"""Limits that refuse an order: what is exactly at a limit passes, what is beyond it does not."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.portfolio.batch import Batch, Desk
from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.commands import BuyAll, Command, CreateOrder, SellAll
from services.portfolio.domain.book import Book, State
from services.portfolio.domain.errors import LimitExceededError
from services.portfolio.domain.order import Mode, Order, Side
from services.portfolio.domain.risk import NO_LIMITS, Limits, Whole
from services.portfolio.ports import PriceMark, Snapshot, StorageConflictError
from services.portfolio.risk.commands import HaltStrategy, SetLimits
from tests.ledger.values import NAME, NOW, book_with, d, new_id, strategy
from tests.risk.desk import RiskDesk

KEY = (NAME, Mode.PAPER)
SPXL = (NAME, "SPXL")


def batch_with(
    limits: Limits = NO_LIMITS,
    *,
    whole: Limits = NO_LIMITS,
    book: Book | None = None,
    mark: PriceMark | None = None,
    recent: dict[str, int] | None = None,
) -> Batch:
    """A batch on one strategy with limits, or with limits of the whole."""
    snapshot = Snapshot(
        {NAME: replace(strategy(), limits=limits)},
        {KEY: book or book_with(10_000, 100, 100)},
        {},
        {},
        {},
        {},
        {},
        Whole(limits=whole),
        marks={} if mark is None else {SPXL: mark},
        recent_orders={NAME: 0, "": 0} if recent is None else recent,
    )
    return Batch(snapshot, Desk({Mode.PAPER: PaperBroker()}, new_id, NOW), check_invariants=True)


def buy(quantity: str, price: str = "100") -> Command:
    return CreateOrder(NAME, "SPXL", Side.BUY, d(quantity), d(price))


def sell(quantity: str, price: str = "100") -> Command:
    return CreateOrder(NAME, "SPXL", Side.SELL, d(quantity), d(price))


def seen(price: str, ago_s: float = 0.0) -> PriceMark:
    return PriceMark(NAME, "SPXL", d(price), NOW - timedelta(seconds=ago_s))


VALUE = Limits(max_order_value=d(1000))
RATE = Limits(max_orders_per_minute=3)
AGE = Limits(max_price_age_s=d(60))
JUMP = Limits(max_price_jump=d("0.1"))
# Limits, what was seen, how many orders there were; an order just within them, and one beyond.
EDGES: dict[str, tuple[Limits, dict[str, Any], Command, dict[str, Any], Command, str, str]] = {
    "value": (VALUE, {}, buy("10"), {}, buy("10.00000001"), "1000.00", "1000.000001"),
    "value of a sale": (VALUE, {}, sell("10"), {}, sell("10", "100.01"), "1000.00", "1000.10"),
    "rate": (RATE, {"recent": 2}, buy("1"), {"recent": 3}, buy("1"), "3", "4"),
    "rate of sales": (RATE, {"recent": 2}, sell("1"), {"recent": 3}, sell("1"), "3", "4"),
    "age": (
        AGE,
        {"mark": seen("100", 60)},
        buy("1"),
        {"mark": seen("100", 60.001)},
        buy("1"),
        "60",
        "60.001",
    ),
    "no price": (AGE, {"mark": seen("100")}, sell("1"), {}, sell("1"), "60", "none"),
    "jump up": (
        JUMP,
        {"mark": seen("100")},
        buy("1", "110"),
        {"mark": seen("100")},
        buy("1", "110.01"),
        "0.1",
        "0.1001",
    ),
    "jump down": (
        JUMP,
        {"mark": seen("100")},
        sell("1", "90"),
        {"mark": seen("100")},
        sell("1", "89.9999"),
        "0.1",
        "0.100001",
    ),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("whose", [NAME, ""])
def test_what_is_at_a_limit_passes_and_what_is_beyond_is_refused_with_the_figures(
    edge: str, whose: str
) -> None:
    limits, inside, passes, outside, fails, allowed, value = EDGES[edge]

    def batch(given: dict[str, Any]) -> Batch:
        rest = dict(given)
        recent = {NAME: 0, "": 0} | {whose: rest.pop("recent", 0)}
        own: dict[str, Any] = {"limits": limits} if whose else {"whole": limits}
        return batch_with(**own, **rest, recent=recent)

    assert isinstance(passes.run(batch(inside)), Order)
    refusing = batch(outside)
    with pytest.raises(LimitExceededError) as refused:
        fails.run(refusing)
    (name,) = [each for each, limit in _set(limits).items() if limit is not None]
    assert refused.value.figures == {
        "strategy_name": whose,
        "limit": name,
        "allowed": allowed,
        "value": value,
    }
    assert value in refused.value.message or value == "none"
    assert f"{name} of {whose or 'the whole portfolio'} is {allowed}" in refused.value.message
    assert not refusing.changes


def _set(limits: Limits) -> dict[str, Any]:
    figures = {name: getattr(limits, name) for name in Limits.__dataclass_fields__}
    del figures["on_silence"]
    return figures


def test_buy_all_is_refused_and_not_shrunk_and_says_what_would_pass() -> None:
    batch = batch_with(VALUE)
    with pytest.raises(LimitExceededError) as refused:
        BuyAll(NAME, "SPXL", d("150.5")).run(batch)
    assert refused.value.message == (
        "Buying 66 SPXL at 150.50 USD is worth 9933.00 USD; max_order_value of Test_SPXL is "
        "1000.00. Order 6 shares at most with POST /orders, or set another limit with "
        "POST /risk/limits."
    )
    assert not batch.changes


def test_a_price_that_was_never_reported_has_no_distance() -> None:
    assert buy("1", "5000").run(batch_with(JUMP))


def test_orders_that_the_batch_accepted_before_count_too() -> None:
    batch = batch_with(Limits(max_orders_per_minute=5), recent={NAME: 3})
    for command in (buy("1"), sell("1")):
        command.run(batch)
    with pytest.raises(LimitExceededError) as refused:
        buy("1").run(batch)
    assert refused.value.figures["value"] == "6"
    assert len(batch.changes.orders) == 2


def test_a_limit_that_was_set_in_the_same_batch_makes_it_run_one_by_one() -> None:
    batch = batch_with(recent={})
    SetLimits(NAME, RATE).run(batch)
    with pytest.raises(StorageConflictError):
        buy("1").run(batch)


@pytest.mark.parametrize("limits", [VALUE, RATE, AGE])
def test_no_limit_keeps_a_flatten_from_selling(limits: Limits) -> None:
    batch = batch_with(limits, whole=limits, recent={NAME: 3, "": 3})
    with pytest.raises(LimitExceededError):
        SellAll(NAME, "SPXL", d("100.01")).run(batch)
    HaltStrategy(NAME, "enough", flatten=True).run(batch)
    (sale,) = batch.changes.orders.values()
    assert (sale.side, sale.filled_quantity) == (Side.SELL, 100)
    assert batch.strategy(NAME).state is State.HALTED
    assert not batch.strategy(NAME).flattening


# The same through a writer, in memory and on PostgreSQL.


async def test_the_value_of_an_order_is_limited_to_the_cent(desk: RiskDesk) -> None:
    await desk.open("A", "10000", max_order_value="1000")
    with pytest.raises(LimitExceededError):
        await desk.buy("A", "10", "100.01")
    await desk.buy("A", "10", "100")
    await desk.open("B", "10000")
    await desk.buy("B", "50", "100")  # has no limits of its own
    await desk.limit("", max_order_value="4999.99")
    with pytest.raises(LimitExceededError) as refused:
        await desk.buy("B", "50", "100")
    assert refused.value.figures["strategy_name"] == ""
    assert len(await desk.orders()) == 2


async def test_orders_a_minute_are_counted_over_batches_and_strategies(desk: RiskDesk) -> None:
    await desk.open("A", "10000", max_orders_per_minute=3)
    await desk.open("B", "10000")
    for _ in range(3):
        await desk.buy("A", "1", "10")
    with pytest.raises(LimitExceededError, match="order 4 within 60 s"):
        await desk.buy("A", "1", "10")
    await desk.limit("", max_orders_per_minute=5)
    await desk.buy("B", "1", "10")
    await desk.buy("B", "1", "10")
    with pytest.raises(LimitExceededError, match="max_orders_per_minute of the whole"):
        await desk.buy("B", "1", "10")
    assert len(await desk.orders()) == 5


async def test_a_price_must_have_been_reported_lately_and_by_the_strategy_itself(
    desk: RiskDesk,
) -> None:
    await desk.open("A", "10000", max_price_age_s="60")
    await desk.open("B")
    await desk.mark("B", "100")
    with pytest.raises(LimitExceededError, match="never reported a price of SPXL"):
        await desk.buy("A", "1", "100")
    await desk.mark("A", "100", ago_s=61)
    with pytest.raises(LimitExceededError, match="POST /prices"):
        await desk.buy("A", "1", "100")
    await desk.mark("A", "100", ago_s=30)
    await desk.buy("A", "1", "100")
    with pytest.raises(LimitExceededError, match="AVL"):
        await desk.buy("A", "1", "100", "AVL")


async def test_a_price_must_be_near_the_one_reported_last(desk: RiskDesk) -> None:
    await desk.open("A", "10000")
    await desk.limit("", max_price_jump="0.1")
    await desk.mark("A", "100")
    for price in ("110.00000001", "89.99999999"):
        with pytest.raises(LimitExceededError):
            await desk.buy("A", "1", price)
    await desk.buy("A", "1", "110")
    await desk.buy("A", "1", "90")


async def test_limits_that_are_lifted_hold_no_more(desk: RiskDesk) -> None:
    await desk.open("A", "10000", max_order_value="1", max_orders_per_minute=1)
    with pytest.raises(LimitExceededError):
        await desk.buy("A", "1", "100")
    await desk.limit("A")
    await desk.buy("A", "1", "100")
    await desk.buy("A", "1", "100")
    told = [event.reason for event in await desk.events("A")]
    assert told == [
        "max_order_value none -> 1; max_orders_per_minute none -> 1",
        "max_order_value 1 -> none; max_orders_per_minute 1 -> none",
    ]
