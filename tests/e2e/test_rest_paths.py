"""Every documented path, through the real Envoy."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.rest import Rest
from tests.support.mesh import Mesh

ORDER_FIELDS = {
    "order_id",
    "strategy_name",
    "symbol",
    "side",
    "quantity",
    "price",
    "status",
    "mode",
    "filled_quantity",
    "average_fill_price",
    "commission",
    "reason",
    "request_id",
    "create_time",
    "update_time",
    "twin_of",
}


def buy_all(rest: Rest, name: str, price: float = 100.5, symbol: str = "SPXL") -> Any:
    body = {"strategy_name": name, "symbol": symbol, "price": price}
    return rest.ok("POST", "/orders/buy_all", body)


def test_buy_all_buys_as_many_whole_shares_as_the_cash_allows(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=10_000)
    order = buy_all(rest, name, price=100.5)
    assert set(order) == ORDER_FIELDS
    assert uuid.UUID(order["order_id"]).version == 7
    created = datetime.fromisoformat(order["create_time"])
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    del order["order_id"], order["create_time"], order["update_time"]
    assert order == {
        "strategy_name": name,
        "symbol": "SPXL",
        "side": "BUY",
        "quantity": 99,
        "price": 100.5,
        "status": "EXECUTED",
        "mode": "PAPER",
        "filled_quantity": 99,
        "average_fill_price": 100.5,
        "commission": 0,
        "reason": "",
        "request_id": "",
        "twin_of": "",
    }
    assert rest.ok("GET", f"/portfolio/{name}")["cash"] == 50.5


def test_sell_all_sells_all_that_is_held(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=1_000)
    buy_all(rest, name, price=10)
    order = rest.ok(
        "POST", "/orders/sell_all", {"strategy_name": name, "symbol": "SPXL", "price": 12.25}
    )
    assert (order["side"], order["quantity"], order["status"]) == ("SELL", 100, "EXECUTED")
    portfolio = rest.ok("GET", f"/portfolio/{name}")
    assert (portfolio["cash"], portfolio["realized_pnl"]) == (1_225, 225)
    assert portfolio["invested"] is False


def test_an_order_for_a_named_quantity_may_be_fractional(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=1_000)
    body = {"strategy_name": name, "symbol": "NVDL", "side": "BUY", "quantity": 0.125, "price": 80}
    order = rest.ok("POST", "/orders", body)
    assert (order["quantity"], order["filled_quantity"]) == (0.125, 0.125)
    assert rest.ok("GET", f"/portfolio/{name}")["cash"] == 990


def test_orders_are_listed_newest_first_and_filtered(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    placed = [
        rest.ok(
            "POST",
            "/orders",
            {"strategy_name": name, "symbol": s, "side": "BUY", "quantity": 1, "price": 2},
        )
        for s in ("AAA", "BBB", "AAA")
    ]
    newest_first = [order["order_id"] for order in reversed(placed)]

    def ids(**query: object) -> list[str]:
        return [o["order_id"] for o in rest.ok("GET", "/orders", **query)["orders"]]

    assert ids(strategy_name=name) == newest_first
    assert ids(strategy=name) == newest_first  # the other spelling
    assert ids(strategy=name, symbol="BBB") == newest_first[1:2]
    assert ids(strategy=name, status="EXECUTED") == newest_first
    assert ids(strategy=name, status="executed") == newest_first
    assert ids(strategy=name, status="PENDING") == []
    whole = rest.ok("GET", "/orders", strategy=name)
    assert whole["next_page_token"] == ""
    assert whole["orders"] == list(reversed(placed))


def test_pages_hold_every_order_once(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    body = {"strategy_name": name, "symbol": "AAA", "side": "BUY", "quantity": 1, "price": 2}
    placed = [rest.ok("POST", "/orders", body)["order_id"] for _ in range(7)]
    seen: list[str] = []
    token = ""
    for size in (3, 3, 1):
        page = rest.ok("GET", "/orders", strategy=name, page_size=3, page_token=token)
        assert len(page["orders"]) == size
        seen += [order["order_id"] for order in page["orders"]]
        token = page["next_page_token"]
    assert token == ""
    assert seen == list(reversed(placed))


def test_an_order_is_read_by_its_id(mesh: Mesh, rest: Rest) -> None:
    order = buy_all(rest, mesh.new_strategy())
    assert rest.ok("GET", f"/orders/{order['order_id']}") == order


def test_putting_the_status_an_order_has_changes_nothing(mesh: Mesh, rest: Rest) -> None:
    order = buy_all(rest, mesh.new_strategy())
    path = f"/orders/{order['order_id']}/status"
    assert rest.ok("PUT", path, {"status": "EXECUTED"}) == order


def test_a_position_is_set_listed_and_deleted(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=500)
    wanted = {"strategy_name": name, "symbol": "HOOD", "quantity": 10, "average_cost": 20.5}
    position = rest.ok("POST", "/positions", wanted)
    assert (
        position.items()
        >= {
            **wanted,
            "mode": "PAPER",
            "market_price": 20.5,
            "market_value": 205,
            "unrealized_pnl": 0,
            "realized_pnl": 0,
        }.items()
    )
    assert rest.ok("GET", "/positions", strategy=name) == {
        "positions": [position],
        "next_page_token": "",
    }
    again = rest.ok("POST", "/positions", {**wanted, "quantity": 4})
    assert (again["position_id"], again["quantity"]) == (position["position_id"], 4)
    assert rest.ok("GET", f"/portfolio/{name}")["cash"] == 500  # shares came from outside
    assert rest.ok("DELETE", f"/positions/{position['position_id']}") == {}
    assert rest.ok("GET", "/positions", strategy_name=name)["positions"] == []
    assert rest.ok("GET", "/positions", strategy=name, symbol="HOOD")["positions"] == []


def test_pages_hold_every_position_once(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    symbols = [f"S{i}" for i in range(5)]
    for symbol in symbols:
        body = {"strategy_name": name, "symbol": symbol, "quantity": 1, "average_cost": 1}
        rest.ok("POST", "/positions", body)
    first = rest.ok("GET", "/positions", strategy=name, page_size=3)
    second = rest.ok(
        "GET", "/positions", strategy=name, page_size=3, page_token=first["next_page_token"]
    )
    assert [p["symbol"] for p in first["positions"] + second["positions"]] == symbols
    assert second["next_page_token"] == ""


def test_a_portfolio_is_created_and_only_present_fields_change(mesh: Mesh, rest: Rest) -> None:
    name = f"New_{uuid.uuid4().hex[:12]}"
    made = rest.ok("POST", "/portfolio", {"strategy_name": name, "cash": 1234.56})
    assert made["update_time"]
    del made["update_time"], made["weight"]
    assert made == {
        "strategy_name": name,
        "mode": "PAPER",
        "requested_mode": "AUTO",
        "cash": 1234.56,
        "reserved_cash": 0,
        "positions_value": 0,
        "equity": 1234.56,
        "invested": False,
        "state": "ACTIVE",
        "realized_pnl": 0,
        "unrealized_pnl": 0,
        "halt_reason": "",
        "silent": False,
        "session": "",
    }
    changed = rest.ok("POST", "/portfolio", {"strategy_name": name, "requested_mode": "PAPER"})
    assert (changed["cash"], changed["requested_mode"]) == (1234.56, "PAPER")
    changed = rest.ok("POST", "/portfolio", {"strategy_name": name, "cash": 0})
    assert (changed["cash"], changed["requested_mode"]) == (0, "PAPER")
    read = rest.ok("GET", f"/portfolio/{name}")
    assert {**read, "weight": 0} == {**changed, "weight": 0}


def test_a_fresh_system_knows_the_five_strategies_with_equal_shares(rest: Rest) -> None:
    portfolios = {p["strategy_name"]: p for p in rest.ok("GET", "/portfolio")["portfolios"]}
    for symbol in ("SPXL", "PTIR", "NVDL", "HOOD", "AVL"):
        assert portfolios[f"IncredibleLeverage_{symbol}"]["cash"] == 20_000
    assert list(portfolios) == sorted(portfolios)
    # Other tests create strategies meanwhile; within one answer the weights add up to 1.
    assert sum(p["weight"] for p in portfolios.values()) == pytest.approx(1, abs=1e-6)


def test_invested_says_whether_a_strategy_holds_anything(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    path = f"/portfolio/{name}/invested"
    nothing = {"strategy_name": name, "invested": False, "mode": "PAPER", "symbols": []}
    assert rest.ok("GET", path) == nothing
    buy_all(rest, name)
    assert rest.ok("GET", path) == {**nothing, "invested": True, "symbols": ["SPXL"]}


def test_reported_prices_mark_positions_to_market(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=1_000)
    buy_all(rest, name, price=10)
    report = {
        "strategy_name": name,
        "prices": [{"symbol": "SPXL", "price": 12}, {"symbol": "SPY", "price": 400}],
    }
    assert rest.ok("POST", "/prices", report) == {}
    (position,) = rest.ok("GET", "/positions", strategy=name)["positions"]
    assert (position["market_price"], position["market_value"]) == (12, 1_200)
    assert position["unrealized_pnl"] == 200
    portfolio = rest.ok("GET", f"/portfolio/{name}")
    assert (portfolio["positions_value"], portfolio["equity"]) == (1_200, 1_200)


def test_a_halted_strategy_trades_again_once_resumed(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    halted = rest.ok("POST", f"/portfolio/{name}:halt", {"reason": "look into it"})
    assert halted["state"] == "HALTED"
    body = {"strategy_name": name, "symbol": "SPXL", "price": 10}
    error = rest.error(400, "POST", "/orders/buy_all", body)
    assert error["reason"] == "STRATEGY_HALTED"
    assert "look into it" in error["message"]
    assert rest.ok("POST", f"/portfolio/{name}:resume", {})["state"] == "ACTIVE"
    assert buy_all(rest, name)["status"] == "EXECUTED"


def test_a_request_id_gives_the_first_answer_again(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=1_000)
    rid = str(uuid.uuid4())
    body = {"strategy_name": name, "symbol": "SPXL", "price": 10, "request_id": rid}
    first = rest.ok("POST", "/orders/buy_all", body)
    assert first["request_id"] == rid
    assert rest.ok("POST", "/orders/buy_all", body) == first
    assert len(rest.ok("GET", "/orders", strategy=name)["orders"]) == 1

    cash = {"strategy_name": name, "cash": 77, "request_id": str(uuid.uuid4())}
    answer = rest.ok("POST", "/portfolio", cash)
    rest.ok("POST", "/portfolio", {"strategy_name": name, "cash": 99})
    assert rest.ok("POST", "/portfolio", cash) == answer
    assert rest.ok("GET", f"/portfolio/{name}")["cash"] == 99


def test_the_audit_says_balanced(mesh: Mesh, rest: Rest) -> None:
    buy_all(rest, mesh.new_strategy())
    audit = rest.ok("GET", "/audit")
    assert audit["balanced"] is True
    assert audit["books"] >= 6
    assert audit["differences"] == []
