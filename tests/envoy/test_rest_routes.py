"""REST through the real Envoy: each path reaches its method with the right message."""

import json
from typing import Any

import pytest
import requests

from efficientfrontier.v1 import (
    allocation_service_pb2,
    broker_service_pb2,
    equity_service_pb2,
    mutation_service_pb2,
    order_service_pb2,
    page_service_pb2,
    portfolio_service_pb2,
    position_service_pb2,
    promotion_service_pb2,
    risk_service_pb2,
)
from tests.envoy.door import Door, MakeDoor

ID = "0199e3a0-0000-7000-8000-000000000001"
BUY = {"strategy_name": "A", "symbol": "SPXL", "price": 150.5}
SERVICES = [
    order_service_pb2.DESCRIPTOR.services_by_name["OrderService"],
    position_service_pb2.DESCRIPTOR.services_by_name["PositionService"],
    portfolio_service_pb2.DESCRIPTOR.services_by_name["PortfolioService"],
    broker_service_pb2.DESCRIPTOR.services_by_name["BrokerService"],
    equity_service_pb2.DESCRIPTOR.services_by_name["EquityService"],
    risk_service_pb2.DESCRIPTOR.services_by_name["RiskService"],
    allocation_service_pb2.DESCRIPTOR.services_by_name["AllocationService"],
    promotion_service_pb2.DESCRIPTOR.services_by_name["PromotionService"],
    page_service_pb2.DESCRIPTOR.services_by_name["PageService"],
    mutation_service_pb2.DESCRIPTOR.services_by_name["MutationService"],
]
# HTTP method, path, body, the method it reaches, what that gets beside the body.
UNARY: list[tuple[str, str, dict[str, Any] | None, str, dict[str, Any]]] = [
    ("POST", "/orders/buy_all", BUY, "OrderService.BuyAll", {}),
    ("POST", "/orders/sell_all", BUY, "OrderService.SellAll", {}),
    ("POST", "/orders", BUY | {"side": "BUY", "quantity": 3.0}, "OrderService.CreateOrder", {}),
    ("GET", "/orders", None, "OrderService.ListOrders", {}),
    ("GET", f"/orders/{ID}", None, "OrderService.GetOrder", {"order_id": ID}),
    (
        "PUT",
        f"/orders/{ID}/status",
        {"status": "EXECUTED", "filled_quantity": 3.0, "average_fill_price": 150.25},
        "OrderService.UpdateOrderStatus",
        {"order_id": ID},
    ),
    (
        "POST",
        "/positions",
        {"strategy_name": "A", "symbol": "SPXL", "quantity": 2.0, "average_cost": 1.5},
        "PositionService.SetPosition",
        {},
    ),
    ("GET", "/positions", None, "PositionService.ListPositions", {}),
    (
        "DELETE",
        f"/positions/{ID}?reason=moved+away",
        None,
        "PositionService.DeletePosition",
        {"position_id": ID, "reason": "moved away"},
    ),
    (
        "POST",
        "/positions:assign",
        {"symbol": "SPXL", "strategy_name": "A", "quantity": -2.0, "reason": "split"},
        "PositionService.AssignPosition",
        {},
    ),
    (
        "POST",
        "/portfolio",
        {"strategy_name": "A", "cash": 0.0, "requested_mode": "PAPER"},
        "PortfolioService.UpsertPortfolio",
        {},
    ),
    ("GET", "/portfolio", None, "PortfolioService.ListPortfolios", {}),
    ("GET", "/portfolio/A", None, "PortfolioService.GetPortfolio", {"strategy_name": "A"}),
    ("GET", "/portfolio/A/invested", None, "PortfolioService.GetInvested", {"strategy_name": "A"}),
    (
        "POST",
        "/portfolio/A:halt",
        {"reason": "holiday"},
        "PortfolioService.HaltStrategy",
        {"strategy_name": "A"},
    ),
    ("POST", "/portfolio/A:resume", {}, "PortfolioService.ResumeStrategy", {"strategy_name": "A"}),
    (
        "POST",
        "/prices",
        {"strategy_name": "A", "prices": [{"symbol": "SPXL", "price": 150.5}]},
        "PortfolioService.ReportPrices",
        {},
    ),
    ("GET", "/audit", None, "PortfolioService.Audit", {}),
    ("GET", "/broker", None, "BrokerService.GetBroker", {}),
    ("GET", "/reconciliation", None, "BrokerService.GetReconciliation", {}),
    ("GET", "/portfolio/A/equity", None, "EquityService.ListEquity", {"strategy_name": "A"}),
    ("GET", "/equity?mode=LIVE", None, "EquityService.ListEquity", {"mode": "LIVE"}),
    (
        "GET",
        "/portfolio/A/performance",
        None,
        "EquityService.GetPerformance",
        {"strategy_name": "A"},
    ),
    ("GET", "/performance", None, "EquityService.GetPerformance", {}),
    ("GET", "/risk/limits", None, "RiskService.ListLimits", {}),
    (
        "POST",
        "/risk/limits",
        {"strategy_name": "A", "limits": {"max_drawdown": 0.2, "on_silence": "FLATTEN"}},
        "RiskService.SetLimits",
        {},
    ),
    ("POST", "/portfolio:halt", {"flatten": True}, "RiskService.HaltPortfolio", {}),
    ("POST", "/portfolio:resume", {}, "RiskService.ResumePortfolio", {}),
    (
        "GET",
        "/risk/events?strategy=A",
        None,
        "RiskService.ListRiskEvents",
        {"strategy_name": "A"},
    ),
    ("GET", "/allocation", None, "AllocationService.GetAllocation", {}),
    (
        "POST",
        "/allocation",
        {"policy": {"method": "MAXIMUM_SHARPE", "cash_floor": 0.05}},
        "AllocationService.SetAllocation",
        {},
    ),
    ("POST", "/allocation:plan", {"mode": "PAPER"}, "AllocationService.PlanAllocation", {}),
    ("POST", "/allocation:rebalance", {"plan_id": ID}, "AllocationService.Rebalance", {}),
    ("GET", "/allocation/plans", None, "AllocationService.ListPlans", {}),
    (
        "GET",
        "/decisions?strategy=A",
        None,
        "PromotionService.ListDecisions",
        {"strategy_name": "A"},
    ),
    (
        "POST",
        "/portfolio/A:review",
        {},
        "PromotionService.ReviewStrategy",
        {"strategy_name": "A"},
    ),
    (
        "GET",
        "/mutations?strategy=A&actor=operator/alice",
        None,
        "MutationService.ListMutations",
        {"strategy_name": "A", "actor": "operator/alice"},
    ),
]
# Path, the method it reaches, the message that its query makes, what the first event holds.
STREAMS: list[tuple[str, str, dict[str, str], str]] = [
    ("/orders:watch?strategy=A", "OrderService.WatchOrders", {"strategy_name": "A"}, "order"),
    (
        "/portfolio:watch?strategy=A",
        "PortfolioService.WatchPortfolios",
        {"strategy_name": "A"},
        "portfolio",
    ),
    ("/broker:watch", "BrokerService.WatchBroker", {}, "broker"),
]
# Path, the method it reaches, the message that the path makes: what answers with a body of its own.
PAGES: list[tuple[str, str, dict[str, str]]] = [
    ("/pages", "PageService.GetPage", {}),
    ("/pages/frontier", "PageService.GetPage", {"page": "frontier"}),
    ("/pages/plotly.js", "PageService.GetPage", {"page": "plotly.js"}),
]


def arrived(response: requests.Response) -> tuple[str, dict[str, Any]]:
    """The method that answered, and the message it got."""
    assert response.status_code == 200, response.text
    method = response.headers["x-echo-method"].removeprefix("efficientfrontier.v1.")
    return method, json.loads(response.headers["x-echo-request"])


@pytest.mark.parametrize(("verb", "path", "body", "method", "more"), UNARY)
def test_a_documented_path_reaches_its_method(
    door: Door, verb: str, path: str, body: dict[str, Any] | None, method: str, more: dict[str, Any]
) -> None:
    response = requests.request(verb, door.url + path, json=body, timeout=10)

    assert arrived(response) == (method, (body or {}) | more)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("path", "method", "message"), PAGES)
def test_a_page_is_a_page_and_not_json(
    door: Door, path: str, method: str, message: dict[str, str]
) -> None:
    response = requests.get(door.url + path, timeout=10)

    assert arrived(response) == (method, message)
    assert response.headers["content-type"] == "text/html"
    assert response.content == b"<title>a page</title>"


def test_every_method_of_the_contract_is_in_the_tables_above() -> None:
    tested = {method for _, _, _, method, _ in UNARY} | {method for _, method, _, _ in STREAMS}
    tested |= {method for _, method, _ in PAGES}

    contract = {
        f"{service.name}.{method.name}" for service in SERVICES for method in service.methods
    }
    assert tested == contract


def test_an_answer_is_snake_case_with_plain_numbers_and_its_zeros(door: Door) -> None:
    response = requests.post(door.url + "/orders/buy_all", json=BUY, timeout=10)

    assert response.json() == {
        "order_id": "",
        "strategy_name": "A",
        "symbol": "SPXL",
        "side": "SIDE_UNSPECIFIED",
        "quantity": 0,
        "price": 150.5,
        "status": "STATUS_UNSPECIFIED",
        "mode": "MODE_UNSPECIFIED",
        "filled_quantity": 0,
        "average_fill_price": 0,
        "commission": 0,
        "reason": "",
        "request_id": "",
        "twin_of": "",
    }


@pytest.mark.parametrize("path", ["/orders", "/positions"])
@pytest.mark.parametrize("name", ["strategy", "strategy_name"])
def test_a_strategy_filter_may_be_spelt_both_ways(door: Door, path: str, name: str) -> None:
    response = requests.get(door.url + path, params={name: "A", "symbol": "SPXL"}, timeout=10)

    assert arrived(response)[1] == {"strategy_name": "A", "symbol": "SPXL"}


@pytest.mark.parametrize("status", ["EXECUTED", "executed", "Executed"])
def test_an_enum_may_be_in_any_case(door: Door, status: str) -> None:
    response = requests.get(door.url + f"/orders?status={status}&page_size=7", timeout=10)

    assert arrived(response)[1] == {"status": "EXECUTED", "page_size": 7}


def test_an_empty_strategy_name_reaches_the_router_which_refuses_it(door: Door) -> None:
    response = requests.get(door.url + "/portfolio//invested", timeout=10)

    assert arrived(response) == ("PortfolioService.GetInvested", {})


def test_an_answer_of_5_mib_arrives_whole(door: Door) -> None:
    response = requests.post(
        door.url + "/orders/buy_all", json={"strategy_name": "Huge"}, timeout=20
    )

    assert len(response.json()["reason"]) == 5 * 1024 * 1024


def test_a_request_id_goes_to_the_router_and_back(door: Door) -> None:
    given = "a-request-0001"

    response = requests.get(door.url + "/orders", headers={"x-request-id": given}, timeout=10)

    assert response.headers["x-request-id"] == given
    assert json.loads(response.headers["x-echo-metadata"])["x-request-id"] == given


def test_a_call_without_a_request_id_is_given_one(door: Door) -> None:
    response = requests.get(door.url + "/orders", timeout=10)

    made = response.headers["x-request-id"]
    assert len(made) == 36
    assert json.loads(response.headers["x-echo-metadata"])["x-request-id"] == made


@pytest.mark.parametrize(("path", "method", "message", "first"), STREAMS)
def test_a_watch_is_server_sent_events_that_come_one_by_one(
    make_door: MakeDoor, path: str, method: str, message: dict[str, str], first: str
) -> None:
    door = make_door(1)
    with requests.get(door.url + path, stream=True, timeout=10) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert arrived(response) == (method, message)
        lines = response.iter_lines(chunk_size=1)

        event = next(lines)  # the stream's end is sent only once it is released, below
        told = json.loads(event.removeprefix(b"data: "))[first]
        assert message.items() <= told.items()

        requests.post(door.url + "/portfolio/A:resume", timeout=10)
        last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix(b"data: ")) == {"end": {"code": 14, "message": ""}}
