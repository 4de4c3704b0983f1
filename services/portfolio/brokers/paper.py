"""The paper broker: every order fills at once, whole, at the price the strategy saw."""

from dataclasses import dataclass
from decimal import Decimal

from services.portfolio.domain.ledger import Ticket
from services.portfolio.domain.money import ZERO, value_of
from services.portfolio.domain.order import Execution


@dataclass(frozen=True, slots=True)
class PaperBroker:
    """Fills at once.

    `commission_per_share` is in USD. With `by_hand`, orders stay PENDING until someone reports
    their fills with PUT /orders/{order_id}/status: a rehearsal of an order's life in LIVE.
    """

    commission_per_share: Decimal = ZERO
    by_hand: bool = False

    def commission(self, quantity: Decimal) -> Decimal:
        """What filling `quantity` shares costs, in USD."""
        if not self.commission_per_share:
            return ZERO
        return value_of(quantity, self.commission_per_share)

    def execution_on_accept(self, ticket: Ticket) -> Execution | None:
        """The whole order at its price, unless fills are reported by hand."""
        if self.by_hand:
            return None
        return Execution(
            "paper",
            ticket.quantity,
            value_of(ticket.quantity, ticket.price),
            self.commission(ticket.quantity),
        )
