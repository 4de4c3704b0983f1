"""The commands of LIVE: what the broker says goes into the ledger, and what an operator says of it.

The sender submits the first three, again and again with the same evidence: what is booked already
changes nothing. What does not fit is refused with a LedgerError; the sender logs it, and the
comparison with the broker's account shows it as a break.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal
from uuid import UUID

from services.portfolio.batch import Batch
from services.portfolio.commands import PortfolioOf, PositionOf
from services.portfolio.domain import ledger
from services.portfolio.domain.book import Book, CashKind
from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.errors import (
    IllegalFillError,
    InsufficientSharesError,
    NotUnattributedError,
)
from services.portfolio.domain.evidence import BrokerExecution
from services.portfolio.domain.executions import Booked, booked_under, root_of
from services.portfolio.domain.ledger import Booking
from services.portfolio.domain.money import ZERO, part_of, plain_quantity, value_of
from services.portfolio.domain.order import BY_HAND, Execution, Fill, Mode, Order, Status
from services.portfolio.domain.position import Position, empty_position
from services.portfolio.domain.reconciliation import UNATTRIBUTED, Acknowledgement, SymbolRow
from services.portfolio.ports import Needs
from services.portfolio.promotion import modes
from services.portfolio.promotion.modes import book_or_new

BROKER = "broker"  # the actor of what the broker's evidence decided
CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class BookExecution:
    """Book an execution of one of our orders, or what a correction of it changes.

    `order_ref` is the order's id. The commission is booked too once the broker has reported it.
    """

    execution: BrokerExecution
    request_id: str = ""

    @property
    def order_id(self) -> UUID:
        """The order that was executed."""
        return UUID(self.execution.order_ref)

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(orders=(self.order_id,), fills=(self.order_id,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        execution = self.execution
        order = batch.order(self.order_id)
        fills = batch.fills(order.order_id)
        _require_its_own(order, fills, execution)
        booked = booked_under(execution.root, fills)
        change = booked.change_to(execution)
        bookings = [] if change is None else [self._booking(batch, order, booked, change)]
        if execution.commission is not None:
            book = batch.book((order.strategy_name, order.mode))
            after = bookings[0] if bookings else Booking(book, order)
            report = booked.commission_change_to(execution.execution_id, execution.commission)
            bookings += _commission(batch, after, report)
        for booking in bookings:
            batch.record_booking(booking)
        return batch.order(order.order_id)

    def _booking(self, batch: Batch, order: Order, booked: Booked, change: Execution) -> Booking:
        """The move that books the change: a fill, a late fill, or a correction."""
        desk = batch.desk
        book = batch.book((order.strategy_name, order.mode))
        if not booked.is_new:
            price = self.execution.price if self.execution.quantity else ZERO
            booking = ledger.book_correction(book, order, change, price, desk.now, BROKER)
        elif order.is_open:
            booking = ledger.book_fill(book, order, change, desk.new_id(), desk.now, BROKER)
        else:
            booking = ledger.book_late_fill(book, order, change, desk.new_id(), desk.now)
        assert booking.fill is not None  # noqa: S101 - each of the three has one
        return replace(booking, fill=replace(booking.fill, time=self.execution.time))


@dataclass(frozen=True, slots=True)
class BookCommission:
    """Book the commission of an execution that is booked, or what a later report changes."""

    order_id: UUID
    execution_id: str
    commission: Decimal
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(orders=(self.order_id,), fills=(self.order_id,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        order = batch.order(self.order_id)
        booked = booked_under(root_of(self.execution_id), batch.fills(self.order_id))
        if not booked.has_seen(self.execution_id):
            raise IllegalFillError(
                f"Execution {self.execution_id} of order {self.order_id} is not booked yet; its "
                "commission can be booked once it is.",
                execution_id=self.execution_id,
            )
        report = booked.commission_change_to(self.execution_id, self.commission)
        book = batch.book((order.strategy_name, order.mode))
        for booking in _commission(batch, Booking(book, order), report):
            batch.record_booking(booking)
        return batch.order(self.order_id)


@dataclass(frozen=True, slots=True)
class EndOrder:
    """End an order by the broker's evidence, or hold it as UNKNOWN. Releases what is not filled.

    An order that has ended, or is in that status, is answered as it is.
    """

    order_id: UUID
    status: Status  # CANCELLED, REJECTED or UNKNOWN
    reason: str
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(orders=(self.order_id,))

    def run(self, batch: Batch) -> Order:  # noqa: D102 - as in Command
        order = batch.order(self.order_id)
        if not order.is_open or order.status is self.status:
            return order
        book = batch.book((order.strategy_name, order.mode))
        booking = ledger.end(book, order, self.status, self.reason, batch.desk.now, BROKER)
        batch.record_booking(booking)
        return booking.order


@dataclass(frozen=True, slots=True)
class AssignShares:
    """Say whose UNATTRIBUTED shares are: a strategy's, or with UNATTRIBUTED as name, nobody's.

    `quantity` is added to the strategy's LIVE book at `average_cost` USD a share; below 0 it is
    taken away at what it cost, and `average_cost` is not used. Nobody's is all that is
    UNATTRIBUTED now; neither figure is used. Answers None where no shares are held in the end.
    """

    strategy_name: str
    symbol: str
    quantity: Decimal
    average_cost: Decimal
    reason: str = ""
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        names = () if self.strategy_name == UNATTRIBUTED else (self.strategy_name,)
        return Needs(strategies=names, accounts=(self.symbol,), valued=True)

    def run(self, batch: Batch) -> PositionOf | None:  # noqa: D102 - as in Command
        if self.strategy_name == UNATTRIBUTED:
            row = batch.account(self.symbol)
            if not row.unattributed and not row.frozen:
                raise NotUnattributedError(row, self.quantity)
            self._acknowledge(batch, row.unattributed)
            return None
        return self._assign(batch)

    def _assign(self, batch: Batch) -> PositionOf | None:
        desk = batch.desk
        strategy = batch.strategy(self.strategy_name)
        row = batch.account(self.symbol)
        _require_unattributed(row, self.quantity)
        book, opening = book_or_new(batch, (strategy.name, Mode.LIVE))
        held = book.positions.get(self.symbol) or empty_position(
            desk.new_id(), self.symbol, desk.now
        )
        after, adjustments = ledger.set_position(
            book,
            self._wanted(held, batch.last_price(book, self.symbol)),
            self.reason,
            desk.now,
            desk.actor,
        )
        if opening:
            batch.record_cash(book, opening)
        batch.record_adjustments(after, adjustments)
        # What has an owner now is no longer acknowledged as nobody's.
        left = row.unattributed - self.quantity
        if abs(row.acknowledged) > abs(left) or row.acknowledged * left < 0:
            self._acknowledge(batch, left)
        return PositionOf(held.position_id) if after.positions[self.symbol].quantity else None

    def _wanted(self, held: Position, price: Decimal) -> Position:
        """The position with the shares added or taken away; `price` is its last."""
        quantity = held.quantity + self.quantity
        if quantity < 0:
            raise InsufficientSharesError(
                self.symbol, -self.quantity, held.quantity, held.free_quantity
            )
        if self.quantity > 0:
            cost = held.cost + value_of(self.quantity, self.average_cost)
        else:
            cost = part_of(held.cost, quantity, held.quantity)
        return replace(held, quantity=quantity, cost=cost, last_price=price)

    def _acknowledge(self, batch: Batch, quantity: Decimal) -> None:
        desk = batch.desk
        batch.record_acknowledgement(
            Acknowledgement(self.symbol, quantity, desk.actor, self.reason, desk.now)
        )


@dataclass(frozen=True, slots=True)
class FollowMode:
    """Put the mode that a strategy is to have in force, if its present book is flat.

    Under TRADING_MODE=LIVE those who ask for LIVE are, and those on AUTO that are promoted, else
    all are PAPER; see mode_to_be. A book that the strategy does not have yet opens with no cash.
    """

    strategy_name: str
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=True, decided=True)

    def run(self, batch: Batch) -> PortfolioOf:  # noqa: D102 - as in Command
        modes.settled(batch, batch.strategy(self.strategy_name)).record(batch)
        return PortfolioOf(self.strategy_name)


@dataclass(frozen=True, slots=True)
class ShareCash:
    """Give LIVE books that were opened with nothing, and not touched since, their first cash.

    `total` is what all the named strategies together may have been given, in USD, and `available`
    what the account has that no book has. What the books of the others were given is taken off
    the total first, of those too that came back to PAPER: they have it when they are LIVE again.
    Each new one gets an equal share of the rest, as far as it is available, rounded down to the
    cent. Its paper twin, if it has nothing either, begins with as much. Done again, it does
    nothing.
    """

    strategy_names: tuple[str, ...]
    total: Decimal
    available: Decimal
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(*self.strategy_names, RESERVE), valued=True)

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        desk = batch.desk
        found = [batch.find_book((name, Mode.LIVE)) for name in self.strategy_names]
        books = [book for book in found if book is not None]
        new = [
            book
            for book in books
            if _is_untouched(book) and batch.strategy(book.strategy_name).mode is Mode.LIVE
        ]
        reserve = batch.find_book((RESERVE, Mode.LIVE))  # has what they were given and gave back
        given = sum((book.capital for book in books), reserve.cash if reserve else ZERO)
        left = min(self.total - given, self.available)
        if not new or left <= 0:
            return
        share = (left / len(new)).quantize(CENT, ROUND_DOWN)
        papers = [batch.find_book((book.strategy_name, Mode.PAPER)) for book in new]
        twins = [book for book in papers if book is not None and _is_untouched(book)]
        for book in (*new, *twins):
            after, entries = ledger.set_cash(
                book, share, CashKind.DEPOSIT, "LIVE_CAPITAL", desk.now, BROKER
            )
            if entries:
                batch.record_cash(after, entries)


def _is_untouched(book: Book) -> bool:
    """Whether nothing happened since it was opened without cash."""
    return book.version == 1 and not book.cash


def _require_its_own(order: Order, fills: Sequence[Fill], execution: BrokerExecution) -> None:
    """Checks that the execution is of this order, and that no person has booked it already."""
    if (execution.symbol, execution.side) != (order.symbol, order.side):
        raise IllegalFillError(
            f"Execution {execution.execution_id} is a {execution.side} of {execution.symbol}; "
            f"order {order.order_id} is a {order.side} of {order.symbol}. It was not booked.",
            execution_id=execution.execution_id,
        )
    by_hand = sum((f.quantity for f in fills if f.execution_id.startswith(BY_HAND)), ZERO)
    if by_hand:
        raise IllegalFillError(
            f"A person reported {plain_quantity(by_hand)} {order.symbol} of order "
            f"{order.order_id} as filled, which may be what execution {execution.execution_id} is; "
            "it was not booked as well. Compare GET /reconciliation, and assign what is missing "
            "with POST /positions:assign.",
            execution_id=execution.execution_id,
            by_hand=plain_quantity(by_hand),
        )


def _commission(batch: Batch, after: Booking, report: Execution | None) -> list[Booking]:
    """The move that books a commission after another move, if it adds anything."""
    if report is None:
        return []
    return [
        ledger.book_commission(
            after.book, after.order, report.execution_id, report.commission, batch.desk.now
        )
    ]


def _require_unattributed(row: SymbolRow, quantity: Decimal) -> None:
    """Checks that this many shares are there to be assigned, with the same sign."""
    if not quantity or quantity * row.unattributed <= 0 or abs(quantity) > abs(row.unattributed):
        raise NotUnattributedError(row, quantity)
