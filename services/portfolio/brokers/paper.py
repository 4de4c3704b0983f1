"""The paper broker: every order fills at once, whole, at the price the strategy saw."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from services.portfolio.domain.ledger import Ticket
from services.portfolio.domain.money import ZERO, value_of, whole_shares
from services.portfolio.domain.order import Execution


@dataclass(frozen=True, slots=True)
class PaperBroker:
    """Fills at once.

    `commission_per_share` is in USD. With `by_hand`, orders stay PENDING until someone reports
    their fills with PUT /orders/{order_id}/status: a rehearsal of an order's life in LIVE.
    """

    commission_per_share: Decimal = ZERO
    by_hand: bool = False

    def admit(self, symbol: str, quantity: Decimal, now: datetime) -> None:
        """Takes every order, at any time."""

    def allowance(self, quantity: Decimal, price: Decimal) -> Decimal:  # noqa: ARG002 - of the port
        """The commission on `quantity` shares, in USD; a paper fill has the price it was given."""
        if not self.commission_per_share:
            return ZERO
        return value_of(quantity, self.commission_per_share)

    def affordable(self, cash: Decimal, price: Decimal) -> Decimal:
        """The most whole shares that `cash` USD pays for at `price`, commission included."""
        return whole_shares(cash, price + self.commission_per_share)

    def execution_on_accept(self, ticket: Ticket) -> Execution | None:
        """The whole order at its price, unless fills are reported by hand."""
        if self.by_hand:
            return None
        value = value_of(ticket.quantity, ticket.price)
        return Execution("paper", ticket.quantity, value, ticket.allowance)
