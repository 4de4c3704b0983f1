"""What people use beside REST: stubs in a notebook, grpcurl or buf curl, health."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from efficientfrontier.v1.order_service_pb2 import BuyAllRequest, Order
from efficientfrontier.v1.portfolio_service_pb2 import GetInvestedRequest
from tests.e2e.stubs import stubs_on
from tests.support.mesh import Mesh

BUF = Path(sys.executable).with_name("buf")


def test_generated_stubs_trade_through_port_8000s_envoy(mesh: Mesh) -> None:
    name = mesh.new_strategy(cash=100)
    with stubs_on(mesh.grpc_address) as stubs:
        order = stubs.orders.BuyAll(BuyAllRequest(strategy_name=name, symbol="SPXL", price=10))
        assert (order.quantity, order.status) == (10, Order.EXECUTED)
        invested = stubs.portfolio.GetInvested(GetInvestedRequest(strategy_name=name))
        assert list(invested.symbols) == ["SPXL"]


def test_a_grpc_error_carries_one_error_info_and_the_bad_fields(mesh: Mesh) -> None:
    with stubs_on(mesh.grpc_address) as stubs, pytest.raises(grpc.RpcError) as refused:
        stubs.orders.BuyAll(BuyAllRequest(strategy_name="a b", symbol="SPXL", price=-1))
    error = refused.value
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    packed = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(bytes(packed))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.domain, info.reason) == ("efficientfrontier", "INVALID_FIELD")
    assert {v.field for v in bad.field_violations} == {"strategy_name", "price"}


def test_curl_by_reflection_needs_no_proto_files(mesh: Mesh) -> None:
    name = mesh.new_strategy(cash=100)
    method = "efficientfrontier.v1.OrderService/BuyAll"
    ran = subprocess.run(
        [
            str(BUF),
            "curl",
            "--http2-prior-knowledge",
            "--protocol=grpc",
            "-d",
            json.dumps({"strategy_name": name, "symbol": "SPXL", "price": 10}),
            f"http://{mesh.grpc_address}/{method}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["status"] == "EXECUTED"


def test_health_is_the_standard_one(mesh: Mesh) -> None:
    with grpc.insecure_channel(mesh.grpc_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "efficientfrontier.v1.OrderService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
