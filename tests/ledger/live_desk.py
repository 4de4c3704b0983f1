"""A desk under TRADING_MODE=LIVE without storage: one command after another, audited each time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar
from uuid import UUID

import pytest

from services.portfolio.batch import Batch, Desk
from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.caller import Caller
from services.portfolio.commands import Command, CreateOrder, UpsertPortfolio
from services.portfolio.domain.audit import BookAudit, Difference
from services.portfolio.domain.book import Book, CashEntry, RequestedMode, Strategy
from services.portfolio.domain.evidence import BrokerExecution
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Fill, Mode, Order, Side
from services.portfolio.domain.position import Position, PositionAdjustment
from services.portfolio.domain.promotion import Decision
from services.portfolio.domain.reconciliation import Acknowledgement, SymbolRow
from services.portfolio.domain.weather import BrokerState, Weather
from services.portfolio.live.commands import AssignShares, BookExecution
from services.portfolio.live.gate import LiveBroker
from services.portfolio.live.ports import Seen
from services.portfolio.ports import BookKey, Broker, Snapshot
from tests.ledger.values import ACTOR, LATER, NAME, NOW, d, new_id

LIVE = (NAME, Mode.LIVE)
TESTER = Caller(ACTOR)
Error = TypeVar("Error", bound=Exception)


@dataclass
class LiveDesk:
    """Strategies, books, and all that happened to them. `account` is what the broker has."""

    trading_mode: Mode = Mode.LIVE
    seen: Seen = field(default_factory=lambda: Seen(Weather(BrokerState.CONNECTED, NOW), {}))
    strategies: dict[str, Strategy] = field(default_factory=dict)
    books: dict[BookKey, Book] = field(default_factory=dict)
    orders: dict[UUID, Order] = field(default_factory=dict)
    fills: list[Fill] = field(default_factory=list)
    entries: list[CashEntry] = field(default_factory=list)
    adjustments: list[PositionAdjustment] = field(default_factory=list)
    acknowledgements: list[Acknowledgement] = field(default_factory=list)
    intents: list[UUID] = field(default_factory=list)
    cancel_requests: list[UUID] = field(default_factory=list)
    account: dict[str, Decimal] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    at_once: bool = True  # AUTO counts as promoted
    paper: PaperBroker = field(default_factory=PaperBroker)

    @property
    def book(self) -> Book:
        """The LIVE book."""
        return self.books[LIVE]

    @property
    def held(self) -> Position:
        """The LIVE position in SPXL."""
        return self.book.positions["SPXL"]

    def submit(self, *commands: Command) -> list[object]:
        """Runs commands as one batch, and audits all books; a refusal raises."""
        batch = self.batch()
        answers: list[object] = [command.run(batch) for command in commands]
        self.take(batch)
        return answers

    def order(self, command: Command) -> Order:
        """The order that a command answers."""
        (answer,) = self.submit(command)
        assert isinstance(answer, Order)
        return answer

    @contextmanager
    def refused(self, error: type[Error]) -> Iterator[pytest.ExceptionInfo[Error]]:
        """Expects an error that leaves nothing behind."""
        before = (dict(self.books), dict(self.orders), len(self.fills), len(self.intents))
        with pytest.raises(error) as raised:
            yield raised
        assert before == (self.books, self.orders, len(self.fills), len(self.intents))

    def batch(self) -> Batch:
        """A batch that sees all there is, as the writer makes it, and checks its invariants."""
        brokers: dict[Mode, Broker] = {Mode.PAPER: self.paper}
        if self.trading_mode is Mode.LIVE:
            brokers[Mode.LIVE] = LiveBroker(lambda: self.seen, d("0.02"))
        snapshot = Snapshot(
            self.strategies,
            self.books,
            self.orders,
            {},
            {},
            {i: [f for f in self.fills if f.order_id == i] for i in self.orders},
            self.rows(),
            decisions={decision.strategy_name: decision for decision in self.decisions},
        )
        desk = Desk(brokers, new_id, LATER, self.trading_mode, TESTER, promote_at_once=self.at_once)
        return Batch(snapshot, desk, check_invariants=True)

    def take(self, batch: Batch) -> None:
        """Keeps what a batch decided."""
        changes = batch.changes
        self.strategies |= changes.strategies
        self.books |= changes.books
        self.orders |= changes.orders
        self.fills += changes.fills
        self.entries += changes.cash_entries
        self.adjustments += changes.adjustments
        self.acknowledgements += changes.acknowledgements
        self.intents += changes.intents
        self.cancel_requests += changes.cancel_requests
        self.decisions += changes.decisions
        ids = [(fill.order_id, fill.execution_id) for fill in self.fills]
        assert len(set(ids)) == len(ids), "a fill was booked twice"
        assert self.differences() == []

    def rows(self) -> dict[str, SymbolRow]:
        """The account beside the LIVE books."""
        said = {a.symbol: a.quantity for a in self.acknowledgements}
        held: dict[str, Decimal] = {}
        for book in self.books.values():
            for symbol, position in book.positions.items() if book.mode is Mode.LIVE else ():
                held[symbol] = held.get(symbol, ZERO) + position.quantity
        return {
            symbol: SymbolRow(
                symbol,
                self.account.get(symbol, ZERO),
                held.get(symbol, ZERO),
                said.get(symbol, ZERO),
            )
            for symbol in {*self.account, *held, *said}
        }

    def differences(self) -> list[Difference]:
        """What the audit finds on all books."""
        return [found for key in self.books for found in self._audit(key)]

    def _audit(self, key: BookKey) -> list[Difference]:
        audit = BookAudit(self.books[key])
        for entry in self.entries:
            if (entry.strategy_name, entry.mode) == key:
                audit.take_cash(entry)
        orders = {i: o for i, o in self.orders.items() if (o.strategy_name, o.mode) == key}
        facts: list[Fill | PositionAdjustment] = [f for f in self.fills if f.order_id in orders]
        facts += [a for a in self.adjustments if (a.strategy_name, a.mode) == key]
        for fact in sorted(facts, key=lambda fact: fact.book_version):
            if isinstance(fact, Fill):
                order = orders[fact.order_id]
                audit.take_fill(order.symbol, order.side, fact)
            else:
                audit.take_adjustment(fact)
        for order in orders.values():
            own = [fill for fill in self.fills if fill.order_id == order.order_id]
            audit.take_order(
                order,
                sum((fill.quantity for fill in own), ZERO),
                sum((fill.value for fill in own), ZERO),
                sum((fill.commission for fill in own), ZERO),
            )
        return audit.differences()


def desk_with(cash: str | int = 10_000, shares: str | int = 0, cost: str | int = 0) -> LiveDesk:
    """A LIVE strategy with cash, and shares of SPXL that were assigned to it.

    It has no PAPER book, like those from before there were twins: all facts are of the LIVE one.
    """
    desk = LiveDesk()
    desk.submit(UpsertPortfolio(NAME, d(cash), RequestedMode.LIVE))
    del desk.books[NAME, Mode.PAPER]
    desk.entries = [entry for entry in desk.entries if entry.mode is Mode.LIVE]
    if d(shares):
        desk.account["SPXL"] = d(shares)
        desk.submit(AssignShares(NAME, "SPXL", d(shares), d(cost) / d(shares)))
    return desk


def placed(desk: LiveDesk, side: Side = Side.BUY, quantity: str | int = 10) -> Order:
    """An order at 100 USD."""
    return desk.order(CreateOrder(NAME, "SPXL", side, d(quantity), d(100)))


def executed(
    order: Order,
    execution_id: str = "e1.01",
    quantity: str | int = 10,
    price: str | int = 100,
    commission: str | int | None = None,
) -> BookExecution:
    """What books an execution of an order."""
    return BookExecution(
        BrokerExecution(
            execution_id,
            str(order.order_id),
            order.symbol,
            order.side,
            d(quantity),
            d(price),
            LATER,
            None if commission is None else d(commission),
        )
    )
