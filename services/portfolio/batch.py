"""A batch: what its commands see and have decided so far, before anything is written.

A command reads from the batch, decides, and records; a command that raises has recorded nothing.
Later commands of the batch see what earlier ones recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.portfolio.domain.book import Book, CashEntry, Strategy
from services.portfolio.domain.errors import (
    OrderNotFoundError,
    PositionNotFoundError,
    StrategyNotFoundError,
)
from services.portfolio.domain.invariants import check_move
from services.portfolio.domain.ledger import Booking
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Fill, Mode, Order
from services.portfolio.domain.position import Position, PositionAdjustment
from services.portfolio.domain.reconciliation import SymbolRow
from services.portfolio.ports import (
    BookKey,
    Broker,
    Changes,
    NewId,
    Snapshot,
    UnavailableError,
)


@dataclass(frozen=True, slots=True)
class Desk:
    """What every command of a batch is given from outside."""

    brokers: Mapping[Mode, Broker]
    new_id: NewId
    now: datetime
    trading_mode: Mode = Mode.PAPER
    actor: str = "anonymous"

    def broker(self, mode: Mode) -> Broker:
        """Who executes the orders of books in this mode.

        Raises:
            UnavailableError: Nobody does: a book is LIVE still, and TRADING_MODE is PAPER.
        """
        broker = self.brokers.get(mode)
        if broker is None:
            raise UnavailableError(
                "BROKER_UNAVAILABLE",
                f"This strategy's book is {mode}, and the routers run with "
                f"TRADING_MODE={self.trading_mode}. Nothing was written. Start them with "
                f"TRADING_MODE={mode}, then repeat the call with the same request_id.",
            )
        return broker


class Batch:
    """The working state of one transaction."""

    def __init__(self, snapshot: Snapshot, desk: Desk, *, check_invariants: bool = False) -> None:
        self.desk = desk
        self.changes = Changes()
        self._snapshot = snapshot
        self._check_invariants = check_invariants

    def find_strategy(self, name: str) -> Strategy | None:
        """The strategy, if there is one of this name."""
        return self.changes.strategies.get(name) or self._snapshot.strategies.get(name)

    def strategy(self, name: str) -> Strategy:
        """The strategy.

        Raises:
            StrategyNotFoundError: There is none of this name.
        """
        strategy = self.find_strategy(name)
        if strategy is None:
            raise StrategyNotFoundError(name)
        return strategy

    def book(self, key: BookKey) -> Book:
        """The book of a strategy that exists."""
        return self.changes.books.get(key) or self._snapshot.books[key]

    def find_book(self, key: BookKey) -> Book | None:
        """The book, if the strategy has one in this mode."""
        return self.changes.books.get(key) or self._snapshot.books.get(key)

    def order(self, order_id: UUID) -> Order:
        """The order.

        Raises:
            OrderNotFoundError: There is none with this id.
        """
        order = self.changes.orders.get(order_id) or self._snapshot.orders.get(order_id)
        if order is None:
            raise OrderNotFoundError(str(order_id))
        return order

    def fills(self, order_id: UUID) -> Sequence[Fill]:
        """The fills of an order whose fills were asked for, oldest first."""
        recorded = (fill for fill in self.changes.fills if fill.order_id == order_id)
        return (*self._snapshot.fills.get(order_id, ()), *recorded)

    def account(self, symbol: str) -> SymbolRow:
        """The symbol in the broker's account as last compared, with the strategies' shares of now.

        All 0 when there is nothing to compare.
        """
        row = self._snapshot.accounts.get(symbol) or SymbolRow(symbol, ZERO, ZERO, ZERO)
        moved = ZERO  # by earlier commands of the batch
        for key, book in self.changes.books.items():
            if book.mode is Mode.LIVE:
                moved += _shares(book, symbol) - _shares(self._snapshot.books.get(key), symbol)
        said = [a.quantity for a in self.changes.acknowledgements if a.symbol == symbol]
        return replace(
            row,
            strategies=row.strategies + moved,
            acknowledged=said[-1] if said else row.acknowledged,
        )

    def open_position(self, position_id: UUID) -> tuple[Book, Position]:
        """A position that holds shares, and its book.

        Raises:
            PositionNotFoundError: There is none with this id, or it is flat.
        """
        owner = self._snapshot.positions.get(position_id)
        if owner is None:
            raise PositionNotFoundError(str(position_id))
        key, symbol = owner
        book = self.book(key)
        position = book.positions[symbol]
        if not position.quantity:
            raise PositionNotFoundError(str(position_id))
        return book, position

    def record_strategy(self, strategy: Strategy) -> None:
        """Keeps a strategy as it is now."""
        self.changes.strategies[strategy.name] = strategy

    def record_booking(self, booking: Booking) -> None:
        """Keeps what one move did to a book and an order."""
        fills = [] if booking.fill is None else [booking.fill]
        self.changes.orders[booking.order.order_id] = booking.order
        self.changes.fills.extend(fills)
        if booking.event is not None:
            self.changes.order_events.append(booking.event)
        self._record_book(booking.book, booking.cash_entries, symbol=booking.order.symbol)

    def record_cash(self, book: Book, entries: tuple[CashEntry, ...]) -> None:
        """Keeps a book whose cash was set."""
        self._record_book(book, entries)

    def record_adjustments(self, book: Book, adjustments: tuple[PositionAdjustment, ...]) -> None:
        """Keeps a book one of whose positions was set."""
        self.changes.adjustments.extend(adjustments)
        for adjustment in adjustments:
            self._record_book(book, (), symbol=adjustment.symbol, adjustment=adjustment)

    def _record_book(
        self,
        book: Book,
        entries: tuple[CashEntry, ...],
        *,
        symbol: str | None = None,
        adjustment: PositionAdjustment | None = None,
    ) -> None:
        key = (book.strategy_name, book.mode)
        if self._check_invariants:
            before = self.changes.books.get(key) or self._snapshot.books.get(key)
            check_move(before, book, entries, adjustment)
        self.changes.books[key] = book
        self.changes.cash_entries.extend(entries)
        if symbol is not None and symbol in book.positions:
            self.changes.positions[key, symbol] = book.positions[symbol]


def _shares(book: Book | None, symbol: str) -> Decimal:
    position = book.positions.get(symbol) if book else None
    return position.quantity if position else ZERO
