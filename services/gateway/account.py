"""The account: cash and holdings, as they follow from executions and deposits."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from services.gateway.records import ZERO, Execution, Side

COMMISSION_PER_SHARE = Decimal("0.005")  # IB's fixed plan
LEAST_COMMISSION = Decimal(1)
CENT = Decimal("0.01")


def commission_of(shares: Decimal) -> Decimal:
    """What one execution costs in USD, to the cent."""
    cost = (shares * COMMISSION_PER_SHARE).quantize(CENT, ROUND_HALF_UP)
    return max(LEAST_COMMISSION, cost)


@dataclass(frozen=True, slots=True)
class Holding:
    """Shares of one symbol (negative: short), and what one cost, commission included."""

    quantity: Decimal = ZERO
    average_cost: Decimal = ZERO


class Account:
    """Cash in USD, and holdings by symbol."""

    def __init__(self, cash: Decimal) -> None:
        self.cash = cash
        self.holdings: dict[str, Holding] = {}

    def holding(self, symbol: str) -> Holding:
        """What is held of a symbol, which may be nothing."""
        return self.holdings.get(symbol, Holding())

    def realized_by(self, symbol: str, side: Side, shares: Decimal, price: Decimal) -> Decimal:
        """The profit that a trade would realize, before its commission; 0 when it only opens."""
        held = self.holding(symbol)
        closed = min(shares, abs(held.quantity)) if held.quantity * side.sign < 0 else ZERO
        return closed * (held.average_cost - price) * side.sign

    def book(self, execution: Execution) -> None:
        """Moves cash and shares as an execution says."""
        shares = execution.shares * execution.side.sign
        before = self.holding(execution.symbol)
        quantity = before.quantity + shares
        self.cash -= shares * execution.price + execution.commission
        if not quantity:
            average = ZERO
        elif before.quantity * shares >= 0:  # it opened or grew
            paid = shares * execution.price + execution.commission
            average = (before.quantity * before.average_cost + paid) / quantity
        elif before.quantity * quantity > 0:  # it shrank
            average = before.average_cost
        else:  # it turned round
            average = execution.price
        self.holdings[execution.symbol] = Holding(quantity, average)
