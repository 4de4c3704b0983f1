"""AUTH=token by REST: the real Envoy before the real router on the real database."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import requests

from efficientfrontier.v1.order_service_pb2 import BuyAllRequest
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from services.mesh.envoy import Envoy
from tests.identity.desk import A, B, Keyring
from tests.support.database import fresh_database
from tests.support.mesh import running
from tests.support.router import Router
from tests.support.waiting import wait_until

ANSWER_S = 30
BUY = {"symbol": "SPXL", "price": 2.0}
# How each method that a strategy may call as itself is called by REST.
OWN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BuyAll": ("POST", "/orders/buy_all", BUY),
    "SellAll": ("POST", "/orders/sell_all", BUY),
    "CreateOrder": ("POST", "/orders", {**BUY, "side": "BUY", "quantity": 1.0}),
    "ReportPrices": ("POST", "/prices", {"prices": [BUY]}),
    "HaltStrategy": ("POST", "/portfolio/{}:halt", {}),
}


@dataclass(frozen=True)
class Door:
    """Envoy, and who signs tokens for what is behind it."""

    url: str
    keyring: Keyring

    def send(
        self, name: str, verb: str, path: str, body: dict[str, Any] | None = None, **query: str
    ) -> requests.Response:
        """The answer to a caller, such as strategy/A; to nobody when the name is empty."""
        headers = dict(self.keyring.header(name)) if name else {}
        return requests.request(
            verb, self.url + path, json=body, params=query, headers=headers, timeout=ANSWER_S
        )


@pytest.fixture(scope="module")
def door(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A mesh with AUTH=token and without strategies; its ledger is audited in the end."""
    folder = tmp_path_factory.mktemp("door")
    keyring = Keyring(folder / "keys.json")
    environ = {
        "AUTH": "token",
        "TOKEN_KEYS": str(keyring.path),
        "RATE_LIMIT": "40",
        "PAPER_FILLS": "by_hand",
    }
    with fresh_database(postgres_url) as database_url:
        router = Router(database_url, folder / "router.log", environ)
        envoy = Envoy(0, [router.address], folder / "envoy", folder)
        with running(router, envoy):
            one = Door(f"http://127.0.0.1:{envoy.port}", keyring)
            yield one
            assert one.send("reader/audit", "GET", "/audit").json()["balanced"]


def reason(response: requests.Response) -> tuple[int, str]:
    """The status and the reason of an error, which looks like any other."""
    told = response.json()
    assert set(told) == {"code", "message", "details"}
    (info,) = [each for each in told["details"] if each["@type"].endswith("ErrorInfo")]
    assert info["domain"] == "efficientfrontier"
    return response.status_code, info["reason"]


@pytest.mark.parametrize("method", OWN)
def test_a_strategy_trades_as_itself_alone(door: Door, method: str) -> None:
    verb, path, body = OWN[method]
    named = "{}" in path
    mine, others = ({} if named else {"strategy_name": name} for name in (A, B))
    as_other = door.send(f"strategy/{A}", verb, path.format(B), body | others)
    assert reason(as_other) == (403, "NOT_ALLOWED")
    assert as_other.json()["message"].startswith(f"strategy/{A} may not trade as {B}. ")
    # A query may name another than the path or the body does: it is the message that decides.
    overriding = door.send(f"strategy/{A}", verb, path.format(A), body, strategy_name=B)
    assert reason(overriding) == (403, "NOT_ALLOWED")
    if not named:  # of two names Envoy takes neither
        both = door.send(f"strategy/{A}", verb, path, body | mine, strategy_name=B)
        assert reason(both) == (400, "MALFORMED_REQUEST")
    as_itself = door.send(f"strategy/{A}", verb, path.format(A), body | mine)
    assert as_itself.status_code == 200 or reason(as_itself)[1] in (
        "NOTHING_TO_SELL",
        "STRATEGY_HALTED",
        "INSUFFICIENT_CASH",
    )


def test_a_query_that_names_oneself_opens_no_other_path(door: Door) -> None:
    halted = door.send(f"strategy/{A}", "POST", f"/portfolio/{B}:halt", {}, strategy_name=A)
    assert (halted.status_code, halted.json()["strategy_name"]) == (200, A)
    state = door.send("reader/r", "GET", f"/portfolio/{B}").json()
    assert (state["strategy_name"], state["state"]) == (B, "ACTIVE")


def test_only_the_owner_cancels_an_order(door: Door) -> None:
    order = {**BUY, "strategy_name": B, "side": "BUY", "quantity": 1.0}
    made = door.send(f"strategy/{B}", "POST", "/orders", order).json()
    path, cancel = f"/orders/{made['order_id']}/status", {"status": "CANCELLED"}
    assert reason(door.send(f"strategy/{A}", "PUT", path, cancel)) == (403, "NOT_ALLOWED")
    report = {"status": "EXECUTED"}
    assert reason(door.send(f"strategy/{B}", "PUT", path, report)) == (403, "NOT_ALLOWED")
    done = door.send(f"strategy/{B}", "PUT", path, cancel).json()
    assert done["status"] == "CANCELLED"
    found = door.send("reader/r", "GET", "/mutations", actor=f"strategy/{B}").json()["mutations"]
    assert [(each["method"], each["subject"]) for each in found][:2] == [
        ("UpdateOrderStatus", made["order_id"]),
        ("CreateOrder", made["order_id"]),
    ]


def test_who_is_nobody_is_told_so(door: Door) -> None:
    assert reason(door.send("", "GET", "/portfolio")) == (401, "CREDENTIALS_MISSING")
    assert reason(door.send("admin/a", "GET", "/portfolio")) == (401, "CREDENTIALS_INVALID")
    forged = {
        "authorization": "Bearer x.y.z",
        "x-forwarded-client-cert": "URI=spiffe://efficientfrontier/operator/o",
    }
    for headers in ({"x-forwarded-client-cert": forged["x-forwarded-client-cert"]}, forged):
        answer = requests.get(f"{door.url}/portfolio", headers=headers, timeout=ANSWER_S)
        assert reason(answer)[0] == 401
    assert requests.get(f"{door.url}/healthz", timeout=ANSWER_S).status_code == 200
    assert requests.get(f"{door.url}/readyz", timeout=ANSWER_S).status_code == 200


def test_a_reader_reads(door: Door) -> None:
    assert door.send("reader/r", "GET", "/portfolio").status_code == 200
    for path in ("/portfolio:halt", "/portfolio:resume", "/portfolio", "/positions"):
        assert reason(door.send("reader/r", "POST", path, {})) == (403, "NOT_ALLOWED")


def test_grpc_through_envoy_is_held_to_the_same(door: Door) -> None:
    with grpc.insecure_channel(door.url.removeprefix("http://")) as channel:
        orders: Any = OrderServiceStub(channel)
        request = BuyAllRequest(strategy_name=B, symbol="SPXL", price=2.0)
        for name, code in (
            (f"strategy/{A}", grpc.StatusCode.PERMISSION_DENIED),
            ("reader/r", grpc.StatusCode.PERMISSION_DENIED),
            ("admin/a", grpc.StatusCode.UNAUTHENTICATED),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                orders.BuyAll(request, metadata=door.keyring.header(name), timeout=ANSWER_S)
            assert refused.value.code() is code


def test_too_many_calls_are_told_when_to_come_again(door: Door) -> None:
    for _ in range(1000):
        answer = door.send("reader/eager", "GET", "/broker")
        if answer.status_code != 200:
            break
    assert reason(answer) == (429, "RATE_LIMITED")
    (info,) = answer.json()["details"]
    assert 0 < float(info["metadata"]["retry_after_s"]) <= 5
    assert door.send("reader/calm", "GET", "/broker").status_code == 200


def test_the_log_says_nothing_of_tokens(door: Door) -> None:
    assert door.send("reader/r", "GET", "/portfolio").status_code == 200
    assert door.send("reader/curious", "POST", "/portfolio:halt", {}).status_code == 403
    path = door.keyring.path.parent / "router.log"

    def refused() -> list[dict[str, str]]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if "reader/curious" in line.get("why", "")]

    (line,) = wait_until(refused, 10, "the refusal is logged")
    assert (line["event"], line["method"], line["reason"]) == (
        "refused",
        "HaltPortfolio",
        "NOT_ALLOWED",
    )
    assert "eyJ" not in path.read_text()  # as every token begins
