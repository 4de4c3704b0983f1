"""The writer on each store: races, repeats, and callers who go away."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from services.portfolio import writer as writer_module
from services.portfolio.commands import (
    BuyAll,
    Command,
    CreateOrder,
    DeletePosition,
    SellAll,
    SetPosition,
    SetState,
    UpdateOrderStatus,
    UpsertPortfolio,
)
from services.portfolio.domain.book import RequestedMode, State
from services.portfolio.domain.errors import (
    IllegalFillError,
    InsufficientCashError,
    LedgerError,
    NothingToSellError,
    OrderNotFoundError,
    RequestIdReusedError,
    StrategyHaltedError,
    StrategyNotFoundError,
)
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.order import Mode, Order, Side, Status
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.commands import BookCommission
from services.portfolio.live.gate import LiveBroker
from services.portfolio.live.ports import Seen
from services.portfolio.ports import (
    Broker,
    Ledger,
    Needs,
    OrderFilter,
    PositionFilter,
    Snapshot,
    StorageConflictError,
    Transaction,
    UnavailableError,
)
from services.portfolio.telemetry import committed
from services.portfolio.views import PortfolioView, PositionView
from services.portfolio.writer import Rules, Writer
from tests.ledger.live_desk import executed
from tests.ledger.values import NOW, d, new_id
from tests.ports.stores import Store
from tests.support.waiting import wait_until_async
from tests.writer.desks import (
    AT_ONCE,
    BY_HAND,
    assert_balanced,
    open_strategies,
    order_of,
    rules,
    writer_on,
)

EVERY = OrderFilter()


@pytest.fixture
async def writer(store: Store) -> AsyncIterator[Writer]:
    """A writer on the store, on which A and B have 1000 USD each; balanced in the end."""
    async with writer_on(store.ledger) as one:
        await open_strategies(one, ["A", "B"])
        yield one
    await assert_balanced(store.reads)


async def outcomes(writer: Writer, commands: Sequence[Command]) -> list[Any]:
    """What each of these gets, submitted at the same moment."""
    return await asyncio.gather(*map(writer.submit, commands), return_exceptions=True)


async def test_an_order_is_durable_when_its_answer_comes(store: Store, writer: Writer) -> None:
    order = await order_of(writer, BuyAll("A", "SPXL", d("150.5")))
    assert (order.status, order.quantity) == (Status.EXECUTED, 6)
    assert await store.reads.order(order.order_id) == order


async def test_sixteen_racing_buy_alls_leave_one_order(store: Store, writer: Writer) -> None:
    race = await outcomes(writer, [BuyAll("A", "SPXL", d(100))] * 16)
    orders = [one for one in race if isinstance(one, Order)]
    refused = [one for one in race if isinstance(one, InsufficientCashError)]
    assert (len(orders), len(refused)) == (1, 15)
    assert {error.figures["free"] for error in refused} == {"0.00"}
    assert await store.reads.orders(EVERY, None, 99) == orders


async def test_sixteen_racing_repeats_leave_one_order_and_get_the_same_answer(
    store: Store, writer: Writer
) -> None:
    race = await outcomes(writer, [BuyAll("A", "SPXL", d(600), "r")] * 16)
    assert isinstance(race[0], Order)
    assert race == [race[0]] * 16
    assert await store.reads.orders(EVERY, None, 99) == [race[0]]


async def test_a_later_repeat_gets_the_first_answer(store: Store, writer: Writer) -> None:
    commands: list[Command] = [
        CreateOrder("A", "SPXL", Side.BUY, d("2.5"), d("10.10"), "order"),
        SetPosition("B", "AVL", d(3), d(7), request_id="position"),
        UpsertPortfolio("C", d("12.5"), request_id="portfolio"),
        SetState("B", State.HALTED, "tired", "halt"),
    ]
    first = [await writer.submit(command) for command in commands]
    (held,) = await store.reads.positions(PositionFilter("B"), None, 9)
    gone = DeletePosition(held.position_id, request_id="delete")
    assert await writer.submit(gone) is None
    assert await writer.submit(gone) is None
    await writer.submit(UpsertPortfolio("C", d(99)))
    assert [await writer.submit(command) for command in commands] == first
    kinds = [Order, PositionView, PortfolioView, PortfolioView]
    assert [type(answer) for answer in first] == kinds
    (now,) = await store.reads.portfolios(["C"])
    assert now.cash == 99


async def test_a_request_id_with_another_body_is_refused(store: Store, writer: Writer) -> None:
    await writer.submit(BuyAll("A", "SPXL", d(600), "r"))
    for other in (
        BuyAll("A", "SPXL", d(601), "r"),
        BuyAll("B", "SPXL", d(600), "r"),
        SellAll("A", "SPXL", d(600), "r"),
    ):
        with pytest.raises(RequestIdReusedError) as refused:
            await writer.submit(other)
        assert refused.value.figures == {"request_id": "r", "first_method": "BuyAll"}
    assert len(await store.reads.orders(EVERY, None, 99)) == 1


async def test_a_request_id_used_twice_in_one_batch_belongs_to_the_first(writer: Writer) -> None:
    first, other = await outcomes(
        writer, [BuyAll("A", "SPXL", d(600), "r"), BuyAll("B", "SPXL", d(600), "r")]
    )
    assert isinstance(first, Order)
    assert isinstance(other, RequestIdReusedError)


async def test_a_refused_request_may_be_tried_again_with_its_id(writer: Writer) -> None:
    with pytest.raises(NothingToSellError):
        await writer.submit(SellAll("A", "SPXL", d(5), "r"))
    await writer.submit(SetPosition("A", "SPXL", d(3), d(7)))
    assert (await order_of(writer, SellAll("A", "SPXL", d(5), "r"))).quantity == 3


async def test_a_command_that_fails_fails_alone(store: Store, writer: Writer) -> None:
    race = await outcomes(
        writer,
        [
            BuyAll("A", "SPXL", d(100)),
            BuyAll("Nobody", "SPXL", d(100)),
            SellAll("B", "SPXL", d(100)),
            UpdateOrderStatus(new_id(), Report(Status.EXECUTED)),
            CreateOrder("B", "AVL", Side.BUY, d(3), d(10)),
            SetState("B", State.HALTED),
            CreateOrder("B", "AVL", Side.BUY, d(3), d(10)),
        ],
    )
    assert [type(one) for one in race] == [
        Order,
        StrategyNotFoundError,
        NothingToSellError,
        OrderNotFoundError,
        Order,
        PortfolioView,
        StrategyHaltedError,
    ]
    assert await store.reads.orders(EVERY, None, 99) == [race[4], race[0]]


async def test_commands_that_arrive_together_are_one_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = CountingLedger(store.ledger)
    async with writer_on(counted) as writer:
        await open_strategies(writer, ["A"], "100000")
        before = counted.begun
        await outcomes(writer, [CreateOrder("A", "SPXL", Side.BUY, d(1), d(1))] * 200)
        assert counted.begun == before + 1
        monkeypatch.setattr(writer._queue, "_max_batch", 10)
        await outcomes(writer, [CreateOrder("A", "SPXL", Side.BUY, d(1), d(1))] * 200)
        assert counted.begun == before + 21


async def test_a_position_set_and_sold_at_once_answers_both(store: Store, writer: Writer) -> None:
    # The answer to the first is read after the batch, when the position is closed again.
    position, order = await outcomes(
        writer, [SetPosition("A", "SPXL", d(3), d(7)), SellAll("A", "SPXL", d(8))]
    )
    assert isinstance(position, PositionView), position
    assert isinstance(order, Order), order
    assert order.filled_quantity == 3


@pytest.mark.parametrize(
    ("quantity", "price"),
    [("0.00000001", "0.5"), ("1E-8", "1E-8"), ("0.00000003", "0.1")],
)
async def test_an_order_worth_nothing_is_refused_and_fails_alone(
    store: Store, writer: Writer, quantity: str, price: str
) -> None:
    refused, order = await outcomes(
        writer,
        [
            CreateOrder("A", "SPXL", Side.BUY, d(quantity), d(price)),
            CreateOrder("B", "SPXL", Side.BUY, d(1), d(1)),
        ],
    )
    assert isinstance(refused, LedgerError)
    assert isinstance(order, Order)


async def test_amounts_beyond_the_ledger_are_refused_and_fail_alone(
    store: Store, writer: Writer
) -> None:
    # 1000 USD buy 1e11 shares at 1e-8; at 1e9 each they would come to 1e20.
    await writer.submit(BuyAll("A", "SPXL", d("0.00000001")))
    await writer.submit(UpsertPortfolio("B", d("1E12")))
    refused, too_many, order = await outcomes(
        writer,
        [
            SellAll("A", "SPXL", d("1E9")),
            BuyAll("B", "SPXL", d("0.00000001")),
            CreateOrder("B", "SPXL", Side.BUY, d(1), d(1)),
        ],
    )
    assert isinstance(refused, LedgerError)
    assert isinstance(too_many, LedgerError)
    assert isinstance(order, Order)


async def test_a_command_that_the_database_cannot_write_fails_alone(
    store: Store, writer: Writer
) -> None:
    # PostgreSQL's text has no NUL. The other caller has done nothing wrong.
    _, order = await outcomes(
        writer,
        [
            SetState("A", State.HALTED, "no\x00good"),
            CreateOrder("B", "SPXL", Side.BUY, d(1), d(1)),
        ],
    )
    assert isinstance(order, Order)


async def test_what_is_committed_is_not_run_again_when_counting_it_fails(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(committed, "count", fails)
    orders = await outcomes(writer, [CreateOrder("A", "SPXL", Side.BUY, d(1), d(1))] * 2)
    assert [type(one) for one in orders] == [Order] * 2
    assert len(await store.reads.orders(EVERY, None, 99)) == 2


async def test_a_batch_that_meets_a_conflict_is_run_again_one_by_one(store: Store) -> None:
    fails_once = ConflictingLedger(store.ledger, 1)
    async with writer_on(fails_once) as writer:
        await open_strategies(writer, ["A"])
        fails_once.left = 1
        race = await outcomes(
            writer,
            [CreateOrder("A", "SPXL", Side.BUY, d(1), d(1), f"r{i}") for i in range(5)]
            + [BuyAll("Nobody", "SPXL", d(1))],
        )
    assert [type(one) for one in race] == [Order] * 5 + [StrategyNotFoundError]
    assert fails_once.met[-6:] == [1] * 6
    assert len(await store.reads.orders(EVERY, None, 99)) == 5
    await assert_balanced(store.reads)


async def test_a_command_that_meets_conflicts_for_ever_is_told_that_the_router_is_busy(
    store: Store,
) -> None:
    unlucky = ConflictingLedger(store.ledger, 0)
    async with writer_on(unlucky) as writer:
        await open_strategies(writer, ["A"])
        unlucky.left = 1 + writer_module.TRIES_ALONE
        busy, order = await outcomes(
            writer, [BuyAll("A", "SPXL", d(600)), BuyAll("A", "SPXL", d(400))]
        )
    assert isinstance(busy, UnavailableError)
    assert busy.reason == "ROUTER_BUSY"
    assert isinstance(order, Order)


async def test_a_full_queue_says_so_at_once(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer._queue, "_max_waiting", 10)
    race = await outcomes(writer, [CreateOrder("A", "SPXL", Side.BUY, d(1), d(1))] * 16)
    busy = [one for one in race if isinstance(one, UnavailableError)]
    assert {error.reason for error in busy} == {"ROUTER_BUSY"}
    assert sum(isinstance(one, Order) for one in race) == 10
    assert len(busy) == 6
    assert isinstance(await order_of(writer, BuyAll("A", "SPXL", d(1))), Order)


async def test_stopping_finishes_what_waits_and_takes_no_more(store: Store) -> None:
    async with writer_on(store.ledger) as writer:
        await open_strategies(writer, ["A"])
        commands = [CreateOrder("A", "SPXL", Side.BUY, d(1), d(1))] * 40
        waiting = [asyncio.create_task(writer.submit(command)) for command in commands]
        await asyncio.sleep(0)
        assert writer.waiting == 40
        await writer.stop()
        assert all(isinstance(order, Order) for order in await asyncio.gather(*waiting))
        with pytest.raises(UnavailableError) as late:
            await writer.submit(commands[0])
        assert late.value.reason == "ROUTER_STOPPING"
    assert len(await store.reads.orders(EVERY, None, 99)) == 40


async def test_a_caller_who_left_before_its_turn_is_not_served(
    store: Store, writer: Writer
) -> None:
    gone = asyncio.create_task(writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(1), d(1))))
    await asyncio.sleep(0)
    gone.cancel()
    order = await order_of(writer, CreateOrder("B", "SPXL", Side.BUY, d(1), d(1)))
    assert await store.reads.orders(EVERY, None, 99) == [order]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_caller_who_leaves_in_mid_batch_leaves_the_writer_alive(store: Store) -> None:
    slow = SlowLedger(store.ledger)
    async with writer_on(slow) as writer:
        await open_strategies(writer, ["A"])
        slow.gate.clear()
        calls = [
            asyncio.create_task(writer.submit(CreateOrder("A", "SPXL", Side.BUY, d(1), d(1))))
            for _ in range(4)
        ]
        await asyncio.wait_for(slow.inside.wait(), 5)
        calls[1].cancel()
        await asyncio.wait([calls[1]])
        slow.gate.set()
        kept = [await calls[i] for i in (0, 2, 3)]
        assert all(isinstance(one, Order) for one in kept)
        assert isinstance(await order_of(writer, BuyAll("A", "SPXL", d(1))), Order)
    assert len(await store.reads.orders(EVERY, None, 99)) == 5  # the one who left was served too
    await assert_balanced(store.reads)


async def test_hundreds_of_callers_who_leave_at_random_leave_the_ledger_whole(
    store: Store, writer: Writer
) -> None:
    chance = random.Random(7)
    answered = 0

    async def call(i: int) -> None:
        nonlocal answered
        name = chance.choice("AB")
        wishes: list[Command] = [
            BuyAll(name, "SPXL", d("3.3"), f"r{i}"),
            SellAll(name, "SPXL", d("3.4"), f"r{i}"),
            CreateOrder(name, "AVL", Side.BUY, d("0.5"), d("1.01"), f"r{i}"),
            SetPosition(name, "GLD", d(i + 1), d(5), request_id=f"r{i}"),
        ]
        command = chance.choice(wishes)
        await asyncio.sleep(chance.random() * 0.2)
        with suppress(LedgerError, TimeoutError):
            async with asyncio.timeout(chance.random() * 0.02 if i % 4 else None):
                await writer.submit(command)
                answered += 1

    await asyncio.gather(*(call(i) for i in range(400)))
    order = await order_of(writer, CreateOrder("A", "AVL", Side.BUY, d("0.1"), d(1)))
    assert order.status is Status.EXECUTED
    assert writer.waiting == 0
    assert 40 < answered < 400
    await assert_balanced(store.reads)


async def test_random_commands_of_many_callers_leave_a_balanced_ledger(store: Store) -> None:
    chance = random.Random(11)
    names = ["A", "B", "C"]
    seen: Counter[str] = Counter()
    async with writer_on(store.ledger, BY_HAND) as writer:
        await open_strategies(writer, names)

        async def one_caller() -> None:
            mine: list[Order] = []
            for _ in range(25):
                name = chance.choice(names)
                wish: list[Command] = [
                    CreateOrder(name, "SPXL", Side.BUY, d(chance.randint(1, 9)), d("7.77")),
                    CreateOrder(name, "SPXL", Side.SELL, d("0.33333333"), d("8.1")),
                    UpsertPortfolio(name, Decimal(chance.randint(0, 3000))),
                    SetPosition(name, "AVL", d(chance.randint(1, 9)), d("1.1")),
                ]
                if mine:
                    part = (mine[-1].quantity / 3).quantize(d("0.00000001"))
                    report = chance.choice(
                        [
                            Report(Status.EXECUTED),
                            Report(Status.CANCELLED),
                            Report(Status.CANCELLED, part, d("7.7")),
                            Report(Status.UNKNOWN, part, d("7.9"), d("0.01")),
                        ]
                    )
                    wish += [UpdateOrderStatus(mine[-1].order_id, report)] * 4
                command = chance.choice(wish)
                try:
                    answer = await writer.submit(command)
                except LedgerError as error:
                    seen[error.reason] += 1
                    continue
                seen[type(command).__name__] += 1
                if isinstance(answer, Order) and answer.status is Status.PENDING:
                    mine.append(answer)

        await asyncio.gather(*(one_caller() for _ in range(12)))
    await assert_balanced(store.reads)
    assert seen["UpdateOrderStatus"] > 20
    assert seen["CreateOrder"] > 20


async def test_a_line_that_is_cut_in_mid_load_is_told_and_mended(store: Store) -> None:
    told = []
    async with writer_on(store.ledger) as writer:
        await open_strategies(writer, ["A"], "1000000")
        stop = asyncio.Event()

        async def call(i: int) -> None:
            n = 0
            while not stop.is_set():
                n += 1
                command = CreateOrder("A", "SPXL", Side.BUY, d(1), d(1), f"{i}-{n}")
                for _ in range(200):
                    try:
                        order = await order_of(writer, command)
                    except UnavailableError as error:
                        told.append(error.reason)
                        continue
                    break
                assert order.request_id == f"{i}-{n}"
                answered.append(order)

        answered: list[Order] = []
        calls = [asyncio.create_task(call(i)) for i in range(8)]
        for cuts in range(1, 6):
            before = len(answered)
            await store.cut()

            async def more(least: int = before + 10) -> bool:
                return len(answered) > least

            await wait_until_async(more, what=f"orders after cut {cuts}")
        stop.set()
        await asyncio.gather(*calls)
    assert set(told) <= {"DATABASE_UNAVAILABLE"}
    kept = {order.order_id: order for order in await all_orders(store)}
    assert {order.order_id: order for order in answered} == kept  # none lost, none doubled
    await assert_balanced(store.reads)


async def all_orders(store: Store) -> list[Order]:
    """Every order, newest first."""
    found: list[Order] = []
    while page := await store.reads.orders(EVERY, found[-1].order_id if found else None, 1000):
        found += page
    return found


class CountingLedger:
    """A ledger that counts its transactions."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.begun = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        self.begun += 1
        async with self._ledger.transaction() as transaction:
            yield transaction


class SlowLedger:
    """A ledger whose transactions end when the gate is open."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.gate = asyncio.Event()
        self.gate.set()
        self.inside = asyncio.Event()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._ledger.transaction() as transaction:
            yield transaction
            if not self.gate.is_set():
                self.inside.set()
                await self.gate.wait()


class ConflictingLedger:
    """A ledger whose next transactions meet a conflict when they end."""

    def __init__(self, ledger: Ledger, left: int) -> None:
        self._ledger = ledger
        self.left = left
        self.met: list[int] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._ledger.transaction() as transaction:
            counting = _CountingTransaction(transaction)
            yield counting
            self.met.append(counting.asked)
            if self.left:
                self.left -= 1
                raise StorageConflictError("another transaction")


class _CountingTransaction:
    """A transaction that knows how many requests it was asked for."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.asked = 0

    async def load(self, needs: Needs) -> Snapshot:
        self.asked = max(1, len(needs.requests))
        return await self._transaction.load(needs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)


def live_rules(live: LiveBroker) -> Rules:
    """Those of TRADING_MODE=LIVE and PROMOTION=at_once."""
    brokers: dict[Mode, Broker] = {Mode.PAPER: AT_ONCE, Mode.LIVE: live}
    return replace(rules(), brokers=brokers, trading_mode=Mode.LIVE, promote_at_once=True)


async def test_an_order_that_finds_no_broker_fails_alone_and_may_be_repeated(store: Store) -> None:
    seen = [Seen(Weather(BrokerState.DOWN, NOW), {})]
    live = LiveBroker(lambda: seen[-1], d(0))
    both = live_rules(live)
    writer = Writer(store.ledger, both)
    try:
        await writer.submit(UpsertPortfolio("A", d(1000)))
        await writer.submit(UpsertPortfolio("B", d(1000), RequestedMode.PAPER))
        refused, order = await outcomes(
            writer, [BuyAll("A", "SPXL", d(99), "r"), BuyAll("B", "SPXL", d(100))]
        )
        assert isinstance(refused, UnavailableError)
        assert refused.reason == "BROKER_UNAVAILABLE"
        assert isinstance(order, Order)
        seen.append(Seen(Weather(BrokerState.CONNECTED, NOW), {}))
        first = await order_of(writer, BuyAll("A", "SPXL", d(99), "r"))
        assert (first.status, first.quantity) == (Status.PENDING, 10)
        seen.append(seen[0])  # away again: a repeat gets the first answer all the same
        assert await writer.submit(BuyAll("A", "SPXL", d(99), "r")) == first
    finally:
        await writer.stop()
    await assert_balanced(store.reads)


async def test_the_brokers_words_of_a_live_order_are_booked_and_kept(store: Store) -> None:
    live = LiveBroker(lambda: Seen(Weather(BrokerState.CONNECTED, NOW), {}), d(0))
    both = live_rules(live)
    writer = Writer(store.ledger, both)
    try:
        await writer.submit(UpsertPortfolio("A", d(1000)))
        order = await order_of(writer, CreateOrder("A", "SPXL", Side.BUY, d(5), d(100)))
        words: list[Command] = [
            executed(order, "a.01", 3, 101),
            executed(order, "a.02", 2, 101),  # in the same batch as what it corrects
            BookCommission(order.order_id, "a.02", d("1.5")),
            executed(order, "b.01", 3, 99, commission="0.5"),
        ]
        for _ in range(2):
            assert not any(isinstance(one, Exception) for one in await outcomes(writer, words))
        late = executed(order, "c.01", 1)
        with pytest.raises(IllegalFillError):
            await writer.submit(late)
    finally:
        await writer.stop()
    kept = await store.reads.order(order.order_id)
    assert kept is not None
    assert (kept.status, kept.filled_value, kept.commission) == (Status.EXECUTED, 499, 2)
    (view,) = await store.reads.portfolios(["A"])
    assert (view.mode, view.cash, view.reserved_cash) == (Mode.LIVE, 499, 0)
    await assert_balanced(store.reads)
