"""Races, through Envoy, as races."""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import requests

from tests.e2e.rest import TIMEOUT_S, Rest
from tests.support.mesh import Mesh

CALLERS = 16
T = TypeVar("T")


def at_once(call: Callable[[], T]) -> list[T]:
    """What 16 callers get who all call in the same moment."""
    barrier = threading.Barrier(CALLERS)

    def one() -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(CALLERS) as pool:
        return [future.result() for future in [pool.submit(one) for _ in range(CALLERS)]]


def test_sixteen_racing_buy_all_leave_one_order(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=1_000)
    body = {"strategy_name": name, "symbol": "SPXL", "price": 10}
    answers = at_once(lambda: rest.raw("POST", "/orders/buy_all", body))
    assert sorted(a.status_code for a in answers) == [200] + [400] * (CALLERS - 1)
    losers = [a.json() for a in answers if a.status_code == 400]
    assert {error["details"][0]["reason"] for error in losers} == {"INSUFFICIENT_CASH"}
    assert {error["details"][0]["metadata"]["free"] for error in losers} == {"0.00"}
    assert len(rest.ok("GET", "/orders", strategy=name)["orders"]) == 1
    assert rest.ok("GET", "/audit")["balanced"] is True


def test_sixteen_racing_repeats_of_one_request_leave_one_order(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=1_000)
    body = {"strategy_name": name, "symbol": "A", "price": 10, "request_id": str(uuid.uuid4())}
    answers = at_once(lambda: rest.raw("POST", "/orders/buy_all", body))
    assert [a.status_code for a in answers] == [200] * CALLERS
    assert len({a.text for a in answers}) == 1
    assert len(rest.ok("GET", "/orders", strategy=name)["orders"]) == 1


def test_sixteen_racing_sells_sell_no_more_than_is_held(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy(cash=100)
    order = {"strategy_name": name, "symbol": "A", "price": 10}
    rest.ok("POST", "/orders/buy_all", order)
    answers = at_once(lambda: rest.raw("POST", "/orders", {**order, "side": "SELL", "quantity": 3}))
    assert sorted(a.status_code for a in answers) == [200] * 3 + [400] * (CALLERS - 3)
    (position,) = rest.ok("GET", "/positions", strategy=name)["positions"]
    assert position["quantity"] == 1


def test_sixteen_racing_creations_of_one_strategy_book_its_cash_once(
    mesh: Mesh, rest: Rest
) -> None:
    name = f"Raced_{uuid.uuid4().hex[:12]}"
    answers = at_once(
        lambda: requests.post(
            f"{mesh.rest_url}/portfolio",
            json={"strategy_name": name, "cash": 500},
            timeout=TIMEOUT_S,
        )
    )
    assert {a.status_code for a in answers} == {200}
    assert rest.ok("GET", f"/portfolio/{name}")["cash"] == 500
    assert rest.ok("GET", "/audit")["balanced"] is True
