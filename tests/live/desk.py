"""A LIVE desk in this process: writer, sender and line, on PostgreSQL and a simulated gateway.

All parts are the router's own; only the transport is missing, and some waits are shorter.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import uuid_utils.compat

from services.gateway import SimulatedGateway
from services.gateway import Snapshot as AtGateway
from services.gateway.records import Execution
from services.portfolio.brokers.ibkr import IbkrLine
from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.commands import Command, CreateOrder, UpdateOrderStatus, UpsertPortfolio
from services.portfolio.domain.book import RequestedMode
from services.portfolio.domain.ledger import Report
from services.portfolio.domain.order import Mode, Order, Side, Status
from services.portfolio.domain.reconciliation import Reconciliation, SymbolRow
from services.portfolio.domain.weather import BrokerState, MarketData
from services.portfolio.live.funding import Funding
from services.portfolio.live.gate import LiveBroker
from services.portfolio.live.lookout import Lookout
from services.portfolio.live.sender import Plan, Sender
from services.portfolio.ports import Broker, OrderFilter
from services.portfolio.storage.baton import PostgresBaton
from services.portfolio.storage.broker_reads import PostgresBrokerReads
from services.portfolio.storage.database import Database
from services.portfolio.storage.feed import PostgresFeed
from services.portfolio.storage.ledger import PostgresLedger
from services.portfolio.storage.promotion import PostgresPromotionReads
from services.portfolio.storage.reads import PostgresReads
from services.portfolio.views import PortfolioView
from services.portfolio.writer import Rules, Writer
from tests.ports.stores import CUT_SENDER, run_sql
from tests.support.gateway import ACCOUNT
from tests.support.waiting import wait_until_async

NAME = "Live_SPXL"
CASH = Decimal(100_000)
CLIENT_ID = 7
SOON_S = 20.0
ZERO = Decimal(0)

# The sender's turns stay a second; a look on the timer is far away, so that it is events that lead
# to looks. Tests of the timer bring it near.
PLAN = Plan(
    CLIENT_ID,
    "the desk",
    answer_within_s=1.0,
    queue_within_s=2.0,
    reconcile_every_s=60.0,
    sure_after_s=0.5,
)

HEARD_WITHIN_S = 5.0

# An execution, its corrections and its commissions have all but the last two digits in common.
BOOKED = """
SELECT order_id, regexp_replace(execution_id, '[.][0-9]+(:.*)?$', '') AS root,
       sum(fills.quantity) AS quantity, sum(value) AS value,
       sum(fills.commission) AS commission
FROM fills JOIN orders o USING (order_id) WHERE o.mode = 'LIVE' GROUP BY order_id, root
"""
INTENTS = "SELECT order_id, client_id, broker_order_id FROM broker_orders"
ASSIGNED = """
SELECT symbol, sum(quantity_delta) AS quantity FROM position_adjustments WHERE mode = 'LIVE'
GROUP BY symbol
"""
HELD = """
SELECT symbol, sum(quantity) AS quantity FROM positions WHERE mode = 'LIVE' AND quantity <> 0
GROUP BY symbol
"""


class Desk:
    """What a test does at the desk, and waits for."""

    def __init__(self, url: str, database: Database, gateway: SimulatedGateway, plan: Plan) -> None:
        self.url = url
        self.gateway = gateway
        self.plan = plan
        self.reads = PostgresReads(database)
        self.broker_reads = PostgresBrokerReads(database)
        self.feed = PostgresFeed(database.address)
        self.lookout = Lookout(self.broker_reads, self.feed, _now, Mode.LIVE)
        live = LiveBroker(self.lookout.seen, Decimal("0.02"))
        brokers: dict[Mode, Broker] = {Mode.PAPER: PaperBroker(), Mode.LIVE: live}
        rules = Rules(brokers, _now, uuid_utils.compat.uuid7, Mode.LIVE, check_invariants=True)
        self.writer = Writer(PostgresLedger(database), rules)
        self._database = database
        self._senders: list[asyncio.Task[None]] = []
        self._by_hand: Counter[str] = Counter()  # shares that a person traded in TWS
        self._told: set[UUID] = set()  # orders whose fills a person reported

    # Setting up

    def start_sender(self) -> None:
        """One more router stands for election."""
        line = IbkrLine(
            "127.0.0.1", self.gateway.port, CLIENT_ID, ACCOUNT, clock=_now, timeout_s=2.0
        )
        sender = Sender(
            line,
            PostgresBaton(self._database.address),
            self.writer,
            Funding(self.writer, PostgresPromotionReads(self._database), CASH),
            self.feed,
            self.plan,
            _now,
        )
        self._senders.append(asyncio.create_task(sender.run(), name="sender"))

    async def stop_sender(self) -> None:
        """The oldest sender's router stops; what it knew is forgotten."""
        sender = self._senders.pop(0)
        sender.cancel()
        with suppress(asyncio.CancelledError):
            await sender

    async def restart_sender(self) -> None:
        """A router stops, and another takes its place with nothing but the database."""
        await self.stop_sender()
        self.start_sender()

    async def cut_sender(self) -> None:
        """The session that holds the sender's lock breaks, as soon as there is one."""

        async def cut() -> bool:
            return bool(await run_sql(self.url, CUT_SENDER))

        await wait_until_async(cut, SOON_S, "a session with the lock")

    async def close(self) -> None:
        """Stops everything."""
        while self._senders:
            await self.stop_sender()
        await self.lookout.stop()
        await self.feed.stop()
        await self.writer.stop()

    # Acting

    async def place(
        self, side: Side, quantity: int = 10, symbol: str = "SPXL", price: int = 100
    ) -> Order:
        """An order that was accepted."""
        return await self.order(CreateOrder(NAME, symbol, side, Decimal(quantity), Decimal(price)))

    async def buy(self, quantity: int = 10, symbol: str = "SPXL", price: int = 100) -> Order:
        """A buy that was accepted."""
        return await self.place(Side.BUY, quantity, symbol, price)

    async def sell(self, quantity: int = 10, symbol: str = "SPXL", price: int = 100) -> Order:
        """A sale that was accepted."""
        return await self.place(Side.SELL, quantity, symbol, price)

    async def cancel(self, order: Order) -> Order:
        """What asking for an order's cancellation answers."""
        return await self.order(UpdateOrderStatus(order.order_id, Report(Status.CANCELLED)))

    async def order(self, command: Command) -> Order:
        """The order that a command answers."""
        return cast("Order", await self.writer.submit(command))

    async def tell(self, order: Order, report: Report) -> Order:
        """A person reports what became of an order; what that answers."""
        self._told.add(order.order_id)
        return await self.order(UpdateOrderStatus(order.order_id, report))

    async def assign(self, order: Order, broker_order_id: int) -> None:
        """What a sender commits just before it sends an order. None may be running."""
        baton = PostgresBaton(self._database.address)
        assert await baton.take()
        assert await baton.assign(CLIENT_ID, {order.order_id: broker_order_id}) == {order.order_id}
        await baton.drop()

    def trade_by_hand(self, quantity: int, symbol: str = "SPXL") -> None:
        """A person buys shares in TWS, or sells them (below 0)."""
        self.gateway.trade_by_hand(symbol, Decimal(quantity), Decimal(100))
        self._by_hand[symbol] += quantity

    # Reading

    async def now(self, order: Order) -> Order:
        """The order as it is now."""
        found = await self.reads.order(order.order_id)
        assert found is not None
        return found

    async def orders(self) -> list[Order]:
        """All orders, newest first."""
        return await self.reads.orders(OrderFilter(), None, 1000)

    async def portfolio(self) -> PortfolioView:
        """The strategy's state."""
        (portfolio,) = await self.reads.portfolios([NAME])
        return portfolio

    def received(self, order: Order) -> int:
        """How often the gateway received a placeOrder for it."""
        return _refs(self.gateway.snapshot())[str(order.order_id)]

    # Waiting

    async def until(
        self, order: Order, status: Status, filled: int | None = None, deadline_s: float = SOON_S
    ) -> Order:
        """The order once it has this status, and this many shares filled."""
        seen = await self.now(order)

        async def fits() -> bool:
            nonlocal seen
            seen = await self.now(order)
            return seen.status is status and filled in (None, seen.filled_quantity)

        try:
            await wait_until_async(fits, deadline_s)
        except AssertionError:
            raise AssertionError(f"not {status} with {filled} filled, but {seen}") from None
        return seen

    async def until_sent(self, order: Order) -> None:
        """Waits until the gateway has received it."""

        async def sent() -> bool:
            return self.received(order) > 0

        await wait_until_async(sent, SOON_S, f"{order.order_id} at the gateway")

    async def until_state(self, state: BrokerState, deadline_s: float = SOON_S) -> None:
        """Waits until this replica knows that the broker's weather is this."""

        async def there() -> bool:
            return self.lookout.seen().weather.state is state

        await wait_until_async(there, deadline_s, f"{state}; {self.lookout.seen().weather}")

    async def until_market_data(self, market_data: MarketData) -> None:
        """Waits until this replica knows that the broker's prices stand like this."""

        async def there() -> bool:
            return self.lookout.seen().weather.market_data is market_data

        await wait_until_async(there, SOON_S, f"market data {market_data}")

    async def until_connected_since(self, moment: datetime) -> None:
        """Waits until it is CONNECTED again, and has been away since a moment."""

        async def there() -> bool:
            weather = self.lookout.seen().weather
            return weather.state is BrokerState.CONNECTED and weather.since > moment

        await wait_until_async(there, SOON_S, "CONNECTED again")

    async def until_compared(
        self, condition: Callable[[Reconciliation], bool], since: datetime | None = None
    ) -> Reconciliation:
        """The comparison once one made after now (or `since`) fits."""
        since = since or _now()
        last = await self.broker_reads.reconciliation()

        async def fits() -> bool:
            nonlocal last
            last = await self.broker_reads.reconciliation()
            return last.time is not None and last.time >= since and condition(last)

        try:
            await wait_until_async(fits, SOON_S)
        except AssertionError:
            raise AssertionError(f"no such comparison; the last was {last}") from None
        return last

    async def looked_for_sure(self) -> None:
        """Has the sender look at all evidence for so long that it may be sure of what it finds."""
        first = await self.looked()
        while await self.looked() - first <= timedelta(seconds=self.plan.sure_after_s):
            pass

    async def looked(self) -> datetime:
        """Has the sender look at all evidence, as it does whenever IB was away; says when.

        Orders are taken again when it returns.
        """
        since = _now()
        self.gateway.notice(1102)
        compared = await self.until_compared(lambda _: True, since)
        await self.until_connected_since(since)
        assert compared.time is not None
        return compared.time

    # What must hold

    async def assert_exactly_once(self) -> None:
        """Nothing is lost, nothing is doubled, and the cash is right to the cent.

        What has just happened at the broker is given a moment to be heard of.
        """
        give_up = asyncio.get_running_loop().time() + HEARD_WITHIN_S
        while True:
            try:
                return await self._check(self.gateway.snapshot())
            except AssertionError:
                if asyncio.get_running_loop().time() > give_up:
                    raise
            await asyncio.sleep(0.05)

    async def _check(self, truth: AtGateway) -> None:
        await self._check_each_was_sent_once(truth)
        ours = _latest(one for one in truth.executions if one.order_ref)
        await self._check_each_was_booked_once(ours)
        await self._check_positions(truth, ours)
        paid = sum((one.side.sign * one.shares * one.price + one.commission for one in ours), ZERO)
        assert (await self.portfolio()).cash == CASH - paid
        assert (await self.reads.audit())[1] == []

    async def _check_each_was_sent_once(self, truth: AtGateway) -> None:
        assert all(count == 1 for count in _refs(truth).values()), _refs(truth)
        ids = Counter((receipt.client_id, receipt.order_id) for receipt in truth.receipts)
        assert all(count == 1 for count in ids.values()), f"order ids were used again: {ids}"
        intents = {
            str(row["order_id"]): (row["client_id"], row["broker_order_id"])
            for row in await self._sql(INTENTS)
        }
        for receipt in truth.receipts:  # each under the id that was committed for it
            assert intents[receipt.ticket.order_ref] == (receipt.client_id, receipt.order_id)

    async def _check_each_was_booked_once(self, ours: list[Execution]) -> None:
        booked = {
            (row["order_id"], row["root"]): (row["quantity"], row["value"], row["commission"])
            for row in await self._sql(BOOKED)
            if row["order_id"] not in self._told
        }
        assert booked == {
            (UUID(one.order_ref), one.base): (one.shares, one.shares * one.price, one.commission)
            for one in ours
            if UUID(one.order_ref) not in self._told
        }

    async def _check_positions(self, truth: AtGateway, ours: list[Execution]) -> None:
        bought: Counter[str] = Counter()
        for one in ours:
            bought[one.symbol] += int(one.side.sign * one.shares)
        assigned = Counter({r["symbol"]: int(r["quantity"]) for r in await self._sql(ASSIGNED)})
        held = {row["symbol"]: row["quantity"] for row in await self._sql(HELD)}
        assert held == _shares(bought, assigned)
        assert truth.positions == _shares(bought, self._by_hand)

    async def _sql(self, statement: str) -> list[Any]:
        return await run_sql(self.url, statement)


@asynccontextmanager
async def live_desk(url: str, gateway: SimulatedGateway, **plan: Any) -> AsyncIterator[Desk]:
    """A desk on an empty, migrated database; it is CONNECTED, and NAME has 100,000 USD, LIVE."""
    async with stopped_desk(url, gateway, **plan) as desk:
        desk.start_sender()
        await desk.until_state(BrokerState.CONNECTED)
        yield desk


@asynccontextmanager
async def stopped_desk(url: str, gateway: SimulatedGateway, **plan: Any) -> AsyncIterator[Desk]:
    """The same without a sender yet."""
    database = await Database.connect(url)
    desk = Desk(url, database, gateway, replace(PLAN, **plan))
    try:
        await desk.writer.submit(UpsertPortfolio(NAME, CASH, RequestedMode.LIVE))
        yield desk
    finally:
        await desk.close()
        await database.close()


def row_of(compared: Reconciliation, symbol: str = "SPXL") -> SymbolRow:
    """A symbol's row; all 0 when there is none."""
    empty = SymbolRow(symbol, ZERO, ZERO, ZERO)
    return next((row for row in compared.rows if row.symbol == symbol), empty)


def _refs(truth: AtGateway) -> Counter[str]:
    return Counter(receipt.ticket.order_ref for receipt in truth.receipts)


def _latest(executions: Iterable[Execution]) -> list[Execution]:
    """Each execution as last corrected."""
    return list({one.base: one for one in executions}.values())


def _shares(*parts: Counter[str]) -> dict[str, Decimal]:
    """What the parts come to, without the symbols of which there is none."""
    symbols = {symbol for part in parts for symbol in part}
    sums = {symbol: sum(part[symbol] for part in parts) for symbol in symbols}
    return {symbol: Decimal(quantity) for symbol, quantity in sums.items() if quantity}


def _now() -> datetime:
    return datetime.now(UTC)
