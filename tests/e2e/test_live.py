"""LIVE from end to end: the real Envoy, router and PostgreSQL, on the simulated gateway."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from efficientfrontier.simulation.v1.simulation_pb2 import TradeByHandRequest
from services.mesh.envoy import Envoy
from tests.e2e.rest import Rest
from tests.e2e.test_watch import events
from tests.support.database import fresh_database
from tests.support.gateway import GatewayProcess
from tests.support.router import Router
from tests.support.waiting import wait_until

# A symbol for each test, so that none meets another's positions and scenarios.
PRICES = {name: Decimal(100) for name in ("SPXL", "AAA", "BBB", "CCC", "DDD", "EEE", "FFF")}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Live:
    """A mesh that trades LIVE."""

    rest: Rest
    grpc_address: str
    gateway: GatewayProcess
    router: Router

    def strategy(self, cash: float = 10_000) -> str:
        """Makes a LIVE strategy of the test's own."""
        name = f"Live_{uuid.uuid4().hex[:12]}"
        wish = {"strategy_name": name, "cash": cash, "requested_mode": "LIVE"}
        assert self.rest.ok("POST", "/portfolio", wish)["mode"] == "LIVE"
        return name

    def until(self, order: Any, status: str) -> Any:
        """The order once it has this status and, when filled, its commission."""

        def fits() -> Any:
            seen = self.rest.ok("GET", f"/orders/{order['order_id']}")
            is_whole = bool(seen["commission"]) or not seen["filled_quantity"]
            return seen if seen["status"] == status and is_whole else None

        return wait_until(fits, 30, f"{status} of {order}")

    def until_state(self, state: str) -> Any:
        """How things stand with the broker, once it is in this state."""

        def fits() -> Any:
            seen = self.rest.ok("GET", "/broker")
            return seen if seen["state"] == state else None

        return wait_until(fits, 30, state)

    def received(self, order: Any) -> int:
        """How often the gateway received a placeOrder for it."""
        receipts = self.gateway.snapshot().receipts
        return sum(receipt.order_ref == order["order_id"] for receipt in receipts)

    def health(self, service: str) -> int:
        """What the health check says of a service."""
        with grpc.insecure_channel(self.grpc_address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            asked = health_pb2.HealthCheckRequest(service=service)
            status: int = stub.Check(asked, timeout=10).status
            return status


@pytest.fixture(scope="module")
def running(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One LIVE mesh for this file."""
    folder = tmp_path_factory.mktemp("live")
    gateway = GatewayProcess(folder, PRICES)
    with fresh_database(postgres_url) as database_url:
        settings = {"PROMOTION": "at_once", "RECONCILE_EVERY_S": "1"}
        router = Router(database_url, folder / "router.log", gateway.router_settings | settings)
        envoy = Envoy(0, [router.address], folder / "envoy", folder)
        try:
            gateway.start()
            envoy.start()
            router.start()
            envoy.wait_ready(30)
            address = f"127.0.0.1:{envoy.port}"
            yield Live(Rest(f"http://{address}"), address, gateway, router)
        finally:
            envoy.stop()
            router.stop()
            gateway.stop()


@pytest.fixture
def live(running: Live) -> Iterator[Live]:
    """The mesh, CONNECTED; its ledger is checked after the test."""
    running.until_state("CONNECTED")
    yield running
    audit = running.rest.ok("GET", "/audit")
    assert audit["balanced"], audit
    refs = [receipt.order_ref for receipt in running.gateway.snapshot().receipts]
    assert len(set(refs)) == len(refs), "an order was sent twice"


def test_buy_all_is_pending_until_the_broker_has_filled_it(live: Live) -> None:
    name = live.strategy(cash=10_000)
    live.gateway.set_scenario("HELD", "SPXL", times=1)
    body = {"strategy_name": name, "symbol": "SPXL", "price": 100}
    order = live.rest.ok("POST", "/orders/buy_all", body)
    placed = {
        "order_id": order["order_id"],
        "strategy_name": name,
        "symbol": "SPXL",
        "side": "BUY",
        "quantity": 98,  # 2% of the price and 1 USD are kept back
        "price": 100,
        "status": "PENDING",
        "mode": "LIVE",
        "filled_quantity": 0,
        "average_fill_price": 0,
        "commission": 0,
        "reason": "",
        "request_id": "",
        "twin_of": "",
        "create_time": order["create_time"],
        "update_time": order["update_time"],
    }
    assert order == placed
    wait_until(lambda: live.received(order) == 1, 20, "the order at the gateway")
    assert live.rest.ok("GET", f"/orders/{order['order_id']}") == placed
    portfolio = live.rest.ok("GET", f"/portfolio/{name}")
    assert (portfolio["cash"], portfolio["reserved_cash"]) == (10_000, 98 * 102 + 1)

    live.gateway.release("SPXL")
    filled = live.until(order, "EXECUTED")
    assert filled == placed | {
        "status": "EXECUTED",
        "filled_quantity": 98,
        "average_fill_price": 100.01,
        "commission": 1,
        "update_time": filled["update_time"],
    }
    (position,) = live.rest.ok("GET", "/positions", strategy=name)["positions"]
    assert (position["mode"], position["quantity"], position["average_cost"]) == (
        "LIVE",
        98,
        100.01,
    )
    portfolio = live.rest.ok("GET", f"/portfolio/{name}")
    assert (portfolio["cash"], portfolio["reserved_cash"]) == (198.02, 0)

    sold = live.rest.ok("POST", "/orders/sell_all", body)
    assert (sold["status"], sold["quantity"]) == ("PENDING", 98)
    assert live.until(sold, "EXECUTED")["average_fill_price"] == 99.99
    assert live.rest.ok("GET", "/positions", strategy=name)["positions"] == []
    portfolio = live.rest.ok("GET", f"/portfolio/{name}")
    assert (portfolio["cash"], portfolio["realized_pnl"]) == (9_996.04, -3.96)


def test_the_strategies_of_a_fresh_system_share_the_capital(live: Live) -> None:
    def funded() -> Any:
        strategy = live.rest.ok("GET", "/portfolio/IncredibleLeverage_SPXL")
        return strategy if strategy["cash"] else None

    strategy = wait_until(funded, 20, "the first comparison")
    assert (strategy["mode"], strategy["cash"]) == ("LIVE", 20_000)


def test_the_broker_is_shown_with_the_kind_of_its_account(live: Live) -> None:
    broker = live.rest.ok("GET", "/broker")
    assert broker.pop("since_time")
    assert broker.pop("sender").endswith(f":{live.router.running.pid}")
    assert broker == {
        "state": "CONNECTED",
        "detail": "",
        "market_data": "OK",
        "account": "DU***001",
        "account_kind": "PAPER",
        "trading_mode": "LIVE",
        "takes_orders": True,
    }
    assert live.health("broker") == SERVING


def test_shares_that_are_nobodys_are_shown_and_assigned(live: Live) -> None:
    name = live.strategy()
    trade = TradeByHandRequest(symbol="AAA", quantity=5, price=100)
    live.gateway.control.TradeByHand(trade, timeout=10)

    def row(is_frozen: bool) -> Any:
        def seen() -> Any:
            compared = live.rest.ok("GET", "/reconciliation")
            assert ("AAA" in compared["frozen_symbols"]) == any(
                one["symbol"] == "AAA" and one["frozen"] for one in compared["rows"]
            )
            return [
                r for r in compared["rows"] if r["symbol"] == "AAA" and r["frozen"] is is_frozen
            ]

        return wait_until(seen, 20, f"AAA frozen: {is_frozen}")

    figures = {"symbol": "AAA", "broker_quantity": 5, "acknowledged_quantity": 0}
    nobodys = {"strategies_quantity": 0, "unattributed_quantity": 5, "frozen": True}
    assert row(is_frozen=True) == [figures | nobodys]

    wanted = {"strategy_name": name, "symbol": "AAA", "price": 100}
    refused: list[Any] = []

    def is_refused() -> bool:
        refused[:] = [live.rest.raw("POST", "/orders/buy_all", wanted).json()]
        return "details" in refused[0]

    wait_until(is_refused, 20, "a refusal")
    assert refused[0]["details"][0]["reason"] == "SYMBOL_FROZEN", refused

    body = {"strategy_name": name, "symbol": "AAA", "quantity": 5, "average_cost": 100}
    position = live.rest.ok("POST", "/positions:assign", body | {"reason": "bought in TWS"})
    assert (position["mode"], position["quantity"], position["average_cost"]) == ("LIVE", 5, 100)
    owned = {"strategies_quantity": 5, "unattributed_quantity": 0, "frozen": False}
    assert row(is_frozen=False) == [figures | owned]

    def taken() -> Any:
        answer = live.rest.raw("POST", "/orders/sell_all", wanted)
        return answer.json() if answer.status_code == 200 else None

    assert live.until(wait_until(taken, 20, "orders are taken again"), "EXECUTED")


def test_a_cancel_stays_pending_until_the_broker_agrees(live: Live) -> None:
    name = live.strategy()
    body = {"strategy_name": name, "symbol": "BBB", "side": "BUY", "quantity": 10, "price": 100}
    cancelled = {"status": "CANCELLED"}
    live.gateway.set_scenario("CANCEL_REFUSED", "BBB", times=1)
    refused = live.rest.ok("POST", "/orders", body)
    path = f"/orders/{refused['order_id']}/status"
    wait_until(lambda: live.received(refused) == 1, 20, "the order at the gateway")
    assert live.rest.ok("PUT", path, cancelled)["status"] == "PENDING"

    def asked(seen: Any) -> bool:
        return any(
            one.order_ref == refused["order_id"] and one.cancels_received for one in seen.orders
        )

    live.gateway.wait_for(asked, 20, "the cancel at the gateway")
    error = live.rest.error(400, "PUT", path, {"status": "EXECUTED"})
    assert error["reason"] == "LIVE_ORDER"
    live.gateway.release("BBB")
    assert live.until(refused, "EXECUTED")["filled_quantity"] == 10

    live.gateway.set_scenario("PARTIAL_FILLS", "BBB", times=1)
    order = live.rest.ok("POST", "/orders", body)
    wait_until(
        lambda: live.rest.ok("GET", f"/orders/{order['order_id']}")["filled_quantity"] == 3, 20
    )
    answer = live.rest.ok("PUT", f"/orders/{order['order_id']}/status", cancelled)
    assert answer["status"] == "PENDING"
    ended = live.until(order, "CANCELLED")
    assert ended["filled_quantity"] == 3
    assert ended["reason"].startswith("Cancelled, as asked.")
    assert live.rest.ok("GET", f"/portfolio/{name}")["reserved_cash"] == 0


def test_while_the_gateway_is_down_orders_are_503_and_safe_to_repeat(live: Live) -> None:
    name, request_id = live.strategy(), str(uuid.uuid4())
    watched = events(f"{live.rest.url}/broker:watch")
    assert next(watched)["broker"]["state"] == "CONNECTED"
    live.gateway.kill()
    live.until_state("DOWN")
    wait_until(lambda: live.health("broker") == NOT_SERVING, 20, "health")
    assert live.health("") == SERVING
    body = {"strategy_name": name, "symbol": "CCC", "price": 100, "request_id": request_id}
    error = live.rest.error(503, "POST", "/orders/buy_all", body)
    assert (error["code"], error["reason"]) == (14, "BROKER_UNAVAILABLE")
    assert live.rest.ok("GET", "/orders", strategy=name)["orders"] == []
    assert live.rest.ok("GET", f"/portfolio/{name}")["reserved_cash"] == 0

    live.gateway.start()
    live.until_state("CONNECTED")
    order = live.rest.ok("POST", "/orders/buy_all", body)
    filled = live.until(order, "EXECUTED")
    assert live.rest.ok("POST", "/orders/buy_all", body) == order  # the first answer, again
    assert live.rest.ok("GET", "/orders", strategy=name)["orders"] == [filled]
    assert live.received(order) == 1
    states = [next(watched)["broker"]["state"]]
    while states[-1] != "CONNECTED":
        states.append(next(watched)["broker"]["state"])
    assert states[0] == "DOWN"
    watched.close()  # type: ignore[attr-defined]  # a generator


def test_an_order_that_the_broker_refuses_says_why(live: Live) -> None:
    name = live.strategy()
    live.gateway.set_scenario("REJECT_201", "DDD", times=1)
    body = {"strategy_name": name, "symbol": "DDD", "side": "BUY", "quantity": 10, "price": 100}
    ended = live.until(live.rest.ok("POST", "/orders", body), "REJECTED")
    assert "The available funds are not enough for this order." in ended["reason"]
    portfolio = live.rest.ok("GET", f"/portfolio/{name}")
    assert (portfolio["cash"], portfolio["reserved_cash"]) == (10_000, 0)


def test_an_order_for_a_part_of_a_share_is_refused(live: Live) -> None:
    name = live.strategy()
    body = {"strategy_name": name, "symbol": "EEE", "side": "BUY", "quantity": 1.5, "price": 100}
    assert live.rest.error(400, "POST", "/orders", body)["reason"] == "WHOLE_SHARES_ONLY"


def test_a_router_that_is_killed_finds_what_was_filled_meanwhile(live: Live) -> None:
    name = live.strategy()
    live.gateway.set_scenario("HELD", "FFF", times=1)
    body = {"strategy_name": name, "symbol": "FFF", "side": "BUY", "quantity": 10, "price": 100}
    order = live.rest.ok("POST", "/orders", body)
    wait_until(lambda: live.received(order) == 1, 20, "the order at the gateway")
    live.router.kill()
    assert live.gateway.release("FFF") == 1
    live.router.start()
    wait_until(lambda: live.rest.raw("GET", "/readyz").status_code == 200, 30, "ready again")
    filled = live.until(order, "EXECUTED")
    assert (filled["average_fill_price"], filled["commission"]) == (100.01, 1)
    assert live.received(order) == 1
