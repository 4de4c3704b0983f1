"""What Envoy itself refuses: the same JSON as the router's errors, and native gRPC untouched."""

from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from efficientfrontier.v1 import error_reason_pb2
from services.mesh import envoy as envoy_module
from services.mesh.envoy import Envoy
from tests.envoy.door import Door

MIB = 1024 * 1024
REASONS = (
    "UNKNOWN_QUERY_PARAMETER",
    "MALFORMED_REQUEST",
    "UNKNOWN_PATH",
    "METHOD_NOT_ALLOWED",
    "BODY_TOO_LARGE",
    "TIMED_OUT",
    "INTERNAL_ERROR",
    "ROUTER_UNAVAILABLE",
)
FORBIDDEN = "ORIGIN_NOT_ALLOWED"
# Each path as the contract has it, and the HTTP methods it has. GET /orders/buy_all reads an order.
METHODS = {
    "/orders": "GET, POST",
    "/orders/buy_all": "GET, POST",
    "/orders/sell_all": "GET, POST",
    "/orders/1": "GET",
    "/orders/1/status": "PUT",
    "/orders:watch": "GET",
    "/positions": "GET, POST",
    "/positions/1": "DELETE",
    "/positions:assign": "POST",
    "/portfolio": "GET, POST",
    "/portfolio/A": "GET",
    "/portfolio/A/invested": "GET",
    "/portfolio/A:halt": "POST",
    "/portfolio/A:resume": "POST",
    "/portfolio:watch": "GET",
    "/prices": "POST",
    "/audit": "GET",
    "/broker": "GET",
    "/broker:watch": "GET",
    "/reconciliation": "GET",
    "/equity": "GET",
    "/performance": "GET",
    "/portfolio/A/equity": "GET",
    "/portfolio/A/performance": "GET",
    "/portfolio/A:review": "POST",
    "/portfolio:halt": "POST",
    "/portfolio:resume": "POST",
    "/risk/limits": "GET, POST",
    "/risk/events": "GET",
    "/allocation": "GET, POST",
    "/allocation/plans": "GET",
    "/allocation:plan": "POST",
    "/allocation:rebalance": "POST",
    "/decisions": "GET",
    "/mutations": "GET",
    "/pages": "GET",
    "/pages/frontier": "GET",
}
WRONG = [
    (verb, path)
    for path, allowed in METHODS.items()
    for verb in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    if verb not in allowed
]


def error(code: int, reason: str, message: str, **metadata: str) -> dict[str, Any]:
    """The one shape of all errors."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "efficientfrontier",
        "metadata": metadata,
    }
    return {"code": code, "message": message, "details": [info]}


def assert_is(response: requests.Response, status: int, expected: dict[str, Any]) -> None:
    """The response is exactly this error, as JSON."""
    assert response.json() == expected
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]


def test_a_routers_error_keeps_its_message_and_details(door: Door) -> None:
    response = requests.post(
        door.url + "/orders/buy_all", json={"strategy_name": "Broke"}, timeout=10
    )

    message = "Buying 10 SPXL needs 1505.00 USD; 12.00 USD is free."
    assert_is(response, 400, error(9, "INSUFFICIENT_CASH", message, free="12.00"))


def test_an_error_before_the_first_event_of_a_watch_is_plain_json(door: Door) -> None:
    response = requests.get(door.url + "/orders:watch?strategy=Broke", timeout=10)

    assert response.status_code == 400
    assert response.json()["details"][0]["reason"] == "INSUFFICIENT_CASH"


def test_a_body_that_is_not_json_is_malformed(door: Door) -> None:
    response = requests.post(door.url + "/orders/buy_all", data='{"strategy', timeout=10)

    message = "The request cannot be read: Closing quote expected in string.\n\n^"
    where = {"method": "POST", "path": "/orders/buy_all"}
    assert_is(response, 400, error(3, "MALFORMED_REQUEST", message, **where))


def test_a_body_value_of_the_wrong_type_is_malformed_and_its_field_is_named(door: Door) -> None:
    response = requests.post(door.url + "/orders/buy_all", json={"price": "dear"}, timeout=10)

    message = 'The request cannot be read: price: invalid value "dear" for type TYPE_DOUBLE'
    where = {"method": "POST", "path": "/orders/buy_all"}
    assert_is(response, 400, error(3, "MALFORMED_REQUEST", message, **where))


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/orders?status=bogus", "status"),
        ("/orders?page_size=many", "page_size"),
        ("/orders:watch?snapshot_size=many", "snapshot_size"),
    ],
)
def test_a_query_value_of_the_wrong_type_is_malformed_and_its_field_is_named(
    door: Door, path: str, field: str
) -> None:
    response = requests.get(door.url + path, timeout=10)

    assert response.status_code == 400
    assert response.json()["details"][0]["reason"] == "MALFORMED_REQUEST"
    assert response.json()["message"].startswith(f"The request cannot be read: {field}: invalid")


@pytest.mark.parametrize(
    ("path", "message_type"),
    [
        ("/orders", "ListOrdersRequest"),
        ("/orders?status=EXECUTED", "ListOrdersRequest"),
        ("/orders:watch", "WatchOrdersRequest"),
        ("/positions", "ListPositionsRequest"),
        ("/portfolio", "ListPortfoliosRequest"),
        ("/portfolio/A/invested", "GetInvestedRequest"),
        ("/broker", "GetBrokerRequest"),
        ("/broker:watch", "WatchBrokerRequest"),
        ("/reconciliation", "GetReconciliationRequest"),
    ],
)
def test_an_unknown_query_parameter_is_refused_by_name(
    door: Door, path: str, message_type: str
) -> None:
    path += ("&" if "?" in path else "?") + "strat=A"

    response = requests.get(door.url + path, timeout=10)

    message = (
        "The URL has a query parameter that this path does not take: "
        f'Could not find field "strat" in the type "efficientfrontier.v1.{message_type}".'
    )
    where = {"method": "GET", "path": path}
    assert_is(response, 400, error(3, "UNKNOWN_QUERY_PARAMETER", message, **where))


@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/nope", "/orders/1/2/3", "/portfolio/A/fly", "/Orders"])
def test_an_unknown_path_is_not_found(door: Door, verb: str, path: str) -> None:
    response = requests.request(verb, door.url + path, timeout=10)

    message = (
        "No method has this path. The paths stand in the google.api.http options of "
        "protos/efficientfrontier/v1."
    )
    assert_is(response, 404, error(5, "UNKNOWN_PATH", message, method=verb, path=path))


@pytest.mark.parametrize(("verb", "path"), WRONG)
def test_a_wrong_method_is_told_the_right_ones(door: Door, verb: str, path: str) -> None:
    response = requests.request(verb, door.url + path, timeout=10)

    message = "This path does not have this method. The allow header names those that it has."
    assert_is(response, 405, error(12, "METHOD_NOT_ALLOWED", message, method=verb, path=path))
    assert response.headers["allow"] == METHODS[path]


def test_a_head_request_gets_no_body(door: Door) -> None:
    response = requests.head(door.url + "/orders", timeout=10)

    assert (response.status_code, response.content) == (405, b"")


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("size", [MIB + 1, 8 * MIB])
def test_a_body_over_1_mib_is_too_large(door: Door, size: int, in_chunks: bool) -> None:
    body = b'{"reason": "' + b"x" * (size - 14) + b'"}'
    chunks = (body[at : at + 65536] for at in range(0, size, 65536))

    response = requests.post(
        door.url + "/positions", data=chunks if in_chunks else body, timeout=20
    )

    message = "The body is larger than 1048576 bytes (1 MiB). Send less in one call."
    assert_is(response, 413, error(8, "BODY_TOO_LARGE", message, limit_bytes="1048576"))


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_body_of_exactly_1_mib_passes(door: Door, in_chunks: bool) -> None:
    body = b'{"symbol": "A"' + b" " * (MIB - 15) + b"}"
    chunks = (body[at : at + 65536] for at in range(0, MIB, 65536))

    response = requests.post(
        door.url + "/positions", data=chunks if in_chunks else body, timeout=20
    )

    assert response.json()["symbol"] == "A"


def test_headers_over_60_kib_are_malformed(door: Door) -> None:
    response = requests.get(door.url + "/orders", headers={"x-long": "a" * 70_000}, timeout=10)

    message = "The request cannot be read: HTTP 400 Request Header Fields Too Large"
    expected = error(3, "MALFORMED_REQUEST", message, details="http1.headers_too_large")
    assert (response.status_code, response.json()) == (400, expected)


def test_a_page_of_a_foreign_origin_cannot_send_an_order(door: Door) -> None:
    response = requests.post(
        door.url + "/orders/buy_all", json={}, headers={"origin": "http://evil.example"}, timeout=10
    )

    message = (
        "Pages of this origin may not call. Allow it in envoy.yaml, or call without a browser."
    )
    assert_is(response, 403, error(7, FORBIDDEN, message, origin="http://evil.example"))


def test_a_router_that_takes_too_long_is_a_timeout(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = envoy_module.SOURCE.read_text()
    assert "timeout: 30s" in patient
    hasty = tmp_path / "hasty.yaml"
    hasty.write_text(patient.replace("timeout: 30s", "timeout: 0.2s"))
    monkeypatch.setattr(envoy_module, "SOURCE", hasty)
    envoy = Envoy(0, [door.replicas[0].address], tmp_path, tmp_path)
    try:
        envoy.start()
        envoy.wait_ready(20)
        response = requests.get(f"http://127.0.0.1:{envoy.port}/portfolio/Stuck", timeout=10)
    finally:
        envoy.stop(drain_s=0)

    message = "No answer in time. Retry with the same request_id to learn the outcome."
    where = {"method": "GET", "path": "/portfolio/Stuck"}
    assert_is(response, 504, error(4, "TIMED_OUT", message, **where))


def test_envoy_gives_the_reasons_tested_here_and_no_other() -> None:
    config = yaml.safe_load(envoy_module.SOURCE.read_text())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    mappers = manager["typed_config"]["local_reply_config"]["mappers"]
    bodies = [mapper.get("body_format_override", {}).get("json_format") for mapper in mappers]

    given = {body["details"][0]["reason"] for body in bodies if body}
    assert given == {*REASONS, FORBIDDEN}


@pytest.mark.parametrize(
    "reason",
    [
        *REASONS,
        FORBIDDEN,
    ],
)
def test_a_reason_that_envoy_gives_stands_in_the_contract(reason: str) -> None:
    assert reason in set(error_reason_pb2.ErrorReason.keys())
