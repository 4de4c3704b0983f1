"""The broker over REST, on PAPER: it is off, there is nothing to compare, and bad input is told."""

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.e2e.rest import Rest
from tests.e2e.test_watch import events
from tests.support.mesh import Mesh

ASSIGN = {"symbol": "SPXL", "quantity": 1, "average_cost": 10}


def test_on_paper_the_broker_is_off(rest: Rest) -> None:
    broker = rest.ok("GET", "/broker")
    assert datetime.fromisoformat(broker.pop("since_time")) <= datetime.now(UTC)
    assert broker == {
        "state": "OFF",
        "detail": "TRADING_MODE=PAPER: no broker is used.",
        "market_data": "OK",
        "account": "",
        "account_kind": "ACCOUNT_KIND_UNSPECIFIED",
        "trading_mode": "PAPER",
        "sender": "",
        "takes_orders": False,
    }


def test_a_watch_of_the_broker_begins_with_how_things_stand(mesh: Mesh, rest: Rest) -> None:
    watched = events(f"{mesh.rest_url}/broker:watch")
    assert next(watched) == {"broker": rest.ok("GET", "/broker")}
    watched.close()  # type: ignore[attr-defined]  # a generator


def test_nothing_was_ever_compared(rest: Rest) -> None:
    assert rest.ok("GET", "/reconciliation") == {
        "rows": [],
        "strategies_cash": 0,
        "frozen_symbols": [],
    }


def test_shares_that_are_not_there_are_nobodys_to_assign(mesh: Mesh, rest: Rest) -> None:
    name = mesh.new_strategy()
    before = rest.ok("GET", f"/portfolio/{name}"), rest.ok("GET", "/positions", strategy=name)
    for quantity in (1, -1):
        body = {**ASSIGN, "strategy_name": name, "quantity": quantity}
        error = rest.error(400, "POST", "/positions:assign", body)
        assert (error["code"], error["reason"]) == (9, "NOT_UNATTRIBUTED")
        assert error["metadata"]["symbol"] == "SPXL"
        assert error["metadata"]["wanted"] == str(quantity)
        assert error["metadata"]["unattributed"] == "0"
    body = {"strategy_name": "UNATTRIBUTED", "symbol": "SPXL"}
    assert rest.error(400, "POST", "/positions:assign", body)["reason"] == "NOT_UNATTRIBUTED"
    portfolio, positions = (
        rest.ok("GET", f"/portfolio/{name}"),
        rest.ok("GET", "/positions", strategy=name),
    )
    assert (portfolio["cash"], portfolio["update_time"]) == (
        before[0]["cash"],
        before[0]["update_time"],
    )
    assert positions == before[1]


def test_shares_of_an_unknown_strategy_are_not_found(rest: Rest) -> None:
    error = rest.error(404, "POST", "/positions:assign", {**ASSIGN, "strategy_name": "Nobody"})
    assert (error["code"], error["reason"]) == (5, "STRATEGY_NOT_FOUND")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy_name", ""),
        ("strategy_name", "a b"),
        ("symbol", ""),
        ("symbol", "spxl"),
        ("quantity", None),
        ("quantity", 0),
        ("quantity", "NaN"),
        ("quantity", "-Infinity"),
        ("quantity", -1e10),
        ("quantity", 1.234567890123456),
        ("quantity", 0.123456789),
        ("average_cost", None),
        ("average_cost", 0),
        ("average_cost", -1),
        ("average_cost", 1e10),
        ("average_cost", 0.123456789),
        ("reason", "a\0b"),
        ("reason", "x" * 257),
        ("request_id", "a b"),
    ],
)
def test_a_bad_field_of_an_assignment_is_named(
    mesh: Mesh, rest: Rest, field: str, value: object
) -> None:
    body = {**ASSIGN, "strategy_name": mesh.new_strategy(), field: value}
    error = rest.error(400, "POST", "/positions:assign", body)
    assert (error["code"], error["reason"]) == (3, "INVALID_FIELD")
    assert error["metadata"]["field"] == field
    assert field in error["message"]


@pytest.mark.parametrize(
    ("status", "method", "path", "reason"),
    [
        (400, "GET", "/broker?state=OFF", "UNKNOWN_QUERY_PARAMETER"),
        (400, "GET", "/broker:watch?strategy=A", "UNKNOWN_QUERY_PARAMETER"),
        (400, "GET", "/reconciliation?symbol=A", "UNKNOWN_QUERY_PARAMETER"),
        (405, "POST", "/broker", "METHOD_NOT_ALLOWED"),
        (405, "POST", "/broker:watch", "METHOD_NOT_ALLOWED"),
        (405, "DELETE", "/reconciliation", "METHOD_NOT_ALLOWED"),
        (405, "GET", "/positions:assign", "METHOD_NOT_ALLOWED"),
        (404, "GET", "/broker/1", "UNKNOWN_PATH"),
        (404, "POST", "/positions:give", "UNKNOWN_PATH"),
    ],
)
def test_a_bad_call_of_the_new_paths_is_told(
    rest: Rest, status: int, method: str, path: str, reason: str
) -> None:
    assert rest.error(status, method, path)["reason"] == reason


def test_a_strategy_cannot_have_the_name_of_what_no_strategy_owns(rest: Rest) -> None:
    error = rest.error(400, "POST", "/portfolio", {"strategy_name": "UNATTRIBUTED", "cash": 1})
    assert (error["reason"], error["metadata"]["field"]) == ("INVALID_FIELD", "strategy_name")
    assert rest.error(404, "GET", "/portfolio/UNATTRIBUTED")["reason"] == "STRATEGY_NOT_FOUND"


def test_the_broker_is_found_by_reflection_and_not_healthy_while_it_takes_no_orders(
    mesh: Mesh,
) -> None:
    with grpc.insecure_channel(mesh.grpc_address) as channel:
        names = ProtoReflectionDescriptorDatabase(channel).get_services()
        stub: Any = health_pb2_grpc.HealthStub(channel)
        checks = {
            name: stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
            for name in ("", "broker", "efficientfrontier.v1.BrokerService")
        }
    assert "efficientfrontier.v1.BrokerService" in names
    assert checks == {
        "": health_pb2.HealthCheckResponse.SERVING,
        "broker": health_pb2.HealthCheckResponse.NOT_SERVING,
        "efficientfrontier.v1.BrokerService": health_pb2.HealthCheckResponse.SERVING,
    }
