"""The elected sender after a failover of the database: exactly one again, and each order once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from efficientfrontier.v1.order_service_pb2 import Order
from tests.live.test_failover import Pair, flowing, pair_on
from tests.support.database import psql
from tests.support.gateway import GatewayProcess
from tests.support.replicated import Replicated
from tests.support.router import Router

SENDERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.fixture
def live(router: Callable[..., Router], pair: Replicated, tmp_path: Path) -> Iterator[Pair]:
    """Two LIVE routers on the replicated database, CONNECTED, and a strategy with cash."""
    with GatewayProcess(tmp_path) as gateway:
        yield pair_on(pair.url, gateway, router)


def test_after_a_failover_one_router_sends_and_each_order_goes_once(
    live: Pair, pair: Replicated
) -> None:
    _, other = live.roles()
    with flowing(live, other) as flow:
        pair.fail_over()
        flow.until_more()
    sender, _ = live.roles()
    assert psql(pair.url, SENDERS) == "1"
    live.until(live.place(sender), Order.EXECUTED)
    live.assert_exactly_once()
