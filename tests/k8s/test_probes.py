"""What the kubelet is told when it asks the real router as the manifests say."""

from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from tests.k8s.manifests import rendered, workload
from tests.support.router import Router
from tests.support.waiting import wait_until


def told(address: str, probe: Any) -> bool:
    """Whether a gRPC probe succeeds: the answer is SERVING."""
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
        try:
            answer = check(request, timeout=probe.get("timeoutSeconds", 1))
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_a_router_that_drains_is_not_ready_and_is_not_killed_for_it(
    database_url: str, router: Callable[..., Router]
) -> None:
    container = workload(rendered("base"), "efficientfrontier-router").container(
        "efficientfrontier-api"
    )
    ready, alive = container["readinessProbe"], container["livenessProbe"]
    one = router(database_url, DRAIN_S="30")
    assert told(one.address, container["startupProbe"])
    assert told(one.address, ready)
    assert told(one.address, alive)

    one.terminate()
    wait_until(lambda: not told(one.address, ready), what="the readiness probe fails")

    assert told(one.address, alive)
    one.kill()
