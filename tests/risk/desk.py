"""A writer and a guardian on a store, and what is asked of them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

from services.portfolio.commands import (
    BuyAll,
    Command,
    CreateOrder,
    SetState,
    UpsertPortfolio,
)
from services.portfolio.domain.book import State, Strategy
from services.portfolio.domain.order import Order, Side
from services.portfolio.domain.risk import Limits, RiskEvent
from services.portfolio.history.commands import CloseSession
from services.portfolio.ports import Broker, Needs, OrderFilter, PriceMark
from services.portfolio.risk.commands import SetLimits
from services.portfolio.risk.guardian import Guardian
from services.portfolio.views import PortfolioView
from services.portfolio.writer import Writer
from tests.ledger.values import d
from tests.ports.stores import Store
from tests.writer.desks import AT_ONCE, assert_balanced, writer_on

EVERY = OrderFilter()


@dataclass(frozen=True)
class RiskDesk:
    """What tests of risk control act on."""

    store: Store
    writer: Writer
    guardian: Guardian

    async def submit(self, command: Command) -> Any:
        """Runs a command."""
        return await self.writer.submit(command)

    async def open(self, name: str, cash: str = "1000", **limits: Any) -> None:
        """Makes a strategy with cash and limits."""
        await self.submit(UpsertPortfolio(name, d(cash)))
        if limits:
            await self.limit(name, **limits)

    async def limit(self, name: str, **limits: Any) -> None:
        """Sets limits; figures as texts."""
        figures: dict[str, Any] = {
            key: d(each) if type(each) is str else each for key, each in limits.items()
        }
        await self.submit(SetLimits(name, Limits(**figures)))

    async def buy(self, name: str, quantity: str, price: str, symbol: str = "SPXL") -> Order:
        """Buys."""
        return cast(
            "Order", await self.submit(CreateOrder(name, symbol, Side.BUY, d(quantity), d(price)))
        )

    async def buy_all(self, name: str, price: str, symbol: str = "SPXL") -> Order:
        """Buys for all the cash."""
        return cast("Order", await self.submit(BuyAll(name, symbol, d(price))))

    async def mark(
        self, name: str, price: str, symbol: str = "SPXL", *, ago_s: float = 0.0
    ) -> None:
        """Reports a price that was seen `ago_s` seconds ago."""
        time = datetime.now(UTC) - timedelta(seconds=ago_s)
        await self.store.reads.mark([PriceMark(name, symbol, d(price), time)])

    async def close(self, name: str, day: int) -> None:
        """Begins a session, which closes the one before."""
        await self.submit(CloseSession(name, date(2024, 5, day), given=True))

    async def halt(self, name: str) -> None:
        """Halts a strategy by hand."""
        await self.submit(SetState(name, State.HALTED, "by hand"))

    async def resume(self, name: str) -> None:
        """Resumes a strategy."""
        await self.submit(SetState(name, State.ACTIVE))

    async def view(self, name: str) -> PortfolioView:
        """A strategy as readers see it."""
        (found,) = await self.store.reads.portfolios([name])
        return found

    async def strategy(self, name: str) -> Strategy:
        """A strategy as the ledger has it."""
        async with self.store.ledger.transaction() as transaction:
            return (await transaction.load(Needs({name}))).strategies[name]

    async def events(self, name: str | None = None) -> list[RiskEvent]:
        """What risk control did, oldest first."""
        return [*await self.store.risk.events(name, None, 999)][::-1]

    async def told(self, name: str | None = None) -> list[str]:
        """The kinds of what it did, oldest first."""
        return [event.kind for event in await self.events(name)]

    async def orders(self) -> Sequence[Order]:
        """All orders, oldest first."""
        return (await self.store.reads.orders(EVERY, None, 999))[::-1]


@asynccontextmanager
async def desk_on(store: Store, broker: Broker = AT_ONCE) -> AsyncIterator[RiskDesk]:
    """A desk on the store; its ledger is audited in the end."""
    async with writer_on(store.ledger, broker) as writer:
        guardian = Guardian(
            writer, store.risk, store.feed, lambda: datetime.now(UTC), look_every_s=0.2, rests=0
        )
        yield RiskDesk(store, writer, guardian)
        await assert_balanced(store.reads)
