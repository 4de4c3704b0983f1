"""Two routers on one PostgreSQL: each its own connections and its own writer."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest

from services.portfolio.commands import (
    BuyAll,
    Command,
    CreateOrder,
    SellAll,
    SetPosition,
    UpsertPortfolio,
)
from services.portfolio.domain.book import RequestedMode
from services.portfolio.domain.errors import LedgerError, RequestIdReusedError
from services.portfolio.domain.order import Order, Side
from services.portfolio.ports import (
    Ledger,
    Needs,
    OrderFilter,
    PositionFilter,
    Snapshot,
    Transaction,
    UnavailableError,
)
from services.portfolio.storage.database import Database
from services.portfolio.storage.ledger import PostgresLedger
from services.portfolio.storage.reads import PostgresReads
from services.portfolio.writer import Writer
from tests.ledger.values import d
from tests.ports.line import Line
from tests.ports.stores import Store, postgresql_store
from tests.writer.desks import assert_balanced, open_strategies, order_of, writer_on

Replicas = tuple[tuple[Store, Writer], tuple[Store, Writer]]
EVERY = OrderFilter()


@pytest.fixture
async def replicas(migrated_url: str) -> AsyncIterator[Replicas]:
    """Two replicas; A, B and C have 1000 USD each. The ledger is balanced in the end."""
    async with AsyncExitStack() as running:
        stores = [await running.enter_async_context(postgresql_store(migrated_url)) for _ in "12"]
        writers = [await running.enter_async_context(writer_on(one.ledger)) for one in stores]
        await open_strategies(writers[0], "ABC")
        yield (stores[0], writers[0]), (stores[1], writers[1])
        await assert_balanced(stores[0].reads)


async def race(replicas: Replicas, commands: list[Command]) -> list[Any]:
    """What each command gets when both replicas are given them in turn, at the same moment."""
    calls = [replicas[i % 2][1].submit(command) for i, command in enumerate(commands)]
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_racing_buy_alls_of_two_replicas_leave_one_order(replicas: Replicas) -> None:
    found = await race(replicas, [BuyAll("A", "SPXL", d(100))] * 16)
    assert sum(isinstance(one, Order) for one in found) == 1
    assert all(isinstance(one, Order | LedgerError) for one in found)
    assert len(await replicas[0][0].reads.orders(EVERY, None, 99)) == 1


async def test_racing_repeats_on_two_replicas_leave_one_order_and_one_answer(
    replicas: Replicas,
) -> None:
    for i in range(5):
        command = CreateOrder("A", "SPXL", Side.BUY, d(1), d(10), f"r{i}")
        found = await race(replicas, [command] * 16)
        assert found == [found[0]] * 16
        assert isinstance(found[0], Order)
    assert len(await replicas[0][0].reads.orders(EVERY, None, 99)) == 5


async def test_one_request_id_on_two_strategies_and_replicas_is_given_once(
    replicas: Replicas,
) -> None:
    for i in range(5):
        commands: list[Command] = [
            CreateOrder(name, "SPXL", Side.BUY, d(1), d(10), f"r{i}") for name in "AB"
        ]
        found = await race(replicas, commands)
        assert {type(one) for one in found} == {Order, RequestIdReusedError}
    assert len(await replicas[0][0].reads.orders(EVERY, None, 99)) == 5


async def test_replicas_racing_on_the_same_strategies_lose_no_update(replicas: Replicas) -> None:
    chance = random.Random(3)
    commands: list[Command] = []
    for _ in range(300):
        name = chance.choice("ABC")
        wishes: list[Command] = [
            CreateOrder(name, "SPXL", Side.BUY, d("0.5"), d("3.33")),
            CreateOrder(name, "SPXL", Side.SELL, d("0.25"), d("3.4")),
            BuyAll(name, "AVL", d("33.3")),
            SellAll(name, "AVL", d("33.4")),
        ]
        commands.append(chance.choice(wishes))
    found = await race(replicas, commands)
    assert all(isinstance(one, Order | LedgerError) for one in found)
    done = [one for one in found if isinstance(one, Order)]
    assert len(done) > 50
    views = {view.strategy_name: view for view in await replicas[0][0].reads.portfolios()}
    for name, view in views.items():
        cash = Decimal(1000)
        for order in done:
            if order.strategy_name == name:
                cash += order.filled_value * (-1 if order.side is Side.BUY else 1)
        assert view.cash == cash


async def test_answers_of_one_replica_are_seen_by_the_other_at_once(replicas: Replicas) -> None:
    (_, one), (other_store, other) = replicas
    order = await order_of(one, BuyAll("A", "SPXL", d(100)))
    assert await other_store.reads.order(order.order_id) == order
    assert (await order_of(other, SellAll("A", "SPXL", d(101)))).quantity == 10


async def test_replicas_that_create_one_strategy_at_once_keep_what_either_booked(
    replicas: Replicas,
) -> None:
    # The other replica saw no strategy D, and writes after D was created with cash and traded.
    (store, writer), (other_store, _) = replicas
    late = LateLedger(other_store.ledger)
    async with writer_on(late) as other:
        call = asyncio.create_task(other.submit(UpsertPortfolio("D")))
        await asyncio.wait_for(late.has_read.wait(), 5)
        wish = UpsertPortfolio("D", d(500), RequestedMode.PAPER)
        await writer.submit(wish)
        await writer.submit(CreateOrder("D", "SPXL", Side.BUY, d(3), d(100)))
        late.may_write.set()
        await call
    (view,) = await store.reads.portfolios(["D"])
    assert (view.cash, view.positions_value, view.requested_mode) == (
        200,
        300,
        RequestedMode.PAPER,
    )


async def test_replicas_that_open_one_position_at_once_share_it(replicas: Replicas) -> None:
    commands: list[Command] = [SetPosition("A", "GLD", d(i + 1), d(2)) for i in range(12)]
    found = await race(replicas, commands)
    (held,) = await replicas[0][0].reads.positions(PositionFilter("A"), None, 9)
    assert {one.position_id for one in found} == {held.position_id}


async def test_a_database_that_cannot_be_reached_is_told_and_then_works_again(
    migrated_url: str,
) -> None:
    with Line(migrated_url) as line:
        database = await Database.connect(line.url)
        reads = PostgresReads(database)
        async with writer_on(PostgresLedger(database)) as writer:
            await open_strategies(writer, ["A"])
            command = CreateOrder("A", "SPXL", Side.BUY, d(1), d(1), "r")
            line.cut()
            for _ in range(3):
                with pytest.raises(UnavailableError) as told:
                    await writer.submit(command)
                assert told.value.reason == "DATABASE_UNAVAILABLE"
            line.mend()
            order = await order_of(writer, command)
            assert await reads.orders(EVERY, None, 9) == [order]
            await assert_balanced(reads)
        await database.close()


async def test_a_line_that_breaks_at_any_moment_loses_and_doubles_nothing(
    migrated_url: str,
) -> None:
    with Line(migrated_url) as line:
        database = await Database.connect(line.url)
        reads = PostgresReads(database)
        answered: list[Order] = []
        async with writer_on(PostgresLedger(database)) as writer:
            await open_strategies(writer, ["A"], "1000000")

            async def call(i: int) -> None:
                for n in range(15):
                    command = CreateOrder("A", "SPXL", Side.BUY, d(1), d(1), f"{i}-{n}")
                    async with asyncio.timeout(20):
                        while True:
                            with suppress(UnavailableError):
                                answered.append(await order_of(writer, command))
                                break
                            await asyncio.sleep(0.01)

            async def break_it() -> None:
                chance = random.Random(5)
                for _ in range(8):
                    await asyncio.sleep(chance.random() * 0.03)
                    await asyncio.to_thread(line.cut)
                    line.mend()

            await asyncio.gather(break_it(), *(call(i) for i in range(8)))
        assert len(answered) == 8 * 15
        kept = {order.order_id: order for order in await reads.orders(EVERY, None, 999)}
        assert {order.order_id: order for order in answered} == kept
        await assert_balanced(reads)
        await database.close()


class LateLedger:
    """A ledger whose first transaction reads, and then waits before it decides and writes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.has_read = asyncio.Event()
        self.may_write = asyncio.Event()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._ledger.transaction() as transaction:
            yield _LateTransaction(transaction, self)


class _LateTransaction:
    def __init__(self, transaction: Transaction, ledger: LateLedger) -> None:
        self._transaction = transaction
        self._ledger = ledger

    async def load(self, needs: Needs) -> Snapshot:
        found = await self._transaction.load(needs)
        self._ledger.has_read.set()
        await self._ledger.may_write.wait()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)
