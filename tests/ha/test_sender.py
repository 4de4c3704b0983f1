"""The elected sender after a failover of the database: exactly one again, and each order once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from efficientfrontier.v1.order_service_pb2 import Order
from efficientfrontier.v1.portfolio_service_pb2 import Portfolio, UpsertPortfolioRequest
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from tests.live.test_failover import CALL_S, CASH, NAME, Pair, flowing
from tests.support.database import psql
from tests.support.gateway import ACCOUNT, GatewayProcess
from tests.support.replicated import Replicated
from tests.support.router import Router

SENDERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.fixture
def live(router: Callable[..., Router], pair: Replicated, tmp_path: Path) -> Iterator[Pair]:
    """Two LIVE routers on the replicated database, CONNECTED, and a strategy with cash."""
    with GatewayProcess(tmp_path) as gateway:
        settings = {
            "TRADING_MODE": "LIVE",
            "IBKR_HOST": "127.0.0.1",
            "IBKR_PORT": str(gateway.port),
            "IBKR_CLIENT_ID": "7",
            "IBKR_ACCOUNT": ACCOUNT,
            "AUTH": "none",
            "OUTSIDE_SESSION": "allow",
            "ANSWER_WITHIN_S": "2",
        }
        one = Pair(gateway, (router(pair.url, **settings), router(pair.url, **settings)), pair.url)
        with grpc.insecure_channel(one.routers[0].address) as channel:
            PortfolioServiceStub(channel).UpsertPortfolio(
                UpsertPortfolioRequest(
                    strategy_name=NAME, cash=CASH, requested_mode=Portfolio.LIVE
                ),
                timeout=CALL_S,
            )
        one.roles()
        yield one


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
