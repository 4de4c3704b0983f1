"""What bad input gets: the very JSON, and nothing written."""

import uuid
from typing import Any

import pytest
import requests

from tests.e2e.rest import TIMEOUT_S, Rest, checked_error
from tests.support.mesh import Mesh

BAD_NUMBERS: list[tuple[str, object]] = [
    ("missing", None),
    ("zero", 0),
    ("negative", -1),
    ("NaN", "NaN"),
    ("infinite", "Infinity"),
    ("minus infinity", "-Infinity"),
    ("too large", 1e10),
    ("over 15 significant digits", 1.234567890123456),
    ("over 8 decimals", 0.123456789),
]


def snapshot(rest: Rest, name: str) -> Any:
    portfolio = rest.ok("GET", f"/portfolio/{name}")
    del portfolio["weight"]  # other tests' strategies change it
    return (
        portfolio,
        rest.ok("GET", "/orders", strategy=name),
        rest.ok("GET", "/positions", strategy=name),
    )


@pytest.mark.parametrize(("what", "value"), BAD_NUMBERS, ids=[what for what, _ in BAD_NUMBERS])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/orders/buy_all", "price"),
        ("/orders/sell_all", "price"),
        ("/orders", "price"),
        ("/orders", "quantity"),
        ("/positions", "quantity"),
        ("/positions", "average_cost"),
    ],
)
def test_a_bad_number_is_an_invalid_field_and_writes_nothing(
    mesh: Mesh, rest: Rest, path: str, field: str, what: str, value: object
) -> None:
    name = mesh.new_strategy()
    rest.ok(
        "POST",
        "/orders",
        {"strategy_name": name, "symbol": "SPXL", "side": "BUY", "quantity": 5, "price": 1},
    )
    before = snapshot(rest, name)
    good: dict[str, object] = {
        "/orders": {"side": "BUY", "quantity": 1, "price": 1},
        "/positions": {"quantity": 1, "average_cost": 1},
    }.get(path, {"price": 1})  # type: ignore[assignment]
    body = {"strategy_name": name, "symbol": "SPXL", **good, field: value}
    error = rest.error(400, "POST", path, body)
    assert (error["code"], error["reason"]) == (3, "INVALID_FIELD")
    assert error["metadata"]["field"] == field
    assert field in error["message"]
    assert snapshot(rest, name) == before


@pytest.mark.parametrize("bad", ["", "9lives", "a b", "x" * 65, "naïve", "a/b", "semi;colon"])
def test_a_bad_strategy_name_is_an_invalid_field(rest: Rest, bad: str) -> None:
    body = {"strategy_name": bad, "symbol": "SPXL", "price": 1}
    error = rest.error(400, "POST", "/orders/buy_all", body)
    assert error["reason"] == "INVALID_FIELD"
    assert error["metadata"]["field"] == "strategy_name"


@pytest.mark.parametrize("bad", ["", "spxl", "A B", "X" * 17, ".A", "Ä"])
def test_a_bad_symbol_is_an_invalid_field(mesh: Mesh, rest: Rest, bad: str) -> None:
    body = {"strategy_name": mesh.new_strategy(), "symbol": bad, "price": 1}
    error = rest.error(400, "POST", "/orders/buy_all", body)
    assert error["reason"] == "INVALID_FIELD"
    assert error["metadata"]["field"] == "symbol"


def test_an_empty_name_in_the_path_is_an_invalid_field(rest: Rest) -> None:
    assert rest.error(400, "GET", "/portfolio//invested")["metadata"]["field"] == "strategy_name"


def test_text_that_is_not_utf8_is_a_bad_request(rest: Rest) -> None:
    assert rest.error(400, "GET", "/portfolio/%ff/invested")["reason"] == "MALFORMED_REQUEST"


@pytest.mark.parametrize(
    ("method", "path", "query", "field"),
    [
        ("GET", "/orders", {"page_size": -1}, "page_size"),
        ("GET", "/orders", {"strategy": "a b"}, "strategy_name"),
        ("GET", "/orders", {"symbol": "a b"}, "symbol"),
        ("GET", "/orders/not-a-uuid", {}, "order_id"),
        ("DELETE", "/positions/not-a-uuid", {}, "position_id"),
    ],
)
def test_a_bad_filter_or_id_is_an_invalid_field(
    rest: Rest, method: str, path: str, query: dict[str, object], field: str
) -> None:
    error = rest.error(400, method, path, **query)
    assert (error["reason"], error["metadata"]["field"]) == ("INVALID_FIELD", field)


@pytest.mark.parametrize("side", ["HOLD", "SIDE_UNSPECIFIED", None, 7])
def test_a_bad_side_is_refused(mesh: Mesh, rest: Rest, side: object) -> None:
    body = {"strategy_name": mesh.new_strategy(), "symbol": "A", "quantity": 1, "price": 1}
    error = rest.error(400, "POST", "/orders", {**body, "side": side})
    assert error["code"] == 3
    assert error["reason"] in {"INVALID_FIELD", "MALFORMED_REQUEST"}


def test_a_bad_enum_in_a_filter_is_refused(rest: Rest) -> None:
    error = rest.error(400, "GET", "/orders", status="FINISHED")
    assert error["code"] == 3


@pytest.mark.parametrize("token", ["nonsense", "WyJhIl0=", "%%%", "e30="])
def test_a_bad_page_token_is_refused(rest: Rest, token: str) -> None:
    error = rest.error(400, "GET", "/orders", page_token=token)
    assert (error["reason"], error["metadata"]["field"]) == ("INVALID_PAGE_TOKEN", "page_token")
    assert rest.error(400, "GET", "/positions", page_token=token)["code"] == 3


def test_a_page_token_of_other_filters_is_refused(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    body = {"strategy_name": name, "symbol": "A", "side": "BUY", "quantity": 1, "price": 1}
    for _ in range(2):
        rest.ok("POST", "/orders", body)
    token = rest.ok("GET", "/orders", strategy=name, page_size=1)["next_page_token"]
    error = rest.error(400, "GET", "/orders", page_size=1, page_token=token)
    assert error["reason"] == "INVALID_PAGE_TOKEN"


def test_a_nul_in_a_reason_is_an_invalid_field(mesh: Mesh, rest: Rest) -> None:
    body = {"strategy_name": mesh.new_strategy(), "cash": 5, "reason": "a\0b"}
    error = rest.error(400, "POST", "/portfolio", body)
    assert (error["reason"], error["metadata"]["field"]) == ("INVALID_FIELD", "reason")
    assert "without NUL" in error["message"]


def test_an_amount_beyond_what_a_book_holds_is_refused(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=1e12)
    before = snapshot(rest, name)
    body = {"strategy_name": name, "symbol": "A", "price": 1e-8}
    error = rest.error(400, "POST", "/orders/buy_all", body)
    assert (error["code"], error["reason"]) == (9, "AMOUNT_TOO_LARGE")
    assert snapshot(rest, name) == before


def test_a_fill_worth_nothing_is_refused(mesh: Mesh, rest: Rest) -> None:
    order = {"strategy_name": mesh.new_strategy(), "symbol": "A", "side": "BUY"}
    error = rest.error(400, "POST", "/orders", {**order, "quantity": 1e-8, "price": 1e-8})
    assert (error["code"], error["reason"]) == (9, "ILLEGAL_FILL")


UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("method", "path", "body", "reason", "hint"),
    [
        ("GET", "/portfolio/Nobody", None, "STRATEGY_NOT_FOUND", "POST /portfolio"),
        ("GET", "/portfolio/Nobody/invested", None, "STRATEGY_NOT_FOUND", "POST /portfolio"),
        ("POST", "/portfolio/Nobody:halt", {}, "STRATEGY_NOT_FOUND", "POST /portfolio"),
        (
            "POST",
            "/orders/buy_all",
            {"strategy_name": "Nobody", "symbol": "A", "price": 1},
            "STRATEGY_NOT_FOUND",
            "POST /portfolio",
        ),
        (
            "POST",
            "/prices",
            {"strategy_name": "Nobody", "prices": [{"symbol": "A", "price": 1}]},
            "STRATEGY_NOT_FOUND",
            "POST /portfolio",
        ),
        ("GET", f"/orders/{UNKNOWN_ID}", None, "ORDER_NOT_FOUND", "GET /orders"),
        (
            "PUT",
            f"/orders/{UNKNOWN_ID}/status",
            {"status": "CANCELLED"},
            "ORDER_NOT_FOUND",
            "GET /orders",
        ),
        ("DELETE", f"/positions/{UNKNOWN_ID}", None, "POSITION_NOT_FOUND", "POST /positions"),
    ],
)
def test_what_does_not_exist_is_not_found_and_says_how_to_create_it(
    rest: Rest, method: str, path: str, body: object, reason: str, hint: str
) -> None:
    error = rest.error(404, method, path, body)
    assert (error["code"], error["reason"]) == (5, reason)
    assert hint in error["message"]


def test_not_enough_cash_for_one_share_gives_the_figures(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=12)
    before = snapshot(rest, name)
    body = {"strategy_name": name, "symbol": "SPXL", "price": 150.5}
    error = rest.error(400, "POST", "/orders/buy_all", body)
    assert (error["code"], error["reason"]) == (9, "INSUFFICIENT_CASH")
    assert error["metadata"] == {"needed": "150.50", "free": "12.00"}
    assert "Buying 1 SPXL needs 150.50 USD; 12.00 USD is free." in error["message"]
    assert snapshot(rest, name) == before


def test_nothing_to_sell_is_said(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    body = {"strategy_name": name, "symbol": "SPXL", "price": 1}
    error = rest.error(400, "POST", "/orders/sell_all", body)
    assert (error["code"], error["reason"]) == (9, "NOTHING_TO_SELL")
    assert error["metadata"] == {
        "strategy_name": name,
        "symbol": "SPXL",
        "held": "0",
        "free": "0",
    }


def test_selling_more_than_held_gives_the_figures(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    order = {"strategy_name": name, "symbol": "SPXL", "price": 1}
    rest.ok("POST", "/orders", {**order, "side": "BUY", "quantity": 3})
    before = snapshot(rest, name)
    error = rest.error(400, "POST", "/orders", {**order, "side": "SELL", "quantity": 4})
    assert error["reason"] == "INSUFFICIENT_SHARES"
    assert error["metadata"] == {"symbol": "SPXL", "wanted": "4", "held": "3", "free": "3"}
    assert snapshot(rest, name) == before


def test_a_status_change_that_the_table_forbids_is_refused(mesh: Mesh, rest: Rest) -> None:
    order = rest.ok(
        "POST",
        "/orders/buy_all",
        {"strategy_name": mesh.new_strategy(), "symbol": "SPXL", "price": 10},
    )
    path = f"/orders/{order['order_id']}/status"
    for status in ("PENDING", "CANCELLED", "REJECTED", "UNKNOWN"):
        error = rest.error(400, "PUT", path, {"status": status})
        assert (error["code"], error["reason"]) == (9, "ILLEGAL_STATUS_CHANGE")
        assert error["metadata"]["status"] == "EXECUTED"
    assert rest.ok("GET", f"/orders/{order['order_id']}") == order


def test_a_halted_strategy_is_refused(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    rest.ok("POST", f"/portfolio/{name}:halt", {"reason": "drawdown"})
    for path, more in (
        ("/orders/buy_all", {}),
        ("/orders/sell_all", {}),
        ("/orders", {"side": "BUY", "quantity": 1}),
    ):
        body = {"strategy_name": name, "symbol": "SPXL", "price": 1, **more}
        error = rest.error(400, "POST", path, body)
        assert (error["code"], error["reason"]) == (9, "STRATEGY_HALTED")
        assert error["metadata"]["halt_reason"] == "drawdown"


def test_a_request_id_with_another_body_or_method_already_exists(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    rid = str(uuid.uuid4())
    body = {"strategy_name": name, "symbol": "SPXL", "price": 10, "request_id": rid}
    rest.ok("POST", "/orders/buy_all", body)
    before = snapshot(rest, name)
    for path, other in (
        ("/orders/buy_all", {**body, "price": 11}),
        ("/orders/sell_all", body),
        ("/portfolio", {"strategy_name": name, "cash": 1, "request_id": rid}),
    ):
        error = rest.error(409, "POST", path, other)
        assert (error["code"], error["reason"]) == (6, "REQUEST_ID_REUSED")
        assert error["metadata"] == {"request_id": rid, "first_method": "BuyAll"}
    assert snapshot(rest, name) == before


def test_malformed_json_is_a_400(rest: Rest) -> None:
    answer = requests.post(
        f"{rest.url}/orders/buy_all",
        data='{"strategy_name": ',
        headers={"content-type": "application/json"},
        timeout=TIMEOUT_S,
    )
    assert answer.status_code == 400
    error = checked_error(answer)
    assert (error["code"], error["reason"]) == (3, "MALFORMED_REQUEST")


def test_an_unknown_query_parameter_is_a_400(rest: Rest) -> None:
    error = rest.error(400, "GET", "/orders", strat="SPXL")
    assert (error["code"], error["reason"]) == (3, "UNKNOWN_QUERY_PARAMETER")


def test_a_wrong_method_is_a_405_that_names_the_right_ones(rest: Rest) -> None:
    answer = rest.raw("DELETE", "/orders")
    assert answer.status_code == 405
    assert {m.strip() for m in answer.headers["allow"].split(",")} >= {"GET", "POST"}
    assert checked_error(answer)["reason"] == "METHOD_NOT_ALLOWED"


def test_an_unknown_path_is_a_404(rest: Rest) -> None:
    error = rest.error(404, "GET", "/nowhere")
    assert (error["code"], error["reason"]) == (5, "UNKNOWN_PATH")


def test_a_body_over_one_mebibyte_is_a_413(rest: Rest) -> None:
    body = {"strategy_name": "A", "symbol": "S", "price": 1, "request_id": "x" * (1 << 20)}
    error = rest.error(413, "POST", "/orders/buy_all", body)
    assert (error["code"], error["reason"]) == (8, "BODY_TOO_LARGE")
