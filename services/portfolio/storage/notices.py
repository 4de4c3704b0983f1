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
    parts = max(-(-len(names) // MOST_NAMES), -(-len(ids) // MOST_ORDERS))
    return [
        orjson.dumps(
            {
                "strategies": names[part * MOST_NAMES : (part + 1) * MOST_NAMES],
                "orders": ids[part * MOST_ORDERS : (part + 1) * MOST_ORDERS],
            }
        ).decode()
        for part in range(parts)
    ]


def event_of(payload: str) -> LedgerEvent:
    """What a payload tells."""
    told = orjson.loads(payload)
    return LedgerEvent(tuple(told["strategies"]), tuple(map(UUID, told["orders"])))
