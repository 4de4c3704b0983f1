"""The audit: a book recomputed from its facts, and every figure that the facts do not support."""

from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

from services.portfolio.domain.book import Book, CashEntry, CashKind
from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Fill, FillKind, Mode, Order, Side
from services.portfolio.domain.position import Position, PositionAdjustment, empty_position

NO_ID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that the router shows and the facts do not support."""

    strategy_name: str
    mode: Mode
    figure: str
    recorded: Decimal
    recomputed: Decimal


@dataclass(slots=True)
class BookAudit:
    """Takes the facts of one book, in the order of their versions, and compares at the end."""

    book: Book
    _cash: Decimal = ZERO
    _traded: dict[CashKind, Decimal] = field(
        default_factory=lambda: {CashKind.TRADE: ZERO, CashKind.COMMISSION: ZERO}
    )
    _filled: dict[CashKind, Decimal] = field(
        default_factory=lambda: {CashKind.TRADE: ZERO, CashKind.COMMISSION: ZERO}
    )
    _positions: dict[str, Position] = field(default_factory=dict)
    _reserved_cash: Decimal = ZERO
    _reserved_shares: dict[str, Decimal] = field(default_factory=dict)
    _differences: list[Difference] = field(default_factory=list)

    def take_cash(self, entry: CashEntry) -> None:
        """Adds a cash entry."""
        self._cash += entry.amount
        if entry.kind in self._traded:
            self._traded[entry.kind] += entry.amount

    def take_fill(self, symbol: str, side: Side, fill: Fill) -> None:
        """Replays a fill, or what was learnt of it later."""
        self._filled[CashKind.COMMISSION] -= fill.commission
        held = self._positions.get(symbol) or empty_position(NO_ID, symbol, fill.time)
        gone = -fill.quantity if side is Side.BUY else fill.quantity
        if gone > held.quantity:
            self._compare(f"{symbol} shares before fill", gone, held.quantity)
            return
        self._filled[CashKind.TRADE] += -fill.value if side is Side.BUY else fill.value
        self._positions[symbol] = _after(held, side, fill)

    def take_adjustment(self, adjustment: PositionAdjustment) -> None:
        """Replays a setting by hand."""
        symbol = adjustment.symbol
        held = self._positions.get(symbol) or empty_position(NO_ID, symbol, adjustment.time)
        self._positions[symbol] = held.set_to(
            held.quantity + adjustment.quantity_delta,
            held.cost + adjustment.cost_delta,
            adjustment.price,
            adjustment.time,
        )

    def take_order(
        self, order: Order, filled_quantity: Decimal, filled_value: Decimal, commission: Decimal
    ) -> None:
        """Compares an order with the sums of its fills, and adds what it still has reserved."""
        name = f"order {order.order_id}"
        self._compare(f"{name} filled_quantity", order.filled_quantity, filled_quantity)
        self._compare(f"{name} filled_value", order.filled_value, filled_value)
        self._compare(f"{name} commission", order.commission, commission)
        self._reserved_cash += order.reserved_cash
        if not order.is_open:
            self._compare(f"{name} reserved_cash", order.reserved_cash, ZERO)
        elif order.side is Side.SELL:
            reserved = self._reserved_shares.get(order.symbol, ZERO)
            self._reserved_shares[order.symbol] = reserved + order.open_quantity

    def differences(self) -> list[Difference]:
        """Every difference, once all facts were taken."""
        self._compare("cash", self.book.cash, self._cash)
        self._compare("reserved_cash", self.book.reserved_cash, self._reserved_cash)
        for kind, traded in self._traded.items():
            self._compare(f"{kind} cash entries", traded, self._filled[kind])
        for symbol in sorted({*self.book.positions, *self._positions}):
            self._compare_position(symbol)
        return self._differences

    def _compare_position(self, symbol: str) -> None:
        now = self.book.update_time
        recorded = self.book.positions.get(symbol) or empty_position(NO_ID, symbol, now)
        replayed = self._positions.get(symbol) or empty_position(NO_ID, symbol, now)
        self._compare(f"{symbol} quantity", recorded.quantity, replayed.quantity)
        self._compare(f"{symbol} cost", recorded.cost, replayed.cost)
        self._compare(f"{symbol} realized_pnl", recorded.realized_pnl, replayed.realized_pnl)
        self._compare(f"{symbol} last_price", recorded.last_price, replayed.last_price)
        self._compare(
            f"{symbol} reserved_quantity",
            recorded.reserved_quantity,
            self._reserved_shares.get(symbol, ZERO),
        )

    def _compare(self, figure: str, recorded: Decimal, recomputed: Decimal) -> None:
        if recorded != recomputed:
            self._differences.append(
                Difference(self.book.strategy_name, self.book.mode, figure, recorded, recomputed)
            )


@dataclass(slots=True)
class TransferAudit:
    """Takes the cash entries of all books: what transfers moved in a mode must sum to zero."""

    _moved: dict[Mode, Decimal] = field(default_factory=lambda: dict.fromkeys(Mode, ZERO))

    def take_cash(self, entry: CashEntry) -> None:
        """Adds a cash entry."""
        if entry.kind is CashKind.TRANSFER:
            self._moved[entry.mode] += entry.amount

    def differences(self) -> list[Difference]:
        """Every difference, once all entries were taken."""
        return [
            Difference(RESERVE, mode, "transfers of all books", moved, ZERO)
            for mode, moved in self._moved.items()
            if moved
        ]


def _after(held: Position, side: Side, fill: Fill) -> Position:
    """The position after one fact of an order."""
    if fill.kind is FillKind.COMMISSION:
        return held.charged(fill.commission)
    if fill.kind is FillKind.CORRECTION:
        return held.corrected(side, fill.quantity, fill.value, fill.price)
    trade = (fill.quantity, fill.value, fill.commission, fill.price, fill.time)
    if side is Side.BUY:
        return held.bought(*trade)
    return held.reserving(fill.quantity).sold(*trade)
