"""What must hold in the end, as pure comparisons of the ledger with what the broker knows."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

ZERO = Decimal(0)
OPEN = {"PENDING", "UNKNOWN"}


@dataclass(frozen=True, slots=True)
class LedgerOrder:
    """An order as the ledger has it."""

    order_id: str
    strategy_name: str
    request_id: str
    symbol: str
    side: str
    quantity: Decimal
    status: str
    filled_quantity: Decimal
    commission: Decimal
    was_sent: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Booked:
    """A row of fills: shares, or a commission, or what a correction changes."""

    order_id: str
    root: str  # the execution's id, without the part that counts corrections
    quantity: Decimal
    value: Decimal
    commission: Decimal


@dataclass(frozen=True, slots=True)
class Executed:
    """An execution at the broker, as last corrected. `side` is BUY or SELL."""

    order_ref: str
    root: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    commission: Decimal

    @property
    def sign(self) -> int:
        """What it does to a position."""
        return 1 if self.side == "BUY" else -1

    @property
    def value(self) -> Decimal:
        """What was paid or received for the shares."""
        return self.quantity * self.price


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that the ledger says of the LIVE books, and what its own comparison says."""

    orders: Mapping[str, LedgerOrder]
    booked: Sequence[Booked]
    deposits: Mapping[str, Decimal]  # by strategy
    cash: Mapping[str, Decimal]  # by strategy
    positions: Mapping[tuple[str, str], Decimal]  # by strategy and symbol; those held
    reserved: Mapping[str, Decimal]  # cash by strategy, shares by strategy and symbol; if any
    unattributed: Mapping[str, Decimal]  # by symbol, as the last comparison has it; if any
    differences: Sequence[str]  # of the audit


@dataclass(frozen=True, slots=True)
class Broker:
    """All that the broker knows."""

    received: Sequence[str]  # the orderRef of each placeOrder that arrived
    taken: Mapping[str, str]  # the status of each order that the broker had, by orderRef
    executed: Sequence[Executed]
    positions: Mapping[str, Decimal]
    cash: Decimal
    cash_at_first: Decimal


@dataclass(frozen=True, slots=True)
class Answers:
    """What the strategies were told, by request_id.

    The order's id; empty when refused; None when the run ended before an answer.
    """

    order_ids: Mapping[str, str | None]


@dataclass(slots=True)
class Finding:
    """One check: what was looked at, and what is wrong, with the orders concerned."""

    what: str
    looked_at: int
    wrong: list[str] = field(default_factory=list)
    orders: set[str] = field(default_factory=set)

    def add(self, text: str, *order_ids: str) -> None:
        """Something is wrong."""
        self.wrong.append(text)
        self.orders.update(order_ids)


def check(ledger: Ledger, broker: Broker, answers: Answers) -> list[Finding]:
    """All checks."""
    checks: Sequence[Callable[[Ledger, Broker, Answers], Finding]] = (
        _each_request_has_one_answer,
        _none_is_open,
        _none_was_received_twice,
        _what_arrived_was_sent,
        _executed_orders_arrived,
        _ended_orders_are_not_alive,
        _each_execution_is_booked_once,
        _commissions_agree,
        _orders_agree_with_their_fills,
        _positions_agree,
        _cash_agrees,
        _nothing_is_reserved,
        _the_audit_balances,
    )
    return [one(ledger, broker, answers) for one in checks]


def _each_request_has_one_answer(ledger: Ledger, _: Broker, answers: Answers) -> Finding:
    found = Finding("requests accepted once or refused", len(answers.order_ids))
    by_request: dict[str, list[str]] = {}
    for order in ledger.orders.values():
        by_request.setdefault(order.request_id, []).append(order.order_id)
    for request_id, order_id in answers.order_ids.items():
        have = by_request.pop(request_id, [])
        if order_id is not None and have != ([order_id] if order_id else []):
            told = order_id or "refused"
            found.add(f"request {request_id}: told {told}, the ledger has {have}", *have, order_id)
    for request_id, have in by_request.items():
        found.add(f"orders of request {request_id!r}, which nobody made: {have}", *have)
    return found


def _none_is_open(ledger: Ledger, broker: Broker, _: Answers) -> Finding:
    found = Finding("orders ended, none PENDING or UNKNOWN", len(ledger.orders))
    for order in ledger.orders.values():
        if order.status in OPEN:
            at_broker = broker.taken.get(order.order_id, "nothing known")
            text = f"{order.order_id} is {order.status} (at the broker: {at_broker})"
            found.add(f"{text}: {order.reason}", order.order_id)
    return found


def _none_was_received_twice(_: Ledger, broker: Broker, __: Answers) -> Finding:
    times = Counter(broker.received)
    found = Finding("orders received by the broker at most once", len(times))
    for ref, count in times.items():
        if count > 1:
            found.add(f"{ref} was received {count} times", ref)
    return found


def _what_arrived_was_sent(ledger: Ledger, broker: Broker, _: Answers) -> Finding:
    found = Finding("orders received were recorded as sent before", len(set(broker.received)))
    for ref in set(broker.received):
        order = ledger.orders.get(ref)
        if order is None or not order.was_sent:
            found.add(f"{ref} was received, and the ledger has not sent it", ref)
    return found


def _executed_orders_arrived(ledger: Ledger, broker: Broker, _: Answers) -> Finding:
    executed = [order for order in ledger.orders.values() if order.status == "EXECUTED"]
    found = Finding("EXECUTED orders received exactly once, and filled", len(executed))
    for order in executed:
        times, status = broker.received.count(order.order_id), broker.taken.get(order.order_id)
        if times != 1 or status != "Filled":
            found.add(f"{order.order_id} was received {times} times, is {status}", order.order_id)
    return found


def _ended_orders_are_not_alive(ledger: Ledger, broker: Broker, _: Answers) -> Finding:
    """Nor filled: a REJECTED order has no fill, and a CANCELLED one never all of them."""
    ended = [o for o in ledger.orders.values() if o.status in ("REJECTED", "CANCELLED")]
    found = Finding("REJECTED and CANCELLED orders not alive at the broker", len(ended))
    dead = {None, "Inactive", "Cancelled"}
    with_fills = {one.order_ref for one in broker.executed}
    for order in ended:
        status = broker.taken.get(order.order_id)
        filled = order.status == "REJECTED" and order.order_id in with_fills
        if status not in dead or filled:
            text = f"{order.order_id} is {order.status}, at the broker {status}"
            found.add(f"{text}: {order.reason}", order.order_id)
    return found


def _each_execution_is_booked_once(ledger: Ledger, broker: Broker, _: Answers) -> Finding:
    found = Finding("executions booked exactly once", len(broker.executed))
    booked = _summed(ledger.booked)
    for one in broker.executed:
        quantity, value, _paid = booked.pop((one.order_ref, one.root), (ZERO, ZERO, ZERO))
        if (quantity, value) != (one.quantity, one.value):
            text = f"{one.root} of {one.order_ref}: {one.quantity} for {one.value} at the broker"
            found.add(f"{text}, {quantity} for {value} booked", one.order_ref)
    for order_id, root in booked:
        found.add(f"{root} of {order_id} is booked, and the broker has none", order_id)
    return found


def _commissions_agree(ledger: Ledger, broker: Broker, _: Answers) -> Finding:
    found = Finding("commissions equal", len(broker.executed))
    booked = _summed(ledger.booked)
    for one in broker.executed:
        commission = booked.get((one.order_ref, one.root), (ZERO, ZERO, ZERO))[2]
        if commission != one.commission:
            text = f"{one.root} of {one.order_ref}: {one.commission} at the broker"
            found.add(f"{text}, {commission} booked", one.order_ref)
    return found


def _orders_agree_with_their_fills(ledger: Ledger, _: Broker, __: Answers) -> Finding:
    found = Finding("orders equal to the sum of their fills", len(ledger.orders))
    quantities: Counter[str] = Counter()
    for one in ledger.booked:
        quantities[one.order_id] += one.quantity  # type: ignore[assignment]  # Decimals
    for order in ledger.orders.values():
        filled = quantities[order.order_id]
        is_full = order.status != "EXECUTED" or filled == order.quantity
        if order.filled_quantity != filled or not is_full:
            text = f"{order.order_id} ({order.status}) of {order.quantity}: filled"
            found.add(f"{text} {order.filled_quantity}, its fills {filled}", order.order_id)
    return found


def _positions_agree(ledger: Ledger, broker: Broker, _: Answers) -> Finding:
    """By strategy with the executions; by symbol with the broker's, nothing UNATTRIBUTED."""
    wanted: dict[tuple[str, str], Decimal] = {}
    totals = dict(broker.positions)
    for one in broker.executed:
        if order := ledger.orders.get(one.order_ref):
            key = order.strategy_name, one.symbol
            wanted[key] = wanted.get(key, ZERO) + one.sign * one.quantity
    found = Finding("positions, strategies + UNATTRIBUTED = broker", len(wanted))
    for (name, symbol), held in ledger.positions.items():
        totals[symbol] = totals.get(symbol, ZERO) - held
        if wanted.pop((name, symbol), ZERO) != held:
            found.add(f"{name} holds {held} {symbol}, which its executions do not give")
    for (name, symbol), quantity in wanted.items():
        if quantity:
            found.add(f"{name} holds no {symbol}; its executions give {quantity}")
    for symbol, left in totals.items():
        if left:
            found.add(f"the broker has {left} {symbol} more than the strategies")
    for symbol, quantity in ledger.unattributed.items():
        found.add(f"the last comparison shows {quantity} {symbol} UNATTRIBUTED")
    return found


def _cash_agrees(ledger: Ledger, broker: Broker, _: Answers) -> Finding:
    """Cash of each book = deposits - purchases + sales - commissions, and the account's as well."""
    found = Finding("cash = deposits - purchases + sales - commissions", len(ledger.cash))
    wanted = dict(ledger.deposits)
    for one in broker.executed:
        if order := ledger.orders.get(one.order_ref):
            wanted[order.strategy_name] -= one.sign * one.value + one.commission
    for name, cash in ledger.cash.items():
        if wanted.get(name, ZERO) != cash:
            found.add(f"{name} has {cash} USD; it should have {wanted.get(name, ZERO)}")
    moved = sum(ledger.cash.values(), ZERO) - sum(ledger.deposits.values(), ZERO)
    if moved != broker.cash - broker.cash_at_first:
        at_broker = broker.cash - broker.cash_at_first
        found.add(f"orders moved {moved} USD in the books and {at_broker} USD in the account")
    return found


def _nothing_is_reserved(ledger: Ledger, _: Broker, __: Answers) -> Finding:
    found = Finding("nothing reserved without an open order", len(ledger.cash))
    if not any(order.status in OPEN for order in ledger.orders.values()):
        for where, amount in ledger.reserved.items():
            found.add(f"{where}: {amount} reserved")
    return found


def _the_audit_balances(ledger: Ledger, _: Broker, __: Answers) -> Finding:
    found = Finding("the audit balances", len(ledger.cash))
    found.wrong += ledger.differences
    return found


def _summed(booked: Collection[Booked]) -> dict[tuple[str, str], tuple[Decimal, Decimal, Decimal]]:
    """Quantity, value and commission by order and root."""
    sums: dict[tuple[str, str], tuple[Decimal, Decimal, Decimal]] = {}
    for one in booked:
        quantity, value, commission = sums.get((one.order_id, one.root), (ZERO, ZERO, ZERO))
        sums[one.order_id, one.root] = (
            quantity + one.quantity,
            value + one.value,
            commission + one.commission,
        )
    return sums
