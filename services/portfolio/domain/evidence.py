"""What a broker says of orders, as values: executions are the truth, statuses are hearsay.

Quantities and prices are Decimals here; the adapter converts the broker's floats once. Ours are
the orders whose `order_ref` is the text of one of our order ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from services.portfolio.domain.order import Side


class AtBroker(StrEnum):
    """How the broker describes an order."""

    WORKING = "WORKING"  # submitted, or queued for the next session
    FILLED = "FILLED"  # says nothing about which executions there are
    CANCELLED = "CANCELLED"  # may be false
    INACTIVE = "INACTIVE"  # refused, or held back


@dataclass(frozen=True, slots=True)
class BrokerOrder:
    """One order as the broker describes it at a moment."""

    order_ref: str
    state: AtBroker
    perm_id: int = 0  # the broker's own name for the order; 0 until it has given one
    message: str = ""  # the broker's words, when it refused, cancelled or warned


@dataclass(frozen=True, slots=True)
class BrokerExecution:
    """Shares that changed hands. A correction has the same id up to its last dot."""

    execution_id: str
    order_ref: str
    symbol: str
    side: Side
    quantity: Decimal  # shares
    price: Decimal  # USD a share
    time: datetime
    commission: Decimal | None = None  # USD; None until the broker has reported it

    @property
    def root(self) -> str:
        """What the execution and its corrections have in common."""
        return self.execution_id.rpartition(".")[0] or self.execution_id


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the broker answered when asked, one question after another.

    `asked` is when the first question was put. Executions reach back to the broker's midnight only.
    """

    asked: datetime
    open_orders: tuple[BrokerOrder, ...]
    completed_orders: tuple[BrokerOrder, ...]
    executions: tuple[BrokerExecution, ...]
    positions: Mapping[str, Decimal]  # shares by symbol, all of the account
    cash: Decimal | None  # USD in the account; None when the broker did not say
    net_liquidation: Decimal | None  # USD


@dataclass(frozen=True, slots=True)
class Reported:
    """The broker described an order without being asked."""

    order: BrokerOrder


@dataclass(frozen=True, slots=True)
class Executed:
    """An order was executed, in part or whole."""

    execution: BrokerExecution


@dataclass(frozen=True, slots=True)
class Commissioned:
    """The commission of an execution is known."""

    order_ref: str
    execution_id: str
    commission: Decimal


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker answered an order with an error that means that it will not execute it.

    Hearsay as well: it counts once the evidence agrees.
    """

    order_ref: str
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Notice:
    """The broker spoke of the connection or the market data, not of an order."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class LineLost:
    """The connection to the gateway is gone."""

    why: str


BrokerEvent = Reported | Executed | Commissioned | Refused | Notice | LineLost
