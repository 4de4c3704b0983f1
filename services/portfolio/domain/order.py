"""An order: a market order of one strategy, and the one table of its life."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from services.portfolio.domain.money import ZERO, per_share


class Mode(StrEnum):
    """Where the orders of a book are executed."""

    PAPER = "PAPER"
    LIVE = "LIVE"


class Side(StrEnum):
    """Which way an order trades."""

    BUY = "BUY"
    SELL = "SELL"


class Status(StrEnum):
    """Where an order is in its life."""

    PENDING = "PENDING"
    EXECUTED = "EXECUTED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"


ENDED = frozenset({Status.EXECUTED, Status.CANCELLED, Status.REJECTED})

TRANSITIONS: dict[Status, frozenset[Status]] = {
    # UNKNOWN: the broker has not said whether it has the order.
    Status.PENDING: ENDED | {Status.UNKNOWN},
    # Only evidence leads out of UNKNOWN, and evidence always says how the order ended.
    Status.UNKNOWN: ENDED,
    Status.EXECUTED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.REJECTED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Order:
    """A market order. Quantities in shares, money in USD, times in UTC."""

    order_id: UUID
    strategy_name: str
    mode: Mode
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal  # what the strategy saw when it decided
    status: Status
    filled_quantity: Decimal
    filled_value: Decimal  # sum of the fills' values
    commission: Decimal
    reserved_cash: Decimal  # of a buy that is open; 0 otherwise
    reason: str
    request_id: str
    create_time: datetime
    update_time: datetime
    twin_of: UUID | None = None  # the LIVE order whose intent it follows on paper

    @property
    def open_quantity(self) -> Decimal:
        """Shares not yet filled."""
        return self.quantity - self.filled_quantity

    @property
    def average_fill_price(self) -> Decimal:
        """Mean price of the fills, weighted by quantity; 0 before the first."""
        if not self.filled_quantity:
            return ZERO
        return per_share(self.filled_value, self.filled_quantity)

    @property
    def is_open(self) -> bool:
        """Whether it may still fill."""
        return self.status not in ENDED


@dataclass(frozen=True, slots=True)
class Execution:
    """What a broker (paper, Interactive Brokers, or a person) reports of one fill."""

    execution_id: str
    quantity: Decimal
    value: Decimal
    commission: Decimal


BY_HAND = "by-hand-"  # begins the execution_id of a fill that a person reported


class FillKind(StrEnum):
    """What a fill fact adds to its order."""

    FILL = "FILL"
    CORRECTION = "CORRECTION"  # what the broker changed about a fill, as differences
    COMMISSION = "COMMISSION"  # that the broker reported after the fill; no shares


@dataclass(frozen=True, slots=True)
class Fill:
    """A fact: shares of an order that were executed, or what was learnt of them later."""

    order_id: UUID
    execution_id: str
    book_version: int
    quantity: Decimal
    price: Decimal
    value: Decimal
    commission: Decimal
    time: datetime
    kind: FillKind = FillKind.FILL


@dataclass(frozen=True, slots=True)
class OrderEvent:
    """A fact: the status of an order changed after it was accepted."""

    order_id: UUID
    book_version: int
    from_status: Status
    to_status: Status
    reason: str
    actor: str
    time: datetime
