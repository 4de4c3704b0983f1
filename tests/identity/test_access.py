"""Who may call what: every method of the contract, by every role."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest

from efficientfrontier.v1.access_pb2 import ACCESS_UNSPECIFIED, access
from efficientfrontier.v1.order_service_pb2 import Order
from services.portfolio.commands import UpsertPortfolio
from services.portfolio.rpc.admission import Admission
from services.portfolio.rpc.tokens import Tokens
from tests.identity.desk import METHODS, A, B, Desk, Keyring, new_request, served
from tests.ports.stores import memory_store

# What is not here, every role may call. A new method belongs where the contract puts it.
OWN = {"BuyAll", "SellAll", "CreateOrder", "UpdateOrderStatus", "HaltStrategy", "ReportPrices"}
OPERATE = {
    "SetPosition",
    "DeletePosition",
    "AssignPosition",
    "UpsertPortfolio",
    "ResumeStrategy",
    "ReviewStrategy",
    "SetLimits",
    "HaltPortfolio",
    "ResumePortfolio",
    "SetAllocation",
    "PlanAllocation",
    "Rebalance",
}
BY_NAME = sorted(OWN - {"UpdateOrderStatus"})
ROLES = {"reader": f"reader/{A}", "strategy": f"strategy/{A}", "operator": "operator/alice"}
NO_MESSAGE = b"\xff"
DENIED = grpc.StatusCode.PERMISSION_DENIED
FIELDS: dict[str, Any] = {"symbol": "SPXL", "side": Order.BUY, "quantity": 1.0, "price": 2.0}


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys.json")


@pytest.fixture
async def desk(keyring: Keyring) -> AsyncIterator[Desk]:
    """A router whose orders stay PENDING, with strategies A and B; audited in the end."""
    admission = Admission(Tokens(keyring.path, "efficientfrontier").identify)
    store = memory_store()
    async with served(store, admission, by_hand=True) as one:
        for name in (A, B):
            await one.router.writer.submit(UpsertPortfolio(name, Decimal(1000)))
        yield one
        assert (await store.reads.audit())[1] == []


def test_every_method_has_a_rule_of_its_own() -> None:
    for name, method in METHODS.items():
        assert method.GetOptions().HasExtension(access), f"{name} has no option (access)"
        assert method.GetOptions().Extensions[access] != ACCESS_UNSPECIFIED, name
    assert set(METHODS) >= OWN | OPERATE


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_call_what_its_rule_says(desk: Desk, keyring: Keyring, role: str) -> None:
    headers = keyring.header(ROLES[role])
    shut = {"reader": OWN | OPERATE, "strategy": OPERATE, "operator": set()}[role]
    for name in METHODS:
        # Bytes that are no message: who may not call is told so before they are read.
        refused = await desk.refused(name, headers, raw=NO_MESSAGE)
        if name in shut:
            assert (refused.code, refused.reason) == (DENIED, "NOT_ALLOWED"), name
            assert refused.message.startswith(f"{ROLES[role]} may not call {name}. ")
            assert refused.figures == {"actor": ROLES[role]}
        else:
            assert refused.reason == "MALFORMED_REQUEST", name


@pytest.mark.parametrize("name", BY_NAME)
async def test_a_strategy_trades_as_itself_alone(desk: Desk, keyring: Keyring, name: str) -> None:
    mine = keyring.header(f"strategy/{A}")
    for other in (B, "Nobody", A.lower(), "", "x" * 100_000):
        refused = await desk.refused(name, mine, strategy_name=other, **FIELDS)
        assert (refused.code, refused.reason) == (DENIED, "NOT_ALLOWED")
        assert len(refused.message) < 400
    refused = await desk.refused(name, mine, strategy_name=B, **FIELDS)
    assert refused.message == (
        f"strategy/{A} may not trade as {B}. It may read everything and trade as {A}; the rest is "
        "for operators."
    )
    assert (await desk.refused(name, mine, strategy_name=A, **FIELDS)).reason != "NOT_ALLOWED"
    operator = keyring.header("operator/alice")
    assert (await desk.refused(name, operator, strategy_name=B, **FIELDS)).reason != "NOT_ALLOWED"


async def place(desk: Desk, keyring: Keyring, name: str, request_id: str = "") -> str:
    """Has a strategy order; the order's id."""
    headers = keyring.header(f"strategy/{name}")
    order = await desk.call(
        "CreateOrder", headers, strategy_name=name, request_id=request_id, **FIELDS
    )
    assert order.status == Order.PENDING
    order_id: str = order.order_id
    return order_id


async def test_a_strategy_cancels_its_own_orders_alone(desk: Desk, keyring: Keyring) -> None:
    order_id = await place(desk, keyring, A)
    ask: dict[str, Any] = {
        "order_id": order_id,
        "status": Order.CANCELLED,
        "request_id": "cancel-1",
    }
    refused = await desk.refused("UpdateOrderStatus", keyring.header(f"strategy/{B}"), **ask)
    assert (refused.code, refused.reason) == (DENIED, "NOT_ALLOWED")
    assert refused.message.startswith(f"strategy/{B} may not change an order of {A}. ")
    assert (await desk.call("GetOrder", keyring.header("reader/r"), order_id=order_id)).status == (
        Order.PENDING
    )
    done = await desk.call("UpdateOrderStatus", keyring.header(f"strategy/{A}"), **ask)
    assert done.status == Order.CANCELLED


async def test_a_repeated_request_tells_another_strategy_nothing(
    desk: Desk, keyring: Keyring
) -> None:
    mine, others = keyring.header(f"strategy/{A}"), keyring.header(f"strategy/{B}")
    order_id = await place(desk, keyring, A, request_id="place-1")
    ask: dict[str, Any] = {
        "order_id": order_id,
        "status": Order.CANCELLED,
        "request_id": "cancel-1",
    }
    first = await desk.call("UpdateOrderStatus", mine, **ask)
    assert await desk.call("UpdateOrderStatus", mine, **ask) == first
    assert await desk.call("UpdateOrderStatus", keyring.header("operator/o"), **ask) == first
    assert (await desk.refused("UpdateOrderStatus", others, **ask)).reason == "NOT_ALLOWED"
    mimicked: dict[str, Any] = {"strategy_name": A, "request_id": "place-1", **FIELDS}
    assert (await desk.refused("CreateOrder", others, **mimicked)).reason == "NOT_ALLOWED"
    own = mimicked | {"strategy_name": B}
    assert (await desk.refused("CreateOrder", others, **own)).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    "report",
    [
        {"status": Order.EXECUTED},
        {"status": Order.REJECTED},
        {"status": Order.UNKNOWN},
        {"status": Order.STATUS_UNSPECIFIED},
        {"status": Order.CANCELLED, "filled_quantity": 1.0, "average_fill_price": 2.0},
        {"status": Order.CANCELLED, "filled_quantity": 0.0},
        {"status": Order.CANCELLED, "commission": 0.0},
        {"status": Order.CANCELLED, "average_fill_price": 1.0},
    ],
)
async def test_what_became_of_an_order_is_for_operators_to_report(
    desk: Desk, keyring: Keyring, report: dict[str, Any]
) -> None:
    order_id = await place(desk, keyring, A)
    refused = await desk.refused(
        "UpdateOrderStatus", keyring.header(f"strategy/{A}"), order_id=order_id, **report
    )
    assert (refused.code, refused.reason) == (DENIED, "NOT_ALLOWED")
    assert "only cancel it" in refused.message
    by_operator = await desk.refused(
        "UpdateOrderStatus", keyring.header("operator/o"), order_id=order_id, **report
    )
    assert by_operator.reason != "NOT_ALLOWED"


async def test_a_strategy_may_flatten_itself(desk: Desk, keyring: Keyring) -> None:
    halted = await desk.call(
        "HaltStrategy", keyring.header(f"strategy/{A}"), strategy_name=A, flatten=True
    )
    assert halted.strategy_name == A
    events = await desk.call("ListRiskEvents", keyring.header("reader/r"))
    assert {event.actor for event in events.events} == {f"strategy/{A}"}


async def test_who_is_refused_is_told_that_before_what_else_is_wrong(
    desk: Desk, keyring: Keyring
) -> None:
    wrong: dict[str, Any] = {"strategy_name": B, "symbol": "", "price": -1.0}
    refused = await desk.refused("BuyAll", keyring.header(f"strategy/{A}"), **wrong)
    assert refused.reason == "NOT_ALLOWED"
    assert (await desk.refused("BuyAll", **wrong)).reason == "CREDENTIALS_MISSING"


async def test_without_auth_everybody_is_anonymous_and_may_do_everything() -> None:
    async with served(memory_store()) as desk:
        for name in METHODS:
            raw = NO_MESSAGE
            headers = (("authorization", "Bearer forged"), ("x-forwarded-client-cert", "URI=x"))
            assert (await desk.refused(name, headers, raw=raw)).reason == "MALFORMED_REQUEST"
        request = new_request("UpsertPortfolio", strategy_name=A, cash=10.0)
        await desk.send("UpsertPortfolio", request.SerializeToString())
        (made,) = (await desk.call("ListMutations")).mutations
        assert (made.actor, made.method) == ("anonymous", "UpsertPortfolio")
