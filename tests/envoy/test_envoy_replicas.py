"""Several replicas behind one Envoy: balancing, a killed replica, and no replica at all."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import requests

from efficientfrontier.v1.order_service_pb2 import BuyAllRequest, ListOrdersRequest
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.portfolio_service_pb2 import ResumeStrategyRequest
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from tests.envoy.door import Door, MakeDoor, Replica
from tests.support.waiting import wait_until

CALLERS = 8
READS = 100


def test_calls_on_one_grpc_connection_reach_both_replicas(door: Door) -> None:
    with door.channel as channel:
        stub = OrderServiceStub(channel)
        calls = [stub.ListOrders.with_call(ListOrdersRequest(), timeout=10)[1] for _ in range(40)]

    ports = {dict(call.initial_metadata())["x-echo-port"] for call in calls}
    assert ports == {str(replica.port) for replica in door.replicas}


def test_requests_on_one_rest_connection_reach_both_replicas(door: Door) -> None:
    with requests.Session() as session:
        answers = [session.get(door.url + "/orders", timeout=10) for _ in range(40)]

    ports = {answer.headers["x-echo-port"] for answer in answers}
    assert ports == {str(replica.port) for replica in door.replicas}


def test_no_read_fails_when_a_replica_is_killed_under_load(make_door: MakeDoor) -> None:
    door = make_door(2)
    under_load = threading.Barrier(CALLERS + 1)
    killed = threading.Event()

    def read_over_rest() -> list[int]:
        with requests.Session() as session:
            session.get(door.url + "/orders", timeout=10)
            under_load.wait(timeout=20)
            statuses: list[int] = []
            while not killed.is_set() or len(statuses) < READS:
                statuses.append(session.get(door.url + "/orders", timeout=10).status_code)
            return statuses + [
                session.get(door.url + "/orders", timeout=10).status_code for _ in range(READS)
            ]

    def read_over_grpc() -> list[int]:
        with door.channel as channel:
            stub = OrderServiceStub(channel)
            stub.ListOrders(ListOrdersRequest(), timeout=10)
            under_load.wait(timeout=20)
            count = 0
            while not killed.is_set() or count < READS:
                stub.ListOrders(ListOrdersRequest(), timeout=10)
                count += 1
            for _ in range(READS):
                stub.ListOrders(ListOrdersRequest(), timeout=10)
            return [200] * (count + READS)

    with ThreadPoolExecutor(CALLERS) as pool:
        reads = [
            pool.submit(read_over_grpc if caller % 2 else read_over_rest)
            for caller in range(CALLERS)
        ]
        under_load.wait(timeout=20)
        door.replicas[0].kill()
        killed.set()
        statuses = [status for read in reads for status in read.result()]

    assert set(statuses) == {200}
    assert len(statuses) >= CALLERS * READS * 2


def busy_replica(door: Door) -> Replica | None:
    """The replica that has a call under way, by Envoy's own count."""
    _, clusters = door.envoy._admin("GET", "/clusters")
    for replica in door.replicas:
        if f"router::{replica.address}::rq_active::1\n" in clusters:
            return replica
    return None


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_a_call_cut_by_a_crash_is_tried_again_if_it_reads_and_never_if_it_writes(
    make_door: MakeDoor, verb: str
) -> None:
    door = make_door(2)
    path = "/portfolio/Stuck" if verb == "GET" else "/portfolio/Stuck:halt"
    with ThreadPoolExecutor() as pool:
        call = pool.submit(requests.request, verb, door.url + path, timeout=20)
        crashed = wait_until(lambda: busy_replica(door))
        assert crashed is not None
        crashed.kill()
        (other,) = [replica for replica in door.replicas if replica is not crashed]
        if verb == "GET":
            wait_until(lambda: busy_replica(door) is other)
            with grpc.insecure_channel(other.address) as channel:
                PortfolioServiceStub(channel).ResumeStrategy(ResumeStrategyRequest(), timeout=10)

        response = call.result()  # a write that reached the other replica would not return at all

    assert response.status_code == (200 if verb == "GET" else 503)
    if verb == "POST":
        assert response.json()["details"][0]["reason"] == "ROUTER_UNAVAILABLE"


def ready_status(url: str) -> int:
    """The status of /readyz."""
    return requests.get(url + "/readyz", timeout=10).status_code


def test_without_a_replica_envoy_is_alive_and_not_ready_and_says_so(make_door: MakeDoor) -> None:
    door = make_door(1)
    assert ready_status(door.url) == 200
    door.replicas[0].kill()
    wait_until(lambda: ready_status(door.url) == 503)

    assert requests.get(door.url + "/healthz", timeout=10).text == "ok"

    for response in (
        requests.get(door.url + "/readyz", timeout=10),
        requests.get(door.url + "/orders", timeout=10),
        requests.post(door.url + "/orders/buy_all", json={"strategy_name": "A"}, timeout=10),
    ):
        body = response.json()
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/json"
        assert body == {
            "code": 14,
            "message": "Envoy reaches no router. Safe to retry with the same request_id.",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "ROUTER_UNAVAILABLE",
                    "domain": "efficientfrontier",
                }
            ],
        }

    with door.channel as channel, pytest.raises(grpc.RpcError) as caught:
        OrderServiceStub(channel).BuyAll(BuyAllRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "ROUTER_UNAVAILABLE" not in str(caught.value.details())  # no JSON for gRPC callers
