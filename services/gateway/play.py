"""One order on the stage: the moves that a script is made of.

Each move changes the broker's truth, or shows the client something, true or not.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Protocol

from services.gateway import messages
from services.gateway.exchange import Exchange
from services.gateway.market import Market
from services.gateway.records import ZERO, Execution, Order, Outcome, Status, Ticket
from services.gateway.scenario import Rule


class Clients(Protocol):
    """The connected clients."""

    def tell(self, client_id: int, *frames: bytes) -> None:
        """Sends to a client, if it is connected."""

    def tell_all(self, *frames: bytes) -> None:
        """Sends to every client."""

    def drop(self, client_id: int) -> None:
        """Closes a client's connection once what was sent has gone out."""

    def account_changed(self, symbol: str) -> None:
        """Sends the position and the account's figures to those who subscribed to them."""


class Play:
    """A placeOrder that arrived, and the order that it becomes."""

    def __init__(
        self,
        exchange: Exchange,
        clients: Clients,
        price: Callable[[Ticket], Decimal],
        rule: Rule,
        client_id: int,
        order_id: int,
        ticket: Ticket,
        account: str,
    ) -> None:
        self.rule = rule
        self.client_id = client_id
        self.order_id = order_id
        self.ticket = ticket
        self._exchange = exchange
        self._clients = clients
        self._price = price
        self._account = account
        self._perm_id: int | None = None

    def resume(self, order: Order) -> None:
        """Goes on with an order that the broker took before it was restarted."""
        self._perm_id = order.perm_id

    @property
    def order(self) -> Order:
        """The order as it stands."""
        assert self._perm_id is not None, "a script accepts its order first"  # noqa: S101
        return self._exchange.orders[self._perm_id]

    @property
    def is_over(self) -> bool:
        """Whether there is no order, or it has ended."""
        return self._perm_id is None or not self.order.is_working

    # The truth

    def take(self, status: Status = Status.SUBMITTED) -> None:
        """The broker takes the order, and tells nobody."""
        order = self._exchange.accept(
            self.client_id, self.order_id, self.ticket, self.rule.scenario, status
        )
        self._perm_id = order.perm_id

    def refuse(self, code: int, text: str) -> None:
        """The gateway refuses it with an error; the exchange never sees it."""
        self._exchange.record(self.client_id, self.order_id, self.ticket, Outcome.REFUSED)
        self.show_error(code, text)

    def lose(self) -> None:
        """It is lost on the way; only the receipt stays."""
        self._exchange.record(self.client_id, self.order_id, self.ticket, Outcome.LOST)

    def trade(self, shares: Decimal, *, quietly: bool = False) -> Execution:
        """A fill at the market's price; who subscribed to positions hears of it, unless quietly."""
        made = self._exchange.fill(self.order.perm_id, shares, self._price(self.ticket))
        if not quietly:
            self.show_account()
        return made

    def correct(self, execution: Execution, by: Decimal) -> Execution:
        """The exchange corrects an execution's price."""
        made = self._exchange.correct(execution.exec_id, execution.shares, execution.price + by)
        self.show_account()
        return made

    def end(self, status: Status, reason: str) -> None:
        """The order ends with what it has."""
        self._exchange.end(self.order.perm_id, status, reason)

    def set_status(self, status: Status) -> None:
        """The status becomes another."""
        self._exchange.change(self.order.perm_id, status=status)

    def set_held(self, *, held: bool) -> None:
        """The order waits for release(), or no longer."""
        if not self.is_over:
            self._exchange.change(self.order.perm_id, held=held)

    # What the client is shown

    def accept(self, status: Status = Status.SUBMITTED) -> None:
        """The broker takes the order and says so, as it does when all is well."""
        self.take(status)
        self.show_order()
        self.show_status()

    def fill(self, shares: Decimal) -> Execution | None:
        """A fill and all that is told of it when all is well; nothing, for no shares."""
        if shares <= 0 or self.is_over:
            return None
        made = self.trade(shares)
        self.show_execution(made)
        self.show_order()
        self.show_status()
        self.report(made)
        return made

    def fill_rest(self) -> Execution | None:
        """Fills what is open."""
        return self.fill(ZERO if self.is_over else self.order.open)

    def show_order(self, status: Status | None = None) -> None:
        """OpenOrder."""
        self._tell(messages.open_order(self.order, status))

    def show_status(self, status: Status | None = None, filled: Decimal | None = None) -> None:
        """OrderStatus."""
        self._tell(messages.order_status(self.order, status, filled))

    def show_execution(self, execution: Execution) -> None:
        """ExecDetails."""
        self._tell(messages.execution_details(self._account, execution))

    def report(self, execution: Execution, *, quietly: bool = False) -> None:
        """commissionReport; quietly: it is only served to who asks."""
        made = self._exchange.report(execution.exec_id)
        if not quietly:
            self._tell(messages.commission_report(made))

    def show_error(self, code: int, text: str) -> None:
        """An error or warning about this order."""
        self._tell(messages.error(self.order_id, code, text))

    def show_account(self) -> None:
        """Position and account values, to all who subscribed."""
        self._clients.account_changed(self.ticket.symbol)

    def notice(self, code: int, text: str) -> None:
        """A notice to every client."""
        self._clients.tell_all(messages.error(messages.NO_REQUEST, code, text))

    def drop(self) -> None:
        """The connection of the client breaks."""
        self._clients.drop(self.client_id)

    def _tell(self, message: bytes) -> None:
        self._clients.tell(self.client_id, message)


def price_in(market: Market, spread: Decimal) -> Callable[[Ticket], Decimal]:
    """What a market order fills at: the last price, and the spread against the trader."""

    def price(ticket: Ticket) -> Decimal:
        last = market.closes(ticket.symbol)[-1].price
        return max(last + spread * ticket.side.sign, Decimal("0.0001"))

    return price
