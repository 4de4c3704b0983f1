"""A position: shares of one symbol in one book, what they cost, and what selling them realised.

The total cost is kept rather than the average, so that buying and selling lose nothing to
rounding: a sale takes away its share of the cost, rounded once, and the last share takes the rest.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.portfolio.domain.money import ZERO, part_of, per_share
from services.portfolio.domain.order import Mode, Side


@dataclass(frozen=True, slots=True)
class Position:
    """Shares of one symbol in one book. Quantities in shares, money in USD."""

    position_id: UUID
    symbol: str
    quantity: Decimal
    reserved_quantity: Decimal  # shares that open sell orders are selling
    cost: Decimal  # of all shares held, commission aside
    realized_pnl: Decimal  # of all shares sold, less all commission
    last_price: Decimal  # seen or traded at, by the time of update_time; 0 before either
    update_time: datetime  # of the last fill or setting by hand; what is seen later counts

    @property
    def free_quantity(self) -> Decimal:
        """Shares that a new order may sell."""
        return self.quantity - self.reserved_quantity

    @property
    def average_cost(self) -> Decimal:
        """What a share cost on average; 0 when none is held."""
        return per_share(self.cost, self.quantity) if self.quantity else ZERO

    def bought(
        self, quantity: Decimal, value: Decimal, commission: Decimal, price: Decimal, now: datetime
    ) -> "Position":
        """The position after `quantity` more shares that cost `value`."""
        return Position(
            self.position_id,
            self.symbol,
            self.quantity + quantity,
            self.reserved_quantity,
            self.cost + value,
            self.realized_pnl - commission,
            price,
            now,
        )

    def sold(
        self, quantity: Decimal, value: Decimal, commission: Decimal, price: Decimal, now: datetime
    ) -> "Position":
        """The position after `quantity` reserved shares were sold for `value`."""
        left = self.quantity - quantity
        cost_of_sold = part_of(self.cost, quantity, self.quantity) if left else self.cost
        return Position(
            self.position_id,
            self.symbol,
            left,
            self.reserved_quantity - quantity,
            self.cost - cost_of_sold,
            self.realized_pnl + value - cost_of_sold - commission,
            price,
            now,
        )

    def corrected(
        self, side: Side, quantity: Decimal, value: Decimal, price: Decimal
    ) -> "Position":
        """The position after a trade turned out to be `quantity` shares and `value` USD more.

        What belongs to shares that are held changes their cost; what belongs to shares that are
        gone changes what was realised. What is reserved stays as it is. `price` is the trade's
        price as corrected, in USD a share; 0 when nothing is left of it. Prices seen since the
        trade go on counting.
        """
        if side is Side.BUY:
            held = self.quantity + quantity
            due = self.cost + value
            cost = max(due, ZERO) if held else ZERO
            realized_pnl = self.realized_pnl - (due - cost)
        else:
            held = self.quantity - quantity
            sold_cost = self._cost_of_more_sold(quantity, value)
            cost = self.cost - sold_cost
            realized_pnl = self.realized_pnl + value - sold_cost
        return Position(
            self.position_id,
            self.symbol,
            held,
            self.reserved_quantity,
            cost,
            realized_pnl,
            price or self.last_price,
            self.update_time,
        )

    def _cost_of_more_sold(self, quantity: Decimal, value: Decimal) -> Decimal:
        """The cost that leaves with `quantity` more shares; below 0: that comes back with them."""
        if self.quantity:
            return part_of(self.cost, quantity, self.quantity)
        # What they had cost is forgotten, so they cost what selling them did not bring after all.
        return min(value, ZERO) if quantity else ZERO

    def charged(self, commission: Decimal) -> "Position":
        """The position after `commission` USD more for trades that are booked."""
        return Position(
            self.position_id,
            self.symbol,
            self.quantity,
            self.reserved_quantity,
            self.cost,
            self.realized_pnl - commission,
            self.last_price,
            self.update_time,
        )

    def reserving(self, quantity: Decimal) -> "Position":
        """The position with `quantity` more shares reserved (fewer when negative)."""
        return Position(
            self.position_id,
            self.symbol,
            self.quantity,
            self.reserved_quantity + quantity,
            self.cost,
            self.realized_pnl,
            self.last_price,
            self.update_time,
        )

    def set_to(self, quantity: Decimal, cost: Decimal, price: Decimal, now: datetime) -> "Position":
        """The position with its quantity and cost set by hand."""
        return Position(
            self.position_id,
            self.symbol,
            quantity,
            self.reserved_quantity,
            cost,
            self.realized_pnl,
            price,
            now,
        )


def empty_position(position_id: UUID, symbol: str, now: datetime) -> Position:
    """A position before its first share."""
    return Position(position_id, symbol, ZERO, ZERO, ZERO, ZERO, ZERO, now)


@dataclass(frozen=True, slots=True)
class PositionAdjustment:
    """A fact: a position was set by hand. Adding the deltas gives what was set."""

    strategy_name: str
    mode: Mode
    book_version: int
    symbol: str
    quantity_delta: Decimal
    cost_delta: Decimal
    price: Decimal
    actor: str
    reason: str
    time: datetime
