"""What a commit tells every router replica, over NOTIFY: which strategies and orders changed."""

from collections.abc import Iterable
from uuid import UUID

import orjson

from services.portfolio.ports import LedgerEvent

CHANNEL = "ledger"
# PostgreSQL takes payloads of up to 8000 bytes: 64 names of 64 and 64 ids of 36 fit with room.
MOST_NAMES = 64
MOST_ORDERS = 64


def notices(strategies: Iterable[str], orders: Iterable[UUID]) -> list[str]:
    """The payloads that tell of these changes."""
    names = sorted(strategies)
    ids = [str(order_id) for order_id in orders]
    if len(names) <= MOST_NAMES and len(ids) <= MOST_ORDERS:
        return [_payload(names, ids)] if names or ids else []
    # Names and ids apart: an event that names strategies names those of all its orders.
    return [
        *(_payload(names[i : i + MOST_NAMES], []) for i in range(0, len(names), MOST_NAMES)),
        *(_payload([], ids[i : i + MOST_ORDERS]) for i in range(0, len(ids), MOST_ORDERS)),
    ]


def event_of(payload: str) -> LedgerEvent:
    """What a payload tells."""
    told = orjson.loads(payload)
    return LedgerEvent(tuple(told["strategies"]), tuple(map(UUID, told["orders"])))


def _payload(names: list[str], ids: list[str]) -> str:
    return orjson.dumps({"strategies": names, "orders": ids}).decode()
