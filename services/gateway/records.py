"""What the broker keeps: what it was sent, the orders it took, and their executions. Frozen."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

ZERO = Decimal(0)
BY_HAND = 0  # the client id of what a person does in TWS


class Side(StrEnum):
    """Which way an order trades, as placeOrder spells it."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """What it does to a position."""
        return 1 if self is Side.BUY else -1


class Status(StrEnum):
    """An order's status, as the wire spells it."""

    PRE_SUBMITTED = "PreSubmitted"
    SUBMITTED = "Submitted"
    PENDING_CANCEL = "PendingCancel"
    FILLED = "Filled"
    CANCELLED = "Cancelled"
    INACTIVE = "Inactive"


WORKING = frozenset({Status.PRE_SUBMITTED, Status.SUBMITTED, Status.PENDING_CANCEL})


class Outcome(StrEnum):
    """What became of a placeOrder that arrived."""

    TAKEN = "TAKEN"  # it is an order now
    REPEATED = "REPEATED"  # the same order id with the same content: no second order
    REFUSED = "REFUSED"  # answered with an error; the exchange never saw it
    LOST = "LOST"  # the broker never had it, and nobody was told


@dataclass(frozen=True, slots=True)
class Ticket:
    """The content of a placeOrder, as far as the simulation reads it."""

    symbol: str
    side: Side
    quantity: Decimal
    order_ref: str
    order_type: str
    tif: str
    account: str
    outside_rth: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """One placeOrder that arrived, whatever became of it."""

    serial: int
    client_id: int
    order_id: int
    ticket: Ticket
    outcome: Outcome
    at: datetime


@dataclass(frozen=True, slots=True)
class Order:
    """An order that the broker took. `value` is the sum of shares times price of its fills."""

    perm_id: int
    client_id: int
    order_id: int
    ticket: Ticket
    scenario: str
    status: Status
    filled: Decimal = ZERO
    value: Decimal = ZERO
    last_price: Decimal = ZERO
    held: bool = False  # it waits for release()
    cancels_received: int = 0
    reason: str = ""
    ended_at: datetime | None = None
    forgotten: bool = False  # midnight has passed over it

    @property
    def open(self) -> Decimal:
        """Shares not filled."""
        return self.ticket.quantity - self.filled

    @property
    def average_price(self) -> Decimal:
        """Mean price of the fills; 0 before the first."""
        return self.value / self.filled if self.filled else ZERO

    @property
    def is_working(self) -> bool:
        """Whether it may still be filled."""
        return self.status in WORKING


@dataclass(frozen=True, slots=True)
class Execution:
    """One fill. A correction has the same id up to the last dot and takes its place."""

    exec_id: str
    perm_id: int
    client_id: int
    order_id: int
    order_ref: str
    symbol: str
    side: Side
    shares: Decimal
    price: Decimal
    cumulative: Decimal
    average_price: Decimal
    commission: Decimal
    realized_pnl: Decimal | None  # None: it opened a position
    at: datetime
    reported: bool = False  # its commission report was made
    forgotten: bool = False  # midnight has passed over it

    @property
    def base(self) -> str:
        """What it shares with its corrections."""
        return self.exec_id.rpartition(".")[0]
