"""What a commit tells every router replica, over NOTIFY: which strategies and orders changed."""

from collections.abc import Iterable
from uuid import UUID

import orjson

from services.portfolio.ports import LedgerEvent

CHANNEL = "ledger"
# PostgreSQL takes payloads of up to 8000 bytes: 64 names of 64 and 64 ids of 36 fit with room.
MOST_NAMES = 64
MOST_ORDERS = 64


def notices(
    strategies: Iterable[str], orders: Iterable[UUID], *, broker: bool = False
) -> list[str]:
    """The payloads that tell of these changes; `broker` as in LedgerEvent."""
    names = sorted(strategies)
    ids = [str(order_id) for order_id in orders]
    if len(names) <= MOST_NAMES and len(ids) <= MOST_ORDERS:
        return [_payload(names, ids, broker)] if names or ids or broker else []
    # Names and ids apart: an event that names strategies names those of all its orders.
    return [
        *([BROKER_NOTICE] if broker else []),
        *(_payload(names[i : i + MOST_NAMES], []) for i in range(0, len(names), MOST_NAMES)),
        *(_payload([], ids[i : i + MOST_ORDERS]) for i in range(0, len(ids), MOST_ORDERS)),
    ]


def event_of(payload: str) -> LedgerEvent:
    """What a payload tells."""
    told = orjson.loads(payload)
    return LedgerEvent(
        tuple(told["strategies"]), tuple(map(UUID, told["orders"])), told.get("broker", False)
    )


def _payload(names: list[str], ids: list[str], broker: bool = False) -> str:
    """A payload. Few tell of the broker, so the others do without the word."""
    told: dict[str, object] = {"strategies": names, "orders": ids}
    if broker:
        told["broker"] = True
    return orjson.dumps(told).decode()


BROKER_NOTICE = _payload([], [], broker=True)  # tells of the broker alone
