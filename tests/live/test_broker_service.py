"""The broker over gRPC: what callers, watchers and health checks are told of the weather."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from efficientfrontier.v1.book_pb2 import Book
from efficientfrontier.v1.broker_service_pb2 import (
    Broker,
    GetBrokerRequest,
    GetReconciliationRequest,
    Reconciliation,
    WatchBrokerRequest,
)
from efficientfrontier.v1.broker_service_pb2_grpc import BrokerServiceStub
from efficientfrontier.v1.position_service_pb2 import AssignPositionRequest
from efficientfrontier.v1.position_service_pb2_grpc import PositionServiceStub
from services.portfolio.domain import reconciliation
from services.portfolio.domain.order import Mode
from services.portfolio.domain.promotion import Rule
from services.portfolio.domain.weather import BrokerState, Weather, masked
from services.portfolio.history.history import History
from services.portfolio.live.lookout import Lookout
from services.portfolio.live.ports import Baton
from services.portfolio.pictures.gallery import Gallery
from services.portfolio.promotion.reviewer import Reviewer
from services.portfolio.router import Router
from services.portfolio.rpc.server import Server
from services.portfolio.rpc.wire import broker_message
from services.portfolio.writer import Writer
from tests.allocation.desk import allocator_on
from tests.ledger.values import d
from tests.ports.stores import Store
from tests.support.waiting import wait_until_async
from tests.writer.desks import assert_balanced, open_strategies, rules

SINCE = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
CONNECTED = Weather(BrokerState.CONNECTED, SINCE, account="DU1234567", sender="router-1")
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


@dataclass(frozen=True)
class Desk:
    """A served router, those who call it, and the sender whose word it hears."""

    store: Store
    router: Router
    server: Server
    baton: Baton
    broker: Any
    positions: Any
    health: Any

    async def check(self, service: str) -> int:
        """What a health check of the service says."""
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)

    async def seen(self, state: BrokerState) -> Broker:
        """What GetBroker answers once it is in this state."""

        async def there() -> Broker | None:
            answer: Broker = await self.broker.GetBroker(GetBrokerRequest())
            return answer if answer.state == Broker.State.Value(state) else None

        found = await wait_until_async(there, 10, state)
        assert found is not None
        return found

    async def compare(self, broker: Mapping[str, Decimal], cash: Decimal | None) -> None:
        """Compares the ledger with the broker's account, as the sender does."""
        strategies, strategies_cash = await self.baton.strategies()
        rows = reconciliation.compare(broker, strategies, await self.baton.acknowledged())
        await self.baton.keep(reconciliation.Reconciliation(SINCE, rows, cash, strategies_cash))

    async def compared(self) -> Reconciliation:
        """What GetReconciliation answers."""
        answer: Reconciliation = await self.broker.GetReconciliation(GetReconciliationRequest())
        return answer


@asynccontextmanager
async def desk_on(store: Store, mode: Mode) -> AsyncIterator[Desk]:
    """A router on the store, served on a free port."""
    writer = Writer(store.ledger, rules())
    lookout = Lookout(store.broker_reads, store.feed, lambda: datetime.now(UTC), mode)
    router = Router(
        writer,
        store.reads,
        store.feed,
        lookout,
        lambda: datetime.now(UTC),
        history=History(store.history),
        reviewer=Reviewer(
            writer, store.promotion, store.feed, lambda: datetime.now(UTC), Rule(), mode
        ),
        risk=store.risk,
        allocator=allocator_on(store, writer, mode),
        gallery=Gallery(store.reads, History(store.history), store.allocation),
    )
    server = Server(router, "127.0.0.1:0")
    baton = store.new_baton()
    assert await baton.take()
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stubs = BrokerServiceStub(channel), PositionServiceStub(channel)
        try:
            yield Desk(store, router, server, baton, *stubs, health_pb2_grpc.HealthStub(channel))
        finally:
            await lookout.stop()
            await server.stop(0)
            await router.stop()


@pytest.fixture
async def live(store: Store) -> AsyncIterator[Desk]:
    """A LIVE router, before a sender's first word."""
    async with desk_on(store, Mode.LIVE) as desk:
        yield desk


async def test_how_things_stand_is_told_with_the_account_masked(live: Desk) -> None:
    down = await live.seen(BrokerState.DOWN)
    assert (down.takes_orders, down.account, down.account_kind) == (False, "", 0)
    await live.baton.say(CONNECTED)
    broker = await live.seen(BrokerState.CONNECTED)
    assert broker.since_time.ToDatetime(UTC) == SINCE
    assert (broker.account, broker.account_kind) == ("DU***567", Broker.PAPER)
    assert (broker.trading_mode, broker.sender) == (Book.LIVE, "router-1")
    assert (broker.market_data, broker.takes_orders) == (Broker.OK, True)


@pytest.mark.parametrize(
    ("account", "shown", "kind"),
    [
        ("DU1234567", "DU***567", Broker.PAPER),
        ("DF123456", "DF***456", Broker.PAPER),
        ("U1234567", "U***567", Broker.LIVE),
        ("U12345", "U***", Broker.LIVE),
        ("", "", Broker.ACCOUNT_KIND_UNSPECIFIED),
    ],
)
def test_an_account_is_told_by_its_letters_and_last_digits(
    account: str, shown: str, kind: "Broker.AccountKind.ValueType"
) -> None:
    assert masked(account) == shown
    told = broker_message(replace(CONNECTED, account=account), Mode.LIVE)
    assert (told.account, told.account_kind) == (shown, kind)


def test_every_state_of_the_broker_has_its_word_in_the_contract() -> None:
    for state in BrokerState:
        told = broker_message(replace(CONNECTED, state=state), Mode.LIVE)
        assert Broker.State.Name(told.state) == state
        assert told.takes_orders is (state is BrokerState.CONNECTED)


async def test_the_broker_is_healthy_exactly_while_orders_are_taken(live: Desk) -> None:
    assert await live.check("broker") == NOT_SERVING
    for state in (*BrokerState, BrokerState.CONNECTED, BrokerState.DOWN):
        await live.baton.say(replace(CONNECTED, state=state))
        wanted = SERVING if state is BrokerState.CONNECTED else NOT_SERVING

        async def is_told(wanted: int = wanted) -> bool:
            return await live.check("broker") == wanted

        await live.seen(state)
        await wait_until_async(is_told)
        assert await live.check("") == SERVING


async def test_on_paper_the_broker_is_off_and_never_healthy(store: Store) -> None:
    async with desk_on(store, Mode.PAPER) as desk:
        broker = await desk.seen(BrokerState.OFF)
        assert (broker.trading_mode, broker.takes_orders) == (Book.PAPER, False)
        assert await desk.check("broker") == NOT_SERVING
        assert await desk.check("") == SERVING


async def test_a_watch_follows_the_weather_and_ends_with_the_router(live: Desk) -> None:
    watch = live.broker.WatchBroker(WatchBrokerRequest())
    async with asyncio.timeout(20):
        assert (await watch.read()).broker.state == Broker.DOWN
        await live.baton.say(CONNECTED)
        assert (await watch.read()).broker.takes_orders
        await live.router.lookout.stop()
        end = (await watch.read()).end
        assert end.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert "Call again" in end.message
        assert await watch.read() is aio.EOF


async def test_the_comparison_is_shown_and_shares_are_assigned_until_nothing_is_left(
    live: Desk,
) -> None:
    await open_strategies(live.router.writer, ["A"])
    account = {"AVL": d(7), "SPXL": d(3)}
    await live.compare(account, d("100.25"))
    seen = await live.compared()
    assert seen == Reconciliation(
        time=seen.time,
        rows=[
            Reconciliation.Row(
                symbol="AVL", broker_quantity=7, unattributed_quantity=7, frozen=True
            ),
            Reconciliation.Row(
                symbol="SPXL", broker_quantity=3, unattributed_quantity=3, frozen=True
            ),
        ],
        broker_cash=100.25,
        strategies_cash=0,
        unallocated_cash=100.25,
        frozen_symbols=["AVL", "SPXL"],
    )
    assert seen.time.ToDatetime(UTC) == SINCE

    given = AssignPositionRequest(
        strategy_name="A",
        symbol="AVL",
        quantity=7,
        average_cost=10.5,
        reason="bought before",
        request_id="assign-1",
    )
    position = await live.positions.AssignPosition(given)
    assert (position.strategy_name, position.mode) == ("A", Book.LIVE)
    assert (position.quantity, position.average_cost) == (7, 10.5)
    assert await live.positions.AssignPosition(given) == position  # twice is once
    nobodys = await live.positions.AssignPosition(
        AssignPositionRequest(strategy_name="UNATTRIBUTED", symbol="SPXL", reason="mine")
    )
    assert (nobodys.strategy_name, nobodys.symbol) == ("UNATTRIBUTED", "SPXL")

    await live.compare(account, d("100.25"))
    seen = await live.compared()
    assert [(row.symbol, row.strategies_quantity) for row in seen.rows] == [("AVL", 7), ("SPXL", 0)]
    assert [row.acknowledged_quantity for row in seen.rows] == [0, 3]
    assert list(seen.frozen_symbols) == []
    await assert_balanced(live.store.reads)


async def test_shares_that_the_account_lacks_are_taken_away(live: Desk) -> None:
    await open_strategies(live.router.writer, ["A"])
    for quantity in (2, -2):
        await live.compare({"AVL": d(max(quantity, 0))}, None)
        position = await live.positions.AssignPosition(
            AssignPositionRequest(
                strategy_name="A", symbol="AVL", quantity=quantity, average_cost=4
            )
        )
        assert position.quantity == max(quantity, 0)
    assert (position.strategy_name, position.symbol, position.mode) == ("A", "AVL", Book.LIVE)
    await live.compare({}, None)
    seen = await live.compared()
    assert list(seen.rows) == []
    assert not seen.HasField("broker_cash")
    assert not seen.HasField("unallocated_cash")
    await assert_balanced(live.store.reads)
