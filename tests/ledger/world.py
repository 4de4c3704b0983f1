"""A book that random commands are thrown at, with its facts and an independent tally beside it.

The tally adds up fractions: it knows nothing of Decimal, of rounding in the ledger, or of how a
book is kept.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from hypothesis import strategies as st

from services.portfolio.domain import ledger
from services.portfolio.domain.audit import BookAudit, Difference
from services.portfolio.domain.book import Book, CashEntry, CashKind, new_book
from services.portfolio.domain.errors import LedgerError
from services.portfolio.domain.invariants import check_move
from services.portfolio.domain.ledger import Booking, Ticket
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Execution, Fill, Mode, Order, Side, Status
from services.portfolio.domain.position import PositionAdjustment, empty_position
from tests.ledger.amounts import WIRE, exactly
from tests.ledger.values import ACTOR, NAME, NOW, half_even, new_id

SYMBOLS = ("SPXL", "AVL")

# What may happen: a word and its figures. Orders are picked by number, modulo how many there are.
MOVE = (
    st.tuples(st.just("place"), st.sampled_from(Side), st.sampled_from(SYMBOLS), WIRE, WIRE)
    | st.tuples(st.just("fill"), st.integers(0, 99), st.integers(1, 4), WIRE, WIRE | st.just(ZERO))
    | st.tuples(st.just("fill_all"), st.integers(0, 99), st.integers(1, 1), WIRE, st.just(ZERO))
    | st.tuples(st.just("end"), st.integers(0, 99), st.sampled_from(Status))
    | st.tuples(st.just("cash"), WIRE | st.just(ZERO))
    | st.tuples(st.just("position"), st.sampled_from(SYMBOLS), WIRE | st.just(ZERO), WIRE)
)
MOVES = st.lists(MOVE, min_size=5, max_size=40)


@dataclass
class World:
    """One book, all that happened to it, and the tally."""

    mode: Mode
    book: Book = field(init=False)
    orders: dict[UUID, Order] = field(default_factory=dict)
    fills: list[Fill] = field(default_factory=list)
    entries: list[CashEntry] = field(default_factory=list)
    adjustments: list[PositionAdjustment] = field(default_factory=list)
    tally_cash: Fraction = Fraction(0)
    tally_shares: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))

    def __post_init__(self) -> None:
        self.book = new_book(NAME, self.mode, NOW)
        self.cash(Decimal(10) ** 12)
        for symbol in SYMBOLS:
            self.position(symbol, Decimal(10**6), Decimal("12.34567891"))

    def throw(self, move: tuple[object, ...]) -> bool:
        """Makes a move; False when the ledger refuses it, and then nothing may have changed."""
        before = (self.book, dict(self.orders), len(self.fills), len(self.entries))
        word, *figures = move
        try:
            getattr(self, str(word))(*figures)
        except LedgerError:
            assert (self.book, self.orders, len(self.fills), len(self.entries)) == before
            return False
        return True

    def place(self, side: Side, symbol: str, quantity: Decimal, price: Decimal) -> None:
        """An order is accepted."""
        if side is Side.BUY and self.mode is Mode.PAPER:  # else most buys were refused
            quantity = min(quantity, Decimal(1000))
        ticket = Ticket(new_id(), symbol, side, quantity, price, "")
        self._take(ledger.accept(self.book, ticket, NOW))

    def fill(
        self, number: int, parts: int, price: Decimal, commission: Decimal, *, whole: bool = False
    ) -> None:
        """A part of an order is filled, at any price."""
        if not self.orders:
            return
        order = list(self.orders.values())[number % len(self.orders)]
        steps = int(order.open_quantity.scaleb(8)) if order.is_open else 10**8
        quantity = Decimal(max(1, steps // (1 if whole else parts + 1))).scaleb(-8)
        value = half_even(exactly(quantity) * exactly(price))
        execution = Execution(f"x{len(self.fills)}", quantity, value, commission)
        self._take(ledger.book_fill(self.book, order, execution, new_id(), NOW, ACTOR))
        sign = 1 if order.side is Side.BUY else -1
        self.tally_cash -= sign * exactly(value) + exactly(commission)
        self.tally_shares[order.symbol] += sign * exactly(quantity)

    def fill_all(self, number: int, parts: int, price: Decimal, commission: Decimal) -> None:
        """The rest of an order is filled."""
        self.fill(number, parts, price, commission, whole=True)

    def end(self, number: int, status: Status) -> None:
        """An order is said to be in a status."""
        if self.orders:
            order = list(self.orders.values())[number % len(self.orders)]
            self._take(ledger.end(self.book, order, status, "", NOW, ACTOR))

    def cash(self, cash: Decimal) -> None:
        """The cash is set."""
        before = self.book
        self.book, entries = ledger.set_cash(before, cash, CashKind.ADJUSTMENT, "", NOW, ACTOR)
        check_move(before, self.book, entries, None)
        self.entries += entries
        self.tally_cash = exactly(cash)

    def position(self, symbol: str, quantity: Decimal, price: Decimal) -> None:
        """A position is set."""
        before = self.book
        wanted = replace(
            empty_position(new_id(), symbol, NOW),
            quantity=quantity,
            cost=half_even(exactly(quantity) * exactly(price)),
            last_price=price,
        )
        self.book, adjustments = ledger.set_position(before, wanted, "", NOW, ACTOR)
        check_move(before, self.book, (), adjustments[0] if adjustments else None)
        self.adjustments += adjustments
        self.tally_shares[symbol] = exactly(quantity)

    def audit(self) -> list[Difference]:
        """What the audit finds."""
        audit = BookAudit(self.book)
        for entry in self.entries:
            audit.take_cash(entry)
        facts: list[Fill | PositionAdjustment] = [*self.fills, *self.adjustments]
        for fact in sorted(facts, key=lambda fact: fact.book_version):
            if isinstance(fact, Fill):
                order = self.orders[fact.order_id]
                audit.take_fill(order.symbol, order.side, fact)
            else:
                audit.take_adjustment(fact)
        for order in self.orders.values():
            own = [fill for fill in self.fills if fill.order_id == order.order_id]
            audit.take_order(
                order,
                sum((fill.quantity for fill in own), ZERO),
                sum((fill.value for fill in own), ZERO),
                sum((fill.commission for fill in own), ZERO),
            )
        return audit.differences()

    def _take(self, booking: Booking) -> None:
        check_move(self.book, booking.book, booking.cash_entries, None)
        order = self.orders.get(booking.order.order_id)
        assert order is None or order.is_open or booking.order == order, "an ended order changed"
        self.book = booking.book
        self.orders[booking.order.order_id] = booking.order
        self.fills += [booking.fill] if booking.fill else []
        self.entries += booking.cash_entries
