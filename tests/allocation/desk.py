"""A desk for tests of the allocation: a writer, an allocator with given weights, a treasurer."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

import uuid_utils.compat

from services.portfolio.allocation.allocator import Allocator, Rules
from services.portfolio.allocation.ports import Solver
from services.portfolio.allocation.request import Request, Solution
from services.portfolio.allocation.treasurer import Treasurer
from services.portfolio.commands import BuyAll, SellAll, UpsertPortfolio
from services.portfolio.domain.book import Book
from services.portfolio.domain.capital import RESERVE, Method
from services.portfolio.domain.order import Mode
from services.portfolio.ports import Needs, PriceMark
from services.portfolio.writer import Writer
from tests.ports.stores import Store
from tests.writer.desks import assert_balanced, writer_on


@dataclass
class GivenWeights:
    """A solver that answers what the test says; equal weights for who may have any until then."""

    weights: Mapping[str, float] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)

    async def solve(self, request: Request) -> Solution:
        """The weights that were given."""
        self.asked.append(request)
        weights = self.weights or self._equal(request)
        return Solution(weights, Method.EQUAL, "", {}, 0, None, None, {}, ())

    def _equal(self, request: Request) -> Mapping[str, float]:
        may = [bound.strategy_name for bound in request.policy.bounds if bound.max_weight]
        share = float(1 - request.policy.cash_floor) / len(may)
        return {name: share if name in may else 0.0 for name in request.current}


@dataclass(frozen=True)
class Desk:
    """One replica."""

    store: Store
    writer: Writer
    allocator: Allocator
    treasurer: Treasurer
    solver: GivenWeights

    async def open(self, **cash: str) -> None:
        """Creates strategies with cash."""
        for name, amount in cash.items():
            await self.writer.submit(UpsertPortfolio(name, Decimal(amount)))

    async def buy_all(self, name: str, price: str = "1") -> None:
        """The strategy buys SPXL with all its free cash."""
        await self.writer.submit(BuyAll(name, "SPXL", Decimal(price)))

    async def sell_all(self, name: str, price: str = "1") -> None:
        """The strategy sells its SPXL."""
        await self.writer.submit(SellAll(name, "SPXL", Decimal(price)))

    async def mark(self, name: str, price: str) -> None:
        """The strategy reports a price of SPXL."""
        await self.store.reads.mark([PriceMark(name, "SPXL", Decimal(price), datetime.now(UTC))])

    async def book(self, name: str, mode: Mode = Mode.PAPER) -> Book:
        """A book as it is committed."""
        async with self.store.ledger.transaction() as transaction:
            return (await transaction.load(Needs({name}))).books[name, mode]

    async def cash(self, *names: str) -> list[Decimal]:
        """The cash of each."""
        return [(await self.book(name)).cash for name in names]

    async def dues(self, *names: str) -> list[Decimal]:
        """What each is due; the reserve's comes last."""
        return [(await self.book(name)).due for name in (*names, RESERVE)]


def allocator_on(
    store: Store,
    writer: Writer,
    mode: Mode = Mode.PAPER,
    solver: Solver | None = None,
    live_capital: str = "100000",
) -> Allocator:
    """An allocator on a store; without a solver, with equal weights."""
    rules = Rules(lambda: datetime.now(UTC), uuid_utils.compat.uuid7, mode, Decimal(live_capital))
    solver = solver or GivenWeights()
    return Allocator(writer, store.reads, store.allocation, store.broker_reads, solver, rules)


@asynccontextmanager
async def desk_on(
    store: Store, mode: Mode = Mode.PAPER, live_capital: str = "100000"
) -> AsyncIterator[Desk]:
    """A desk on a store; its ledger is audited in the end."""
    solver = GivenWeights()
    async with writer_on(store.ledger) as writer:
        allocator = allocator_on(store, writer, mode, solver, live_capital)
        treasurer = Treasurer(writer, store.allocation, store.feed)
        yield Desk(store, writer, allocator, treasurer, solver)
    await assert_balanced(store.reads)
