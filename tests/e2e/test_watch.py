"""Watching: SSE over REST, streams over gRPC, and every replica sees every change."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import requests

from efficientfrontier.v1.order_service_pb2 import BuyAllRequest, WatchOrdersRequest
from efficientfrontier.v1.portfolio_service_pb2 import (
    UpsertPortfolioRequest,
    WatchPortfoliosRequest,
)
from tests.e2e.rest import TIMEOUT_S, Rest
from tests.e2e.stubs import stubs_on
from tests.support.mesh import Mesh
from tests.support.router import Router


def events(url: str, **query: object) -> Iterator[Any]:
    """The JSON of each server-sent event. Entered once the headers are here."""
    answer = requests.get(url, params=query, stream=True, timeout=TIMEOUT_S)  # type: ignore[arg-type]
    assert answer.headers["content-type"].startswith("text/event-stream")

    def data() -> Iterator[Any]:
        with answer:
            for line in answer.iter_lines():
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))

    return data()


def test_orders_come_as_server_sent_events(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=100)
    watched = events(f"{mesh.rest_url}/orders:watch", strategy=name)
    order = {"strategy_name": name, "symbol": "SPXL", "price": 10}
    bought = rest.ok("POST", "/orders/buy_all", order)
    assert next(watched) == {"order": bought}
    sold = rest.ok("POST", "/orders/sell_all", order)
    assert next(watched) == {"order": sold}


def test_a_watch_may_begin_with_the_newest_orders(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=100)
    order = {"strategy_name": name, "symbol": "A", "side": "BUY", "quantity": 1, "price": 1}
    placed = [rest.ok("POST", "/orders", order) for _ in range(3)]
    watched = events(f"{mesh.rest_url}/orders:watch", strategy=name, snapshot_size=2)
    assert [next(watched)["order"] for _ in range(2)] == placed[1:]


def test_portfolios_come_as_they_are_and_then_as_they_change(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=100)
    watched = events(f"{mesh.rest_url}/portfolio:watch", strategy=name)
    assert next(watched)["portfolio"]["cash"] == 100
    rest.ok("POST", "/orders/buy_all", {"strategy_name": name, "symbol": "A", "price": 30})
    assert next(watched)["portfolio"]["cash"] == 10
    rest.ok("POST", "/prices", {"strategy_name": name, "prices": [{"symbol": "A", "price": 40}]})
    assert next(watched)["portfolio"]["equity"] == 130


def test_every_replica_sees_every_change_and_a_stopping_one_says_goodbye(
    router: Callable[..., Router], database_url: str
) -> None:
    first, second = router(database_url), router(database_url)
    with stubs_on(first.address) as one, stubs_on(second.address) as other:
        one.portfolio.UpsertPortfolio(UpsertPortfolioRequest(strategy_name="A", cash=100))
        orders = other.orders.WatchOrders(WatchOrdersRequest(strategy_name="A"))
        orders.initial_metadata()  # sent once the watch has begun
        portfolios = other.portfolio.WatchPortfolios(WatchPortfoliosRequest(strategy_name="A"))
        assert next(portfolios).portfolio.cash == 100
        bought = one.orders.BuyAll(BuyAllRequest(strategy_name="A", symbol="S", price=10))
        assert next(orders).order == bought
        assert next(portfolios).portfolio.invested
        ended = threading.Thread(target=second.stop)
        ended.start()
        last = next(orders)
        assert last.end.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert "Call again" in last.end.message
        ended.join(30)
        assert not ended.is_alive()
