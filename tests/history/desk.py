"""A desk for tests of the history: a writer, and prices that strategies report to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from services.portfolio.commands import UpsertPortfolio
from services.portfolio.domain.order import Mode
from services.portfolio.history.marking import Marking
from services.portfolio.history.ports import Close
from services.portfolio.ports import Broker, Clock, PriceMark
from services.portfolio.writer import Writer
from tests.ports.stores import Store
from tests.writer.desks import AT_ONCE, writer_on

FIRST = date(2024, 1, 1)


def day(number: int) -> date:
    """A session; each is a day later than the one before."""
    return FIRST + timedelta(days=number)


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Desk:
    """One replica: its writer, and what takes its strategies' prices."""

    store: Store
    writer: Writer
    marking: Marking

    async def mark(self, name: str, session: date | None, **prices: str | int | Decimal) -> None:
        """A strategy reports prices."""
        seen = [
            PriceMark(name, symbol, Decimal(price), utc_now(), session)
            for symbol, price in prices.items()
        ]
        await self.marking.mark(seen)

    async def set_cash(self, name: str, cash: str | int | Decimal) -> None:
        """Creates a strategy, or sets its cash."""
        await self.writer.submit(UpsertPortfolio(name, Decimal(cash)))

    async def closes(self, name: str, mode: Mode = Mode.PAPER) -> list[Close]:
        """All closes of a book, oldest first."""
        return (await self.store.history.closes((name, mode), None, None))[::-1]

    async def whole(self, mode: Mode | None = None) -> list[Close]:
        """All closes of the whole, oldest first."""
        return (await self.store.history.closes_of_all(mode, None, None))[::-1]

    async def session(self, name: str) -> date | None:
        """The strategy's session."""
        (view,) = await self.store.reads.portfolios([name])
        return view.session


@asynccontextmanager
async def desk_on(
    store: Store, broker: Broker = AT_ONCE, clock: Clock = utc_now
) -> AsyncIterator[Desk]:
    """A desk on a store; `clock` says which day it is in New York."""
    async with writer_on(store.ledger, broker) as writer:
        marking = Marking(writer, store.reads, clock, max_batch=256, max_waiting=4096, pace_s=0.0)
        try:
            yield Desk(store, writer, marking)
        finally:
            await marking.stop()
