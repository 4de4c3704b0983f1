"""The peer gives the documented answers on the paths it has: it is a fair thing to measure by."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.systems import Database, peer

NAME = "IncredibleLeverage_SPXL"


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


@pytest.fixture
def url(database: Database, tmp_path: Path) -> Iterator[str]:
    with peer(database, tmp_path) as url:
        post(f"{url}/portfolio", strategy_name=NAME, cash=1000.5)
        yield url


def post(url: str, **body: object) -> requests.Response:
    return requests.post(url, json=body, timeout=30)


def order(**changes: object) -> dict[str, object]:
    named = {"strategy_name": NAME, "symbol": "SPXL", "side": "BUY", "quantity": 2, "price": 100.25}
    return named | changes


def cash(url: str) -> float:
    shown: float = requests.get(f"{url}/portfolio/{NAME}", timeout=30).json()["cash"]
    return shown


def reason(answer: requests.Response) -> tuple[int, int, str]:
    body: dict[str, Any] = answer.json()
    assert body["message"]
    return answer.status_code, body["code"], body["details"][0]["reason"]


def test_an_order_is_executed_at_its_price_and_leaves_its_facts(
    url: str, database: Database
) -> None:
    shown = post(f"{url}/orders", **order()).json()

    assert shown["status"] == "EXECUTED"
    assert shown["mode"] == "PAPER"
    assert (shown["quantity"], shown["filled_quantity"]) == (2, 2)
    assert (shown["price"], shown["average_fill_price"]) == (100.25, 100.25)
    assert set(shown) == {
        *("order_id", "strategy_name", "symbol", "side", "quantity", "price", "status", "mode"),
        *("filled_quantity", "average_fill_price", "commission", "reason", "request_id"),
        *("create_time", "update_time"),
    }
    assert cash(url) == 800
    assert database.ask("SELECT quantity, price FROM fills") == "2.00000000|100.25000000"
    entries = database.ask("SELECT kind, amount FROM cash_entries ORDER BY entry_id")
    assert entries == "ADJUSTMENT|1000.50000000\nBUY|-200.50000000"
    held = database.ask("SELECT quantity, average_cost FROM positions")
    assert held == "2.00000000|100.25000000"


def test_buy_all_spends_on_whole_shares_and_sell_all_sells_them(url: str) -> None:
    bought = post(f"{url}/orders/buy_all", strategy_name=NAME, symbol="SPXL", price=300).json()
    sold = post(f"{url}/orders/sell_all", strategy_name=NAME, symbol="SPXL", price=310).json()

    assert (bought["side"], bought["quantity"]) == ("BUY", 3)
    assert (sold["side"], sold["quantity"]) == ("SELL", 3)
    assert cash(url) == 1030.5


def test_invested_is_true_while_shares_are_held(url: str) -> None:
    def invested() -> object:
        return requests.get(f"{url}/portfolio/{NAME}/invested", timeout=30).json()

    flat = {"strategy_name": NAME, "invested": False, "mode": "PAPER", "symbols": []}
    assert invested() == flat
    post(f"{url}/orders", **order())
    assert invested() == flat | {"invested": True, "symbols": ["SPXL"]}
    post(f"{url}/orders/sell_all", strategy_name=NAME, symbol="SPXL", price=1)
    assert invested() == flat


def test_orders_are_listed_newest_first_in_pages(url: str) -> None:
    ids = [post(f"{url}/orders", **order(quantity=1)).json()["order_id"] for _ in range(3)]

    first = requests.get(f"{url}/orders?strategy={NAME}&page_size=2", timeout=30).json()
    token = first["next_page_token"]
    second = requests.get(f"{url}/orders?page_size=2&page_token={token}", timeout=30).json()
    none = requests.get(f"{url}/orders?strategy=Other", timeout=30).json()

    assert [o["order_id"] for o in first["orders"]] == ids[:0:-1]
    assert [o["order_id"] for o in second["orders"]] == ids[:1]
    assert second["next_page_token"] == ""
    assert none == {"orders": [], "next_page_token": ""}


def test_what_cannot_be_done_is_refused_with_its_reason(url: str) -> None:
    sell = {"strategy_name": NAME, "symbol": "SPXL", "price": 1}

    assert reason(post(f"{url}/orders", **order(price=-1))) == (400, 3, "INVALID_FIELD")
    assert reason(post(f"{url}/orders", **order(price="NaN"))) == (400, 3, "INVALID_FIELD")
    assert reason(requests.get(f"{url}/orders?strat=x", timeout=30)) == (400, 3, "INVALID_FIELD")
    unknown = post(f"{url}/orders", **order(strategy_name="Nobody"))
    assert reason(unknown) == (404, 5, "STRATEGY_NOT_FOUND")
    assert reason(post(f"{url}/orders", **order(quantity=99))) == (400, 9, "INSUFFICIENT_CASH")
    assert reason(post(f"{url}/orders", **order(side="SELL"))) == (400, 9, "INSUFFICIENT_SHARES")
    assert reason(post(f"{url}/orders/sell_all", **sell)) == (400, 9, "NOTHING_TO_SELL")
    dear = post(f"{url}/orders/buy_all", strategy_name=NAME, symbol="SPXL", price=2000)
    assert reason(dear) == (400, 9, "INSUFFICIENT_CASH")
    assert cash(url) == 1000.5


def test_racing_buy_alls_leave_one_order(url: str, database: Database) -> None:
    body = {"strategy_name": NAME, "symbol": "SPXL", "price": 1000}

    with ThreadPoolExecutor(16) as racing:
        answers = list(racing.map(lambda _: post(f"{url}/orders/buy_all", **body), range(16)))

    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 15
    assert database.orders() == 1
    assert cash(url) == 0.5


def test_racing_retries_of_one_request_id_leave_one_order(url: str, database: Database) -> None:
    body = order(request_id="once")

    with ThreadPoolExecutor(16) as racing:
        answers = list(racing.map(lambda _: post(f"{url}/orders", **body), range(16)))

    assert len({answer.json()["order_id"] for answer in answers}) == 1
    assert database.orders() == 1
    other = post(f"{url}/orders", **order(request_id="once", price=1))
    assert reason(other) == (409, 6, "REQUEST_ID_REUSED")
