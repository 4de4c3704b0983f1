"""Native gRPC, grpc-web and CORS through the real Envoy, on the port that REST has too."""

import base64
import json
import re
from typing import Any

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from efficientfrontier.v1.order_service_pb2 import BuyAllRequest, Order, WatchOrdersRequest
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.position_service_pb2 import SetPositionRequest
from efficientfrontier.v1.position_service_pb2_grpc import PositionServiceStub
from tests.envoy.door import Door, MakeDoor

BUY_ALL = "/efficientfrontier.v1.OrderService/BuyAll"
PAGE = {"origin": "http://localhost:3000"}


def test_a_native_call_arrives_with_its_deadline_and_metadata(door: Door) -> None:
    with door.channel as channel:
        order, call = OrderServiceStub(channel).BuyAll.with_call(
            BuyAllRequest(strategy_name="A", price=1.5), timeout=50, metadata=(("x-mine", "yes"),)
        )

    told = dict(call.initial_metadata())
    assert order.price == 1.5
    assert 40 < float(told["x-echo-seconds-left"]) <= 50
    assert json.loads(told["x-echo-metadata"])["x-mine"] == "yes"
    assert told["x-request-id"] == json.loads(told["x-echo-metadata"])["x-request-id"]


def test_a_native_error_keeps_its_status_message_and_details(door: Door) -> None:
    with door.channel as channel, pytest.raises(grpc.RpcError) as caught:
        OrderServiceStub(channel).BuyAll(BuyAllRequest(strategy_name="Broke"), timeout=10)

    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "Buying 10 SPXL needs 1505.00 USD; 12.00 USD is free."
    trailers: Any = caught.value.trailing_metadata()
    assert b"INSUFFICIENT_CASH" in dict(trailers)["grpc-status-details-bin"]


def test_a_native_call_of_an_unknown_method_is_unimplemented(door: Door) -> None:
    with door.channel as channel:
        fly = channel.unary_unary(
            "/efficientfrontier.v1.OrderService/Fly",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        with pytest.raises(grpc.RpcError) as caught:
            fly(b"", timeout=10)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_native_message_over_1_mib_passes(door: Door) -> None:
    with door.channel as channel:
        request = SetPositionRequest(symbol="A", reason="x" * 2_000_000)
        _, call = PositionServiceStub(channel).SetPosition.with_call(request, timeout=20)

    assert call.code() is grpc.StatusCode.OK


def test_a_native_watch_streams(make_door: MakeDoor) -> None:
    with make_door(1).channel as channel:
        events = OrderServiceStub(channel).WatchOrders(
            WatchOrdersRequest(strategy_name="A"), timeout=10
        )
        assert next(events).order.strategy_name == "A"
        events.cancel()


def test_reflection_and_health_pass(door: Door) -> None:
    with door.channel as channel:
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        stub: Any = health_pb2_grpc.HealthStub(channel)
        health = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)

    assert {"efficientfrontier.v1.OrderService", "efficientfrontier.v1.BrokerService"} <= {
        *services
    }
    assert health.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("text", [False, True])
def test_a_browser_calls_grpc_web(door: Door, text: bool) -> None:
    message = BuyAllRequest(strategy_name="A", price=1.5).SerializeToString()
    frame = b"\x00" + len(message).to_bytes(4, "big") + message
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"

    response = requests.post(
        door.url + BUY_ALL,
        data=base64.b64encode(frame) if text else frame,
        headers=PAGE | {"content-type": kind, "accept": kind, "x-grpc-web": "1"},
        timeout=10,
    )

    # As text, each part is encoded, and padded, by itself.
    parts = re.findall(rb"[^=]+=*", response.content) if text else []
    answer = b"".join(map(base64.b64decode, parts)) or response.content
    size = int.from_bytes(answer[1:5], "big")
    assert Order.FromString(answer[5 : 5 + size]).price == 1.5
    trailers = answer[5 + size :]
    assert trailers[:1] == b"\x80"
    assert b"grpc-status:0" in trailers
    assert response.headers["access-control-allow-origin"] == PAGE["origin"]


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("POST", "/orders/buy_all"),
        ("GET", "/orders"),
        ("PUT", "/orders/1/status"),
        ("DELETE", "/positions/1"),
        ("POST", BUY_ALL),
        ("GET", "/orders:watch"),
    ],
)
def test_a_page_of_this_machine_may_call(door: Door, verb: str, path: str) -> None:
    asked = {"access-control-request-method": verb}

    preflight = requests.options(door.url + path, headers=PAGE | asked, timeout=10)

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE["origin"]
    assert verb in preflight.headers["access-control-allow-methods"].split(", ")
    assert "x-grpc-web" in preflight.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "null"]
)
def test_a_page_of_another_origin_may_not_call(door: Door, origin: str) -> None:
    asked = {"origin": origin, "access-control-request-method": "POST"}

    preflight = requests.options(door.url + "/orders", headers=asked, timeout=10)

    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers
