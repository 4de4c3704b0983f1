"""A look at a gRPC server's health, by the standard health service."""

import grpc
from grpc_health.v1 import health_pb2

CHECK_S = 2


def is_serving(address: str) -> bool:
    """True when the server at `host:port` says SERVING at this moment.

    Each look opens its own channel: one that was refused would wait a second before it tries again.
    """
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=CHECK_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
