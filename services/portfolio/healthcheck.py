"""Asks the router on this machine how it is, by the standard health service: for containers.

`python -m services.portfolio.healthcheck` ends with 0 when it says SERVING, else with 1 and the
reason. It asks at HEALTH_ADDRESS, which is plain in any case, else at ROUTER_ADDRESS.
"""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2

DEFAULT_ADDRESS = "0.0.0.0:50051"  # as in config.py, which takes ten times as long to import
ANSWER_WITHIN_S = 3


def main() -> str | None:
    """None: all is well; else what to say of it."""
    address = os.environ.get("HEALTH_ADDRESS") or os.environ.get("ROUTER_ADDRESS")
    near = reachable(address or DEFAULT_ADDRESS)
    with grpc.insecure_channel(near) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=ANSWER_WITHIN_S)
        except grpc.RpcError as error:
            status = error.code().name
            return f"{near} does not tell its health: {status}. With AUTH=mtls set HEALTH_ADDRESS."
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"{near} is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}."
    return None


def reachable(listened_on: str) -> str:
    """The address to call where `host:port` is what a server listens on."""
    host, _, port = listened_on.rpartition(":")
    return f"localhost:{port}" if host in {"0.0.0.0", "[::]", ""} else listened_on  # noqa: S104


if __name__ == "__main__":
    sys.exit(main())
