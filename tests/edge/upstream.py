"""An upstream that only the door may call: mutual TLS, health, and a note of every call that came.

It answers every method with an empty message. Its certificate is read anew for each connection.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2_grpc


class Upstream(grpc.GenericRpcHandler):
    """Serves on a free port of 127.0.0.1; `calls` holds each call's path and headers."""

    def __init__(self, identity: Path) -> None:
        self._identity = identity
        self.calls: list[dict[str, str]] = []
        self.address = ""

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), self._server)
        self._server.add_generic_rpc_handlers((self,))
        credentials = grpc.dynamic_ssl_server_credentials(
            self._read(), self._read, require_client_authentication=True
        )
        self.address = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        metadata = {key: str(value) for key, value in handler_call_details.invocation_metadata}
        self.calls.append({":path": handler_call_details.method, **metadata})
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    def _read(self) -> grpc.ServerCertificateConfiguration:
        key, certificate, authorities = (
            (self._identity / name).read_bytes() for name in ("tls.key", "tls.crt", "ca.crt")
        )
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)
