"""The broker's truth: what it was sent, its orders, executions, positions and cash.

It knows nothing of connections. Every change is on disk before the method that makes it returns, so
that nobody is ever told what a kill could undo.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property

from services.gateway.account import Account, Holding, commission_of
from services.gateway.records import (
    BY_HAND,
    ZERO,
    Execution,
    Order,
    Outcome,
    Receipt,
    Side,
    Status,
    Ticket,
)
from services.gateway.store import Store

FIRST_PERM_ID = 1_700_000_001


class UnknownError(Exception):
    """There is no such order or execution; the message names it."""


class NotPossibleError(Exception):
    """The order cannot take this; the message gives the figures."""


@dataclass(frozen=True)
class Snapshot:
    """All that the broker knows, at one moment; `receipts` is every placeOrder that arrived."""

    receipts: Sequence[Receipt]
    orders: Sequence[Order]
    executions: Sequence[Execution]
    holdings: Mapping[str, Holding]
    cash: Decimal
    connections: Sequence[int]

    @property
    def positions(self) -> dict[str, Decimal]:
        """Shares by symbol, without those of which there are none."""
        return {symbol: held.quantity for symbol, held in self.holdings.items() if held.quantity}

    def times_received(self, order: Order) -> int:
        """How often the client sent this order: by its orderRef, or by its ids if it has none."""
        return self._received[_name_of(order)]

    @cached_property
    def _received(self) -> Counter[str | tuple[int, int]]:
        return Counter(map(_name_of, self.receipts))


class Exchange:
    """The broker of one account. `cash` counts only when the store is empty."""

    def __init__(self, store: Store, cash: Decimal, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._receipt_shelf = store.shelf("receipts", Receipt)
        self._order_shelf = store.shelf("orders", Order)
        self._execution_shelf = store.shelf("executions", Execution)
        self._deposit_shelf = store.shelf("deposits", Decimal)
        self.receipts = self._receipt_shelf.all()
        self.orders = {order.perm_id: order for order in self._order_shelf.all()}
        self.executions = {one.exec_id: one for one in self._execution_shelf.all()}
        self._deposits = self._deposit_shelf.all()
        self._by_client_ids = {(o.client_id, o.order_id): o.perm_id for o in self.orders.values()}
        self._serial = len({one.base for one in self.executions.values()})
        self._highest_ids: dict[int, int] = {}
        for receipt in self.receipts:
            self._see(receipt)
        if not self._deposits:
            self._deposit_shelf.put(0, cash)
            self._deposits = [cash]
        self._count_again()

    # Reading

    @property
    def working(self) -> list[Order]:
        """The orders that may still be filled, oldest first."""
        return [order for order in self.orders.values() if order.is_working]

    @property
    def completed(self) -> list[Order]:
        """The orders that ended since midnight."""
        return [o for o in self.orders.values() if not o.is_working and not o.forgotten]

    @property
    def todays_executions(self) -> list[Execution]:
        """The executions since midnight, corrections beside what they correct."""
        return [one for one in self.executions.values() if not one.forgotten]

    def find(self, client_id: int, order_id: int) -> Order | None:
        """The order that a client knows by this id."""
        perm_id = self._by_client_ids.get((client_id, order_id))
        return None if perm_id is None else self.orders[perm_id]

    def named(self, name: str | int) -> Order:
        """The newest order with this permId (an int) or orderRef.

        Raises:
            UnknownError: There is none.
        """
        for order in reversed(self.orders.values()):
            if name in (order.perm_id, order.ticket.order_ref):
                return order
        raise UnknownError(f"The broker has no order with the permId or orderRef {name!r}.")

    def highest_id(self, client_id: int) -> int:
        """The highest order id that the broker has seen of a client; 0: none."""
        return self._highest_ids.get(client_id, 0)

    def snapshot(self, connections: Sequence[int]) -> Snapshot:
        """All of it, as it is now."""
        return Snapshot(
            tuple(self.receipts),
            tuple(self.orders.values()),
            tuple(self.executions.values()),
            dict(self.account.holdings),
            self.account.cash,
            connections,
        )

    # Changing

    def record(self, client_id: int, order_id: int, ticket: Ticket, outcome: Outcome) -> None:
        """Records that a placeOrder arrived and what became of it."""
        serial = len(self.receipts) + 1
        receipt = Receipt(serial, client_id, order_id, ticket, outcome, self._now())
        self._receipt_shelf.put(serial, receipt)
        self.receipts.append(receipt)
        self._see(receipt)

    def accept(
        self, client_id: int, order_id: int, ticket: Ticket, scenario: str, status: Status
    ) -> Order:
        """Takes an order, and records its placeOrder."""
        perm_id = FIRST_PERM_ID + len(self.orders)
        order = Order(perm_id, client_id, order_id, ticket, scenario, status)
        with self._store.together():
            self._keep(order)
            if client_id != BY_HAND:
                self.record(client_id, order_id, ticket, Outcome.TAKEN)
                self._by_client_ids[client_id, order_id] = perm_id
        return order

    def change(
        self,
        perm_id: int,
        *,
        status: Status | None = None,
        held: bool | None = None,
        cancel_received: bool = False,
    ) -> Order:
        """Changes what is not a fill."""
        order = self.orders[perm_id]
        return self._keep(
            replace(
                order,
                status=order.status if status is None else status,
                held=order.held if held is None else held,
                cancels_received=order.cancels_received + cancel_received,
            )
        )

    def end(self, perm_id: int, status: Status, reason: str) -> Order:
        """Ends an order that is not filled.

        Raises:
            NotPossibleError: It has ended before.
        """
        order = self.orders[perm_id]
        if not order.is_working:
            raise NotPossibleError(f"Order {perm_id} is {order.status} already.")
        return self._keep(
            replace(order, status=status, reason=reason, held=False, ended_at=self._now())
        )

    def fill(self, perm_id: int, shares: Decimal, price: Decimal) -> Execution:
        """Fills a part of an order, or all that is open.

        Raises:
            NotPossibleError: The order has ended, or has less open.
        """
        order = self.orders[perm_id]
        if not (order.is_working and ZERO < shares <= order.open and price > 0):
            raise NotPossibleError(
                f"Order {perm_id} is {order.status} with {order.open:f} open: "
                f"{shares:f} at {price:f} cannot be filled."
            )
        filled, value = order.filled + shares, order.value + shares * price
        self._serial += 1
        execution = self._execution(
            f"0000e0d5.{self._serial:08x}.01.01", order, shares, price, filled, value
        )
        is_full = filled == order.ticket.quantity
        with self._store.together():
            self._keep_execution(execution)
            self._keep(
                replace(
                    order,
                    status=Status.FILLED if is_full else order.status,
                    held=order.held and not is_full,
                    filled=filled,
                    value=value,
                    last_price=price,
                    ended_at=self._now() if is_full else None,
                )
            )
        self.account.book(execution)
        return execution

    def correct(self, exec_id: str, shares: Decimal, price: Decimal) -> Execution:
        """Corrects an execution: another with the next suffix takes its place.

        Raises:
            UnknownError: There is no such execution.
        """
        if exec_id not in self.executions:
            raise UnknownError(f"The broker has no execution {exec_id!r}.")
        latest = self._latest()[self.executions[exec_id].base]
        order = self.orders[latest.perm_id]
        filled = order.filled - latest.shares + shares
        value = order.value - latest.shares * latest.price + shares * price
        suffix = int(latest.exec_id.rpartition(".")[2]) + 1
        made = self._execution(f"{latest.base}.{suffix:02d}", order, shares, price, filled, value)
        with self._store.together():
            self._keep_execution(made)
            self._keep(replace(order, filled=filled, value=value, last_price=price))
        self._count_again()
        return made

    def report(self, exec_id: str) -> Execution:
        """The commission report of an execution is made: from now on it is served."""
        return self._keep_execution(replace(self.executions[exec_id], reported=True))

    def trade_by_hand(self, symbol: str, quantity: Decimal, price: Decimal) -> Execution:
        """A person trades in TWS: `quantity` shares, negative to sell. Nobody's orderRef.

        Raises:
            NotPossibleError: It is no trade.
        """
        if not quantity or price <= 0:
            raise NotPossibleError(f"{quantity:f} {symbol} at {price:f} is no trade.")
        side = Side.BUY if quantity > 0 else Side.SELL
        ticket = Ticket(symbol, side, abs(quantity), "", "MKT", "DAY", "")
        order = self.accept(BY_HAND, 0, ticket, "BY_HAND", Status.SUBMITTED)
        return self.report(self.fill(order.perm_id, abs(quantity), price).exec_id)

    def deposit(self, amount: Decimal) -> None:
        """Adds to the cash, or takes away when negative."""
        self._deposit_shelf.put(len(self._deposits), amount)
        self._deposits.append(amount)
        self.account.cash += amount

    def forget_executions(self) -> None:
        """Midnight passes: what ended or was executed until now is not served any more."""
        with self._store.together():
            for execution in self.todays_executions:
                self._keep_execution(replace(execution, forgotten=True))
            for order in self.completed:
                self._keep(replace(order, forgotten=True))

    def _see(self, receipt: Receipt) -> None:
        """An order id is used once the broker saw it; of a lost order it never heard."""
        if receipt.outcome is not Outcome.LOST:
            highest = max(self.highest_id(receipt.client_id), receipt.order_id)
            self._highest_ids[receipt.client_id] = highest

    def _execution(
        self,
        exec_id: str,
        order: Order,
        shares: Decimal,
        price: Decimal,
        filled: Decimal,
        value: Decimal,
    ) -> Execution:
        ticket = order.ticket
        held = self.account.holding(ticket.symbol)
        opens = held.quantity * ticket.side.sign >= 0
        commission = commission_of(shares)
        realized = self.account.realized_by(ticket.symbol, ticket.side, shares, price) - commission
        return Execution(
            exec_id=exec_id,
            perm_id=order.perm_id,
            client_id=order.client_id,
            order_id=order.order_id,
            order_ref=ticket.order_ref,
            symbol=ticket.symbol,
            side=ticket.side,
            shares=shares,
            price=price,
            cumulative=filled,
            average_price=value / filled if filled else ZERO,
            commission=commission,
            realized_pnl=None if opens else realized,
            at=self._now(),
        )

    def _keep(self, order: Order) -> Order:
        self._order_shelf.put(order.perm_id, order)
        self.orders[order.perm_id] = order
        return order

    def _keep_execution(self, execution: Execution) -> Execution:
        self._execution_shelf.put(execution.exec_id, execution)
        self.executions[execution.exec_id] = execution
        return execution

    def _latest(self) -> dict[str, Execution]:
        """Each execution as last corrected."""
        return {one.base: one for one in self.executions.values()}

    def _count_again(self) -> None:
        """The account from the facts: at the start, and after a correction."""
        self.account = Account(sum(self._deposits, ZERO))
        for execution in self._latest().values():
            self.account.book(execution)


def _name_of(one: Order | Receipt) -> str | tuple[int, int]:
    return one.ticket.order_ref or (one.client_id, one.order_id)
