"""The commands: each says what it needs, and decides on the batch what will be.

A command is a frozen value: what a caller asked for, in the domain's types. `run` raises a
LedgerError or records what it decided; it never does both.
"""

import hashlib
from dataclasses import astuple, dataclass, replace
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from services.portfolio.batch import Batch
from services.portfolio.domain import ledger
from services.portfolio.domain.book import (
    Book,
    CashEntry,
    CashKind,
    RequestedMode,
    State,
    Strategy,
)
from services.portfolio.domain.ledger import Report, Ticket
from services.portfolio.domain.money import ZERO, rounded, value_of
from services.portfolio.domain.order import Mode, Order, Side
from services.portfolio.domain.position import Position
from services.portfolio.ports import Needs


@dataclass(frozen=True, slots=True)
class PortfolioOf:
    """The answer is this strategy's state, read once everything is written."""

    strategy_name: str


@dataclass(frozen=True, slots=True)
class PositionOf:
    """The answer is this position, read once everything is written."""

    position_id: UUID


Result = Order | PortfolioOf | PositionOf | None


class Command(Protocol):
    """What a caller asks of the ledger."""

    @property
    def request_id(self) -> str:
        """Makes the command safe to repeat; may be empty."""

    def needs(self) -> Needs:
        """What it must see and hold still."""

    def run(self, batch: Batch) -> Result:
        """Decides and records. Raises LedgerError when the ledger forbids it."""


def fingerprint(command: Command) -> bytes:
    """Equal for commands that ask for the same, request_id included; of 16 bytes."""
    asked = (type(command).__name__, *astuple(command))  # type: ignore[call-overload]  # a dataclass
    return hashlib.blake2b(repr(asked).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class BuyAll:
    """Buy as many whole shares as the free cash allows."""

    strategy_name: str
    symbol: str
    price: Decimal
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        ledger.require_active(strategy)
        book = batch.book((strategy.name, strategy.mode))
        quantity = ledger.quantity_to_buy_all(
            book, self.symbol, self.price, batch.desk.broker.commission(Decimal(1))
        )
        return _place(batch, strategy, self.symbol, Side.BUY, quantity, self.price, self.request_id)


@dataclass(frozen=True, slots=True)
class SellAll:
    """Sell all that is held and free of a symbol."""

    strategy_name: str
    symbol: str
    price: Decimal
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        ledger.require_active(strategy)
        book = batch.book((strategy.name, strategy.mode))
        quantity = ledger.quantity_to_sell_all(book, self.symbol)
        return _place(
            batch, strategy, self.symbol, Side.SELL, quantity, self.price, self.request_id
        )


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """Trade a named quantity."""

    strategy_name: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        ledger.require_active(strategy)
        return _place(
            batch, strategy, self.symbol, self.side, self.quantity, self.price, self.request_id
        )


@dataclass(frozen=True, slots=True)
class UpdateOrderStatus:
    """Change an open order's status by hand."""

    order_id: UUID
    report: Report
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(orders=(self.order_id,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        order = batch.order(self.order_id)
        book = batch.book((order.strategy_name, order.mode))
        desk = batch.desk
        if self.report.status is order.status:
            return order
        # Refuse an illegal change before looking at the figures that came with it.
        closing = ledger.end(
            book, order, self.report.status, self.report.reason, desk.now, desk.actor
        )
        execution = ledger.execution_from_report(order, self.report, f"by-hand-{book.version + 1}")
        if execution is None:
            batch.record_booking(closing)
            return closing.order
        filled = ledger.book_fill(book, order, execution, desk.new_id(), desk.now, desk.actor)
        closing = ledger.end(
            filled.book,
            filled.order,
            self.report.status,
            self.report.reason,
            desk.now,
            desk.actor,
        )
        batch.record_booking(filled)
        if closing.event is not None:
            batch.record_booking(closing)
        return closing.order


@dataclass(frozen=True, slots=True)
class SetPosition:
    """Create a position, or set it to this quantity and average cost."""

    strategy_name: str
    symbol: str
    quantity: Decimal
    average_cost: Decimal
    reason: str = ""
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,))

    def run(self, batch: Batch) -> PositionOf:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        book = batch.book((strategy.name, strategy.mode))
        desk = batch.desk
        held = book.positions.get(self.symbol)
        wanted = Position(
            held.position_id if held else desk.new_id(),
            self.symbol,
            self.quantity,
            ZERO,
            value_of(self.quantity, self.average_cost),
            ZERO,
            self.average_cost,
            desk.now,
        )
        after, adjustments = ledger.set_position(book, wanted, self.reason, desk.now, desk.actor)
        batch.record_adjustments(after, adjustments)
        return PositionOf(wanted.position_id)


@dataclass(frozen=True, slots=True)
class DeletePosition:
    """Remove all shares of a position."""

    position_id: UUID
    reason: str = ""
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(positions=(self.position_id,))

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        book, position = batch.open_position(self.position_id)
        gone = replace(position, quantity=ZERO, cost=ZERO)
        after, adjustments = ledger.set_position(
            book, gone, self.reason, batch.desk.now, batch.desk.actor
        )
        batch.record_adjustments(after, adjustments)


@dataclass(frozen=True, slots=True)
class UpsertPortfolio:
    """Create a strategy, or change what is given."""

    strategy_name: str
    cash: Decimal | None = None
    requested_mode: RequestedMode | None = None
    reason: str = ""
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,))

    def run(self, batch: Batch) -> PortfolioOf:  # noqa: D102 - as in Command
        desk = batch.desk
        known = batch.find_strategy(self.strategy_name)
        strategy = known or Strategy(
            self.strategy_name, RequestedMode.AUTO, Mode.PAPER, State.ACTIVE, "", desk.now
        )
        after: Book | None = None
        entries: tuple[CashEntry, ...] = ()
        if known is None:
            after, entries = ledger.open_book(
                strategy.name, strategy.mode, self.cash or ZERO, self.reason, desk.now, desk.actor
            )
        elif self.cash is not None:
            book = batch.book((strategy.name, strategy.mode))
            after, entries = ledger.set_cash(
                book, self.cash, CashKind.ADJUSTMENT, self.reason, desk.now, desk.actor
            )
        if known is None or self.requested_mode not in (None, strategy.requested_mode):
            requested = self.requested_mode or strategy.requested_mode
            batch.record_strategy(replace(strategy, requested_mode=requested, update_time=desk.now))
        if after is not None and entries:
            batch.record_cash(after, entries)
        return PortfolioOf(strategy.name)


@dataclass(frozen=True, slots=True)
class SetState:
    """Halt or resume a strategy."""

    strategy_name: str
    state: State
    reason: str = ""
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,))

    def run(self, batch: Batch) -> PortfolioOf:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        if strategy.state is not self.state:
            batch.record_strategy(
                replace(
                    strategy,
                    state=self.state,
                    halt_reason=self.reason if self.state is State.HALTED else "",
                    update_time=batch.desk.now,
                )
            )
        return PortfolioOf(strategy.name)


def _place(
    batch: Batch,
    strategy: Strategy,
    symbol: str,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    request_id: str,
) -> Order:
    """Accepts an order and books the fill that its broker gives at once, if any."""
    desk = batch.desk
    commission = rounded(desk.broker.commission(quantity))
    ticket = Ticket(desk.new_id(), symbol, side, quantity, price, request_id, commission)
    book = batch.book((strategy.name, strategy.mode))
    execution = desk.broker.execution_on_accept(ticket)
    if execution is None:
        booking = ledger.accept(book, ticket, desk.now)
    else:
        held = book.positions.get(symbol)
        position_id = held.position_id if held else desk.new_id()
        booking = ledger.accept_filled(book, ticket, execution, position_id, desk.now)
    batch.record_booking(booking)
    return booking.order
