"""Halts by hand, the kill switch, and sales of all that is held."""

from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest

from services.portfolio.batch import Batch, Desk
from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.commands import SellAll, SetState, UpdateOrderStatus, UpsertPortfolio
from services.portfolio.domain.book import State
from services.portfolio.domain.errors import (
    NotFoundError,
    PortfolioHaltedError,
    StrategyHaltedError,
)
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.order import Mode, Order, Side, Status
from services.portfolio.domain.risk import Limits, StrategyLimits
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.gate import LiveBroker
from services.portfolio.live.ports import Seen
from services.portfolio.ports import Broker, Snapshot
from services.portfolio.risk.commands import (
    HaltPortfolio,
    HaltStrategy,
    ResumePortfolio,
    SellTheRest,
    SetLimits,
)
from services.portfolio.seed import SeedStrategy
from services.portfolio.views import WholeView
from tests.ledger.values import NAME, NOW, book_with, buy, d, new_id, sell, strategy
from tests.ports.stores import Store
from tests.risk.desk import RiskDesk, desk_on
from tests.writer.desks import BY_HAND

LIVE = (NAME, Mode.LIVE)


async def test_the_kill_switch_halts_all_and_those_created_later(desk: RiskDesk) -> None:
    await desk.open("A")
    await desk.open("B")
    await desk.halt("B")
    view = cast("WholeView", await desk.submit(HaltPortfolio("a look", request_id="r1")))
    assert (view.halted, view.reason, view.strategies) == (True, "a look", 2)
    with pytest.raises(PortfolioHaltedError):
        await desk.buy("A", "1", "1")
    with pytest.raises(StrategyHaltedError):
        await desk.buy("B", "1", "1")
    await desk.submit(UpsertPortfolio("C", d(100)))
    await desk.submit(SeedStrategy("D", d(100), ""))
    for name in "CD":
        with pytest.raises(PortfolioHaltedError):
            await desk.buy(name, "1", "1")
        shown = await desk.view(name)
        assert (shown.state, shown.halt_reason) == (State.HALTED, "a look")
    resumed = await desk.submit(ResumePortfolio())
    assert (resumed.halted, resumed.reason, resumed.strategies) == (False, "", 4)
    for name in "ACD":
        await desk.buy(name, "1", "1")
    with pytest.raises(StrategyHaltedError, match="by hand"):
        await desk.buy("B", "1", "1")
    assert await desk.submit(HaltPortfolio("a look", request_id="r1")) == view  # the first answer
    assert (await desk.view("A")).state is State.ACTIVE
    assert await desk.told("") == ["HALT", "RESUME"]


async def test_halting_twice_keeps_the_first_reason_unless_a_new_one_is_given(
    desk: RiskDesk,
) -> None:
    await desk.open("A")
    first = await desk.submit(HaltPortfolio("one"))
    assert await desk.submit(HaltPortfolio()) == first
    assert await desk.submit(HaltPortfolio("one")) == first
    assert (await desk.submit(HaltPortfolio("two"))).reason == "two"
    assert [event.reason for event in await desk.events("")] == ["one", "two"]
    await desk.submit(ResumePortfolio())
    again = await desk.submit(ResumePortfolio())
    assert not again.halted
    assert await desk.told("") == ["HALT", "HALT", "RESUME"]


async def test_halts_and_resumes_of_a_strategy_are_told(desk: RiskDesk) -> None:
    await desk.open("A")
    await desk.submit(HaltStrategy("A", "one"))
    await desk.submit(HaltStrategy("A", "two"))
    await desk.resume("A")
    await desk.resume("A")
    found = await desk.events("A")
    assert [(event.kind, event.reason) for event in found] == [("HALT", "one"), ("RESUME", "")]
    assert {event.actor for event in found} == {"router"}  # this is no call of anybody's


async def test_flatten_sells_all_that_is_held_at_the_price_seen_last(desk: RiskDesk) -> None:
    await desk.open("A")
    await desk.buy("A", "3", "100")
    await desk.buy("A", "2", "50", "AVL")
    await desk.mark("A", "90")
    answer = await desk.submit(HaltStrategy("A", "enough", flatten=True))
    assert (answer.state, answer.halt_reason, answer.invested) == (State.HALTED, "enough", False)
    assert answer.cash == 1000 - 300 - 100 + 270 + 100
    assert not (await desk.strategy("A")).flattening
    assert [event.reason for event in await desk.events("A")] == [
        "enough",
        "sale of 2 AVL at 50.00 USD EXECUTED; sale of 3 SPXL at 90.00 USD EXECUTED",
    ]
    await desk.submit(HaltStrategy("A", flatten=True))
    assert len(await desk.orders()) == 4


async def test_the_kill_switch_sells_what_every_strategy_holds_if_asked(desk: RiskDesk) -> None:
    for name in "ABC":
        await desk.open(name)
    await desk.buy_all("A", "100")
    await desk.buy_all("B", "300")
    view = await desk.submit(HaltPortfolio("crash", flatten=True))
    assert view.reason == "crash"
    for name in "ABC":
        assert ((await desk.view(name)).cash, (await desk.view(name)).invested) == (1000, False)
    assert await desk.told() == ["HALT", "FLATTEN", "FLATTEN"]


async def test_open_paper_orders_are_cancelled_and_their_shares_sold(store: Store) -> None:
    async with desk_on(store, BY_HAND) as desk:
        await desk.open("A")
        bought = await desk.buy("A", "5", "100")
        await desk.submit(UpdateOrderStatus(bought.order_id, Report(Status.EXECUTED)))
        selling = await desk.submit(SellAll("A", "SPXL", d(110)))
        buying = await desk.buy("A", "1", "100", "AVL")
        await desk.submit(HaltStrategy("A", "", flatten=True))
        found = {order.order_id: order for order in await desk.orders()}
        assert found[selling.order_id].status is Status.CANCELLED
        assert found[buying.order_id].status is Status.CANCELLED
        (sale,) = (order for order in found.values() if order.status is Status.PENDING)
        assert (sale.side, sale.quantity, sale.price) == (Side.SELL, 5, 100)
        assert (await desk.strategy("A")).flattening
        # The guardian cancels no sale of its own, and sells again once that comes to nothing.
        await desk.guardian.look()
        assert len(await desk.orders()) == 4
        await desk.submit(UpdateOrderStatus(sale.order_id, Report(Status.REJECTED)))
        await desk.guardian.look()
        *_, again = await desk.orders()
        assert (again.status, again.quantity) == (Status.PENDING, 5)
        await desk.submit(UpdateOrderStatus(again.order_id, Report(Status.EXECUTED)))
        await desk.submit(SellTheRest("A"))
        assert not (await desk.strategy("A")).flattening
        assert (await desk.view("A")).cash == 1000


async def test_a_sale_that_comes_to_nothing_again_and_again_is_not_repeated_at_once(
    store: Store,
) -> None:
    async with desk_on(store, BY_HAND) as desk:
        await desk.open("A")
        bought = await desk.buy("A", "5", "100")
        await desk.submit(UpdateOrderStatus(bought.order_id, Report(Status.EXECUTED)))
        await desk.submit(HaltStrategy("A", "", flatten=True))
        for _ in range(5):
            for order in await desk.orders():
                if order.is_open:
                    await desk.submit(UpdateOrderStatus(order.order_id, Report(Status.REJECTED)))
            await desk.guardian.look()
        assert len(await desk.orders()) == 3


async def test_a_resume_ends_the_sale(store: Store) -> None:
    async with desk_on(store, BY_HAND) as desk:
        await desk.open("A")
        await desk.open("B")
        for name in "AB":
            bought = await desk.buy(name, "5", "100")
            await desk.submit(UpdateOrderStatus(bought.order_id, Report(Status.EXECUTED)))
        await desk.halt("B")
        await desk.submit(HaltPortfolio("", flatten=True))
        assert (await desk.strategy("A")).flattening
        await desk.submit(ResumePortfolio())
        assert not (await desk.strategy("A")).flattening
        assert (await desk.strategy("B")).flattening  # halted itself, it goes on
        await desk.resume("B")
        assert not (await desk.strategy("B")).flattening


async def test_limits_of_a_strategy_that_there_is_not_are_refused(desk: RiskDesk) -> None:
    for name in ("Nobody", "RESERVE"):
        with pytest.raises(NotFoundError):
            await desk.limit(name, max_order_value="1")
        with pytest.raises(NotFoundError):
            await desk.submit(HaltStrategy(name, flatten=True))
    assert await desk.events() == []


async def test_the_first_answer_is_given_again(desk: RiskDesk) -> None:
    await desk.open("A")
    limits = Limits(max_drawdown=d("0.2"), lease_s=d("1.5"))
    for name in ("A", ""):
        command = SetLimits(name, limits, f"r{name}")
        first = await desk.submit(command)
        await desk.limit(name)
        assert await desk.submit(command) == first == StrategyLimits(name, limits)
    assert [each.limits for each in await desk.store.risk.limits()] == [Limits(), Limits()]


# LIVE, without storage: what the sender will do is only written down.


def live_batch(*orders: Order, broker: Broker | None = None, **held: Any) -> Batch:
    """A batch on one LIVE strategy that holds 10 SPXL."""
    books = held or {"LIVE": book_with(1000, 10, 1000, Mode.LIVE)}
    weather = Weather(BrokerState.CONNECTED, NOW)
    live = broker or LiveBroker(lambda: Seen(weather, {}), Decimal("0.02"))
    snapshot = Snapshot(
        {NAME: replace(strategy(), mode=Mode.LIVE)},
        {LIVE: books["LIVE"]},
        {order.order_id: order for order in orders},
        {},
        {},
        {},
        {},
    )
    brokers = {Mode.PAPER: PaperBroker(), Mode.LIVE: live}
    return Batch(snapshot, Desk(brokers, new_id, NOW, Mode.LIVE), check_invariants=True)


def test_live_orders_are_asked_to_be_cancelled_and_free_shares_become_an_intent() -> None:
    bought = buy(book_with(1000, 10, 1000, Mode.LIVE), 2, 100)
    sold = sell(bought.book, 4)
    batch = live_batch(bought.order, sold.order, LIVE=sold.book)
    HaltStrategy(NAME, "enough", flatten=True).run(batch)
    assert batch.changes.cancel_requests == [bought.order.order_id, sold.order.order_id]
    (sale,) = batch.changes.orders.values()
    assert (sale.quantity, sale.status, batch.changes.intents) == (
        6,
        Status.PENDING,
        [sale.order_id],
    )
    assert batch.strategy(NAME).flattening
    # Nothing of it is done twice.
    batch.changes.cancel_requests.clear()
    assert SellTheRest(NAME).run(batch) is None
    assert not batch.changes.cancel_requests
    assert batch.changes.intents == [sale.order_id]


def test_a_broker_that_is_away_undoes_no_halt() -> None:
    away = Seen(Weather(BrokerState.DOWN, NOW), {})
    batch = live_batch(broker=LiveBroker(lambda: away, Decimal("0.02")))
    view = HaltPortfolio("crash", flatten=True).run(batch)
    assert view.halted
    assert view.reason.startswith(f"crash 10 SPXL of {NAME} not sold yet: The broker is DOWN")
    assert batch.whole.halt_reason == "crash"
    strategy_now = batch.strategy(NAME)
    assert (strategy_now.portfolio_halted, strategy_now.flattening) == (True, True)
    assert not batch.changes.orders
    told = [(event.kind, event.strategy_name) for event in batch.changes.risk_events]
    assert told == [("HALT", ""), ("FLATTEN", NAME)]
    assert "not sold yet" in batch.changes.risk_events[1].reason
    # Tried again in vain, it says nothing more.
    assert SellTheRest(NAME).run(batch) is None
    assert len(batch.changes.risk_events) == 2


def test_a_strategy_that_is_resumed_is_not_sold() -> None:
    batch = live_batch()
    HaltStrategy(NAME, "", flatten=True).run(batch)
    SetState(NAME, State.ACTIVE).run(batch)
    batch.changes.orders.clear()
    assert SellTheRest(NAME).run(batch) is None
