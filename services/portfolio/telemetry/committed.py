"""Counts what was committed: orders by the status they came to, fills, and what was traded."""

from decimal import Decimal
from itertools import product

from prometheus_client import Counter

from services.portfolio.domain.order import FillKind, Mode, Side, Status
from services.portfolio.ports import Changes, Snapshot

ORDERS = Counter(
    "portfolio_orders",
    "Orders that came to this status, by this replica; paper twins are left out.",
    ["mode", "side", "status"],
)
FILLS = Counter(
    "portfolio_fills", "Fills booked by this replica; paper twins' are left out.", ["mode", "side"]
)
TRADED = Counter("portfolio_traded_usd", "What these fills were worth, in USD.", ["mode", "side"])

# Looking a labelled one up costs more than counting.
_ORDERS = {key: ORDERS.labels(*key) for key in product(Mode, Side, Status)}
_FILLS = {key: FILLS.labels(*key) for key in product(Mode, Side)}
_TRADED = {key: TRADED.labels(*key) for key in product(Mode, Side)}


def count(changes: Changes, before: Snapshot) -> None:
    """Counts the orders and fills of a transaction that has been committed."""
    came_to: dict[tuple[Mode, Side, Status], int] = {}
    for order_id, order in changes.orders.items():
        known = before.orders.get(order_id)
        if order.twin_of is None and (known is None or known.status is not order.status):
            key = order.mode, order.side, order.status
            came_to[key] = came_to.get(key, 0) + 1
    traded: dict[tuple[Mode, Side], list[Decimal]] = {}
    for fill in changes.fills:
        order = changes.orders[fill.order_id]
        if order.twin_of is None and fill.kind is FillKind.FILL:
            traded.setdefault((order.mode, order.side), []).append(fill.value)
    # One step for many: each takes a lock.
    for key, number in came_to.items():
        _ORDERS[key].inc(number)
    for book, values in traded.items():
        _FILLS[book].inc(len(values))
        _TRADED[book].inc(float(sum(values)))
