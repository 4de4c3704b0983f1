"""The gateway as a process: killed and started again on its state, and its control interface."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from efficientfrontier.simulation.v1 import simulation_pb2 as pb
from services.gateway.control import SERVICE
from services.gateway.store import Store
from tests.gateway.client import Client, until
from tests.support.gateway import CALL_S, GatewayProcess


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path) as process:
        yield process


@asynccontextmanager
async def client_of(broker: GatewayProcess, client_id: int = 1) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(broker.port, client_id)
    client.seen_from_now()
    try:
        yield client
    finally:
        client.ib.disconnect()


async def test_orders_executions_positions_cash_and_ids_survive_a_kill(
    broker: GatewayProcess,
) -> None:
    async with client_of(broker) as client:
        client.place(ref="filled")
        await client.settled()
        broker.set_scenario("HELD")
        client.place(ref="held")
        await client.settled()
        broker.set_scenario("PARTIAL_FILLS", times=1)
        client.place(ref="part", symbol="NVDL")
        await client.settled()
        before = broker.snapshot()
        broker.restart()
        await client.dropped()
        after = broker.snapshot()
        for snapshot in (before, after):
            del snapshot.connections[:]
            for receipt in snapshot.receipts:
                receipt.ClearField("arrival_ns")  # known only until a restart
        assert after == before
        await client.connect(broker.port)
        assert client.ib.client.getReqId() > before.orders[-1].order_id
        open_orders, completed, executions = await client.evidence()
        assert [one.order.orderRef for one in open_orders] == ["held", "part"]
        assert [one.order.orderRef for one in completed] == ["filled"]
        assert [one.execution.shares for one in executions] == [10, 3]
        client.seen_from_now()
        assert broker.release() == 2
        await client.settled()
        assert client.seen.count("orderStatus Filled") == 2
        orders = broker.snapshot().orders
        assert [(one.filled, one.times_received) for one in orders] == [(10, 1)] * 3
        assert [(one.symbol, one.quantity) for one in broker.snapshot().positions] == [
            ("SPXL", 20),
            ("NVDL", 10),
        ]


async def test_an_order_that_was_about_to_fill_fills_after_the_kill(
    broker: GatewayProcess,
) -> None:
    async with client_of(broker) as client:
        broker.set_scenario("IMMEDIATE_FILL", delay_s=60)
        client.place()
        await client.settled()
        broker.restart()
        (order,) = broker.snapshot().orders
        assert (order.status, order.filled) == ("Filled", 10)
        await client.connect(broker.port)
        (fill,) = client.ib.fills()
        await until(lambda: fill.commissionReport.commission == 1, "the commission is reported")


def test_a_second_gateway_on_the_same_state_does_not_start(broker: GatewayProcess) -> None:
    second = GatewayProcess(broker.state.parent / "second")
    second.environ = {**second.environ, "GATEWAY_STATE": str(broker.state)}
    with pytest.raises(AssertionError, match="Is another gateway running on it"):
        second.start()
    assert second.exit_code() == 1


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"GATEWAY_MARKET": "fixed:SPXL=free"}, "GATEWAY_MARKET=fixed:SPXL=free does not do"),
        ({"GATEWAY_MARKET": "live"}, "choose sample, or fixed:"),
        ({"GATEWAY_PORT": "0"}, "GATEWAY_PORT=0 does not do"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    process = GatewayProcess(tmp_path, environ=environ)
    with pytest.raises(AssertionError):
        process.start()
    assert process.exit_code() == 1
    assert said in process.last_words()


def test_sigterm_ends_it_cleanly(broker: GatewayProcess) -> None:
    assert "Simulated IB Gateway ready on" in broker.output()
    broker.send(signal.SIGTERM)
    assert broker.wait() == 0


def test_the_sample_market_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    environ = {"GATEWAY_MARKET": "sample", "GATEWAY_DAY_S": "3600"}
    with GatewayProcess(tmp_path, environ=environ) as broker:
        for _ in range(3):
            broker.control.BeginNextDay(pb.BeginNextDayRequest(), timeout=CALL_S)
        trade = pb.TradeByHandRequest(symbol="SPXL", quantity=1, price=60)
        broker.control.TradeByHand(trade, timeout=CALL_S)
        broker.restart()
        assert [one.quantity for one in broker.snapshot().positions] == [1]
    store = Store(broker.state)
    assert store.shelf("market", int).all() == [3]
    store.close()


def test_control_does_what_it_is_told(broker: GatewayProcess) -> None:
    control = broker.control
    bought = pb.TradeByHandRequest(symbol="NVDL", quantity=7, price=50.25)
    execution = control.TradeByHand(bought, timeout=CALL_S)
    assert (execution.side, execution.quantity, execution.price) == ("BUY", 7, 50.25)
    right = pb.CorrectExecutionRequest(exec_id=execution.exec_id, quantity=6, price=50)
    corrected = control.CorrectExecution(right, timeout=CALL_S)
    assert corrected.exec_id.endswith(".02")
    control.Deposit(pb.DepositRequest(amount=-0.1), timeout=CALL_S)
    competing = pb.SetMarketDataRequest.COMPETING
    for method, request in (
        ("SetPrice", pb.SetPriceRequest(symbol="SPXL", price=1.5)),
        ("SetMarketClosed", pb.SetMarketClosedRequest(closed=True)),
        ("SetMarketData", pb.SetMarketDataRequest(market_data=competing)),
        ("SendNotice", pb.SendNoticeRequest(code=1100)),
        ("DropConnections", pb.DropConnectionsRequest()),
        ("RefuseConnections", pb.RefuseConnectionsRequest(refuse=True)),
        ("RefuseConnections", pb.RefuseConnectionsRequest(refuse=False)),
        ("GoSilent", pb.GoSilentRequest(silent=True)),
        ("RollBackIds", pb.RollBackIdsRequest(order_id=3)),
        ("ForgetExecutions", pb.ForgetExecutionsRequest()),
    ):
        assert getattr(control, method)(request, timeout=CALL_S) == pb.Done()
    snapshot = broker.snapshot()
    (position,) = snapshot.positions
    assert (position.symbol, position.quantity) == ("NVDL", 6)
    assert snapshot.cash == 1_000_000 - 6 * 50 - 1 - 0.1


async def test_an_order_is_filled_through_control(broker: GatewayProcess) -> None:
    async with client_of(broker) as client:
        broker.set_scenario("HELD", "SPXL", times=1)
        client.place()
        await client.settled()
        part = pb.FillOrderRequest(order_ref="ref-1", quantity=4, price=100)
        order = broker.control.FillOrder(part, timeout=CALL_S)
        assert (order.filled, order.status, order.held) == (4, "Submitted", True)
        rest = pb.FillOrderRequest(perm_id=order.perm_id, quantity=6, price=101)
        order = broker.control.FillOrder(rest, timeout=CALL_S)
        assert (order.filled, order.status, order.average_price) == (10, "Filled", 100.6)
        await client.settled()
        assert client.seen.count("commissionReport .01") == 2


def test_control_says_what_is_wrong(broker: GatewayProcess) -> None:
    no_price = float("nan")
    wrong: list[tuple[str, Message, str]] = [
        ("SetScenario", pb.SetScenarioRequest(), "INVALID_ARGUMENT"),
        ("SetPrice", pb.SetPriceRequest(symbol="SPXL", price=no_price), "INVALID_ARGUMENT"),
        ("FillOrder", pb.FillOrderRequest(quantity=1, price=1), "INVALID_ARGUMENT"),
        ("FillOrder", pb.FillOrderRequest(order_ref="no", quantity=1, price=1), "NOT_FOUND"),
        (
            "CorrectExecution",
            pb.CorrectExecutionRequest(exec_id="1", quantity=1, price=1),
            "NOT_FOUND",
        ),
    ]
    for method, request, code in wrong:
        with pytest.raises(grpc.RpcError) as caught:
            getattr(broker.control, method)(request, timeout=CALL_S)
        error: Any = caught.value
        assert (method, error.code().name) == (method, code)


def test_control_can_be_explored(broker: GatewayProcess) -> None:
    with grpc.insecure_channel(broker.control_address) as channel:
        stubs: Any = reflection_pb2_grpc
        stub = stubs.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=CALL_S)
    assert SERVICE in [one.name for one in answer.list_services_response.service]
