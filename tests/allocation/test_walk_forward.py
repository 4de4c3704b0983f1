"""A walk forward through real prices: no cent is made or lost, and the audit balances every day.

20 stocks of the S&P 500 as 20 strategies' curves, 1990 to 2022, as skfolio ships them. Each
strategy buys all at the start, and sells and buys again now and then. Every month the capital is
shared anew by what their curves say until then. In memory over all 8,313 days; on PostgreSQL over
one year, with every session closed and the curves read from there.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from random import Random
from typing import Any, TypeVar

import asyncpg
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from skfolio.datasets import load_sp500_dataset

from services.portfolio.allocation.allocator import Allocator
from services.portfolio.allocation.answering import problem_of
from services.portfolio.allocation.policies import solve
from services.portfolio.allocation.request import Request, Solution
from services.portfolio.allocation.treasurer import Treasurer
from services.portfolio.commands import BuyAll, Command, SellAll, UpsertPortfolio
from services.portfolio.domain.audit import BookAudit
from services.portfolio.domain.book import CashKind
from services.portfolio.domain.capital import RESERVE, AllocationPolicy, Method, PlanState
from services.portfolio.domain.errors import InsufficientCashError
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode
from services.portfolio.history.marking import Marking
from services.portfolio.ports import BookKey, Needs, PriceMark
from services.portfolio.storage.curves import Curves, read_curves
from services.portfolio.storage.memory import MemoryLedger, Tables
from services.portfolio.writer import Writer
from tests.allocation.desk import allocator_on
from tests.ledger.values import d
from tests.ports.stores import Store, memory_store, postgresql_store
from tests.writer.desks import assert_balanced, writer_on

Fact = TypeVar("Fact")
Row = npt.NDArray[np.float64]  # a figure for each strategy

CAPITAL = d(1_000_000)
LOOKBACK = 252
SELLS, BUYS = 0.02, 0.2  # the chance of a day
# By turns, month after month; those that need a solver seldom, for the time they take.
METHODS = (
    Method.MINIMUM_VARIANCE,
    Method.INVERSE_VOLATILITY,
    Method.EQUAL,
    Method.MAXIMUM_SHARPE,
    Method.INVERSE_VOLATILITY,
    Method.EQUAL,
    Method.INVERSE_VOLATILITY,
)


@pytest.fixture(scope="module")
def prices() -> pd.DataFrame:
    """Daily closes of 20 stocks."""
    frame: pd.DataFrame = load_sp500_dataset()
    return frame


@dataclass
class Seen:
    """A solver in process. By growth that was seen in the walk, or by the closes of a database."""

    names: tuple[str, ...]
    growth: list[Row]
    url: str | None = None

    async def solve(self, request: Request) -> Solution:
        """The weights by the curves until now, without a frontier."""
        request = replace(request, frontier_points=0)
        return solve(problem_of(request, await self._curves(request)))

    async def _curves(self, request: Request) -> Curves:
        if self.url is None:
            growth = np.array(self.growth[-LOOKBACK - 1 :])
            return Curves(self.names, (date.min,) * (len(growth) - 1), growth)
        connection = await asyncpg.connect(self.url)
        try:
            return await read_curves(connection, request.mode, self.names, LOOKBACK)
        finally:
            await connection.close()


@dataclass
class Walk:
    """Strategies that trade by chance, and an allocator that shares the capital every month."""

    store: Store
    writer: Writer
    allocator: Allocator
    treasurer: Treasurer
    seen: Seen
    prices: pd.DataFrame
    chance: Random = field(default_factory=lambda: Random(1990))
    invested: set[str] = field(default_factory=set)
    yesterday: Row = field(default_factory=lambda: np.zeros(0))
    month: int = 0
    rebalanced: int = 0

    async def open(self) -> None:
        """Gives every strategy its first share."""
        share = CAPITAL / len(self.seen.names)
        await self.all([UpsertPortfolio(name, share) for name in self.seen.names])

    async def live(self, day: pd.Timestamp, marking: Marking | None = None) -> None:
        """One day: prices come, some trade, what is due moves, and a new month is planned."""
        today = self.prices.loc[day].to_numpy()
        price = dict(zip(self.seen.names, map(Decimal, map(repr, today.tolist())), strict=True))
        session = None if marking is None else day.date()  # in memory, closes would take too long
        now = datetime.now(UTC)
        marks = [PriceMark(name, name, price[name], now, session) for name in self.seen.names]
        if marking is None:
            await self.store.reads.mark(marks)
        else:
            await asyncio.gather(*(marking.mark([mark]) for mark in marks))
        self._see(today)
        await self.all([order for name in self.seen.names if (order := self._order(name, price))])
        await self.treasurer.look()
        if day.month != self.month and len(self.seen.growth) > 25:
            await self._rebalance(day)
        self.month = day.month

    async def all(self, commands: list[Command]) -> None:
        """Runs commands in one batch. A strategy whose cash has gone to others buys nothing."""
        answers = await asyncio.gather(*map(self.writer.submit, commands), return_exceptions=True)
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, InsufficientCashError) and isinstance(command, BuyAll):
                self.invested.discard(command.strategy_name)
            elif isinstance(answer, BaseException):
                raise answer

    def _order(self, name: str, price: dict[str, Decimal]) -> Command | None:
        if name in self.invested:
            if self.chance.random() < SELLS:
                self.invested.discard(name)
                return SellAll(name, name, price[name])
        elif not self.month or self.chance.random() < BUYS:
            self.invested.add(name)
            return BuyAll(name, name, price[name])
        return None

    def _see(self, today: Row) -> None:
        """The growth of who was invested until today follows its price."""
        growth = self.seen.growth[-1].copy()
        if self.month:
            held = [name in self.invested for name in self.seen.names]
            growth[held] *= (today / self.yesterday)[held]
        self.seen.growth.append(growth)
        self.yesterday = today

    async def _rebalance(self, day: pd.Timestamp) -> None:
        method = METHODS[self.rebalanced % len(METHODS)]
        policy = AllocationPolicy(method, cash_floor=d("0.05"), max_turnover=d("0.5"), min_days=20)
        plan = await self.allocator.plan(policy)
        carried = await self.allocator.rebalance(plan.plan_id)
        assert carried.state is PlanState.CARRIED_OUT
        assert sum(row.moves_now for row in carried.rows) == 0
        assert sum(row.moves_later for row in carried.rows) == 0
        self.rebalanced += 1


@asynccontextmanager
async def walk_on(store: Store, prices: pd.DataFrame, url: str | None) -> AsyncIterator[Walk]:
    """A walk on a store."""
    names = tuple(sorted(prices.columns))
    seen = Seen(names, [np.ones(len(names))], url)
    async with writer_on(store.ledger) as writer:
        allocator = allocator_on(store, writer, Mode.PAPER, seen)
        treasurer = Treasurer(writer, store.allocation, store.feed)
        walk = Walk(store, writer, allocator, treasurer, seen, prices[list(names)])
        await walk.open()
        yield walk


@dataclass
class Auditor:
    """Audits every book each day: by the facts that are new since the day before."""

    audits: dict[BookKey, BookAudit] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    transferred: Decimal = ZERO

    def check(self, tables: Tables) -> None:
        """Compares every figure of every book, and what all have together, with the facts."""
        books = {key: tables.book(key) for key in tables.books}
        for key, book in books.items():
            self.audits.setdefault(key, BookAudit(book)).book = book
        self._take(tables)
        for key, audit in self.audits.items():
            assert audit.differences() == [], key
        assert sum((book.capital for book in books.values()), ZERO) == CAPITAL
        assert self.transferred == 0
        assert all(book.cash >= 0 for book in books.values())

    def _take(self, tables: Tables) -> None:
        for entry in self._new("cash", tables.cash_entries):
            self.audits[entry.strategy_name, entry.mode].take_cash(entry)
            if entry.kind is CashKind.TRANSFER:
                self.transferred += entry.amount
        fills = self._new("fills", tables.fills)
        for fill in fills:
            order = tables.orders[fill.order_id]
            audit = self.audits[order.strategy_name, order.mode]
            audit.take_fill(order.symbol, order.side, fill)
            audit.take_order(order, fill.quantity, fill.value, fill.commission)

    def _new(self, kind: str, facts: Mapping[Any, Fact]) -> list[Fact]:
        """Facts are only ever added: those that came since the last time."""
        known = self.taken.get(kind, 0)
        self.taken[kind] = len(facts)
        return list(islice(facts.values(), known, None))


@pytest.mark.timeout(400)  # 40 s of one core, which tests that run beside it want too
async def test_8000_days_in_memory_with_every_book_audited_every_day(prices: pd.DataFrame) -> None:
    store = memory_store()
    ledger = store.ledger
    assert isinstance(ledger, MemoryLedger)
    auditor = Auditor()
    async with walk_on(store, prices, None) as walk:
        for number, day in enumerate(prices.index):
            await walk.live(day)
            auditor.check(ledger.tables)
            if number % 1000 == 0:
                await assert_balanced(store.reads)  # the same, once more from the very beginning
    await assert_balanced(store.reads)
    tables = ledger.tables
    transfers = [e for e in tables.cash_entries.values() if e.kind is CashKind.TRANSFER]
    assert (len(prices), len(walk.seen.names)) == (8313, 20)
    assert walk.rebalanced > 390
    assert len(transfers) > 5000
    assert len(tables.orders) > 5000
    assert any(e.reason.startswith("plan ") and e.strategy_name == RESERVE for e in transfers)


async def test_a_year_on_postgresql_with_the_whole_audit_every_day(
    prices: pd.DataFrame, migrated_url: str
) -> None:
    async with (
        postgresql_store(migrated_url) as store,
        walk_on(store, prices.iloc[:260], migrated_url) as walk,
    ):
        marking = Marking(
            walk.writer,
            store.reads,
            lambda: datetime.now(UTC),
            max_batch=256,
            max_waiting=4096,
            pace_s=0.0,
        )
        for day in walk.prices.index:
            await walk.live(day, marking)
            await assert_balanced(store.reads)
            assert await capital(store, walk.seen.names) == CAPITAL
        await marking.stop()
        assert walk.rebalanced >= 10


async def capital(store: Store, names: tuple[str, ...]) -> Decimal:
    """What came from outside in all, as cash and cost of shares."""
    async with store.ledger.transaction() as transaction:
        books = (await transaction.load(Needs({*names, RESERVE}))).books.values()
    return sum((book.capital for book in books), ZERO)
