"""Ports of this machine."""

import socket

from services.mesh.errors import MeshError

LOOPBACK = "127.0.0.1"


def check_port(name: str, port: int) -> None:
    """Raises MeshError when somebody listens already on the port that the setting `name` gives."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as refusal:
            raise MeshError(
                f"Port {port} cannot be used ({refusal.strerror}): free it, or choose another, "
                f"such as make up {name}={port + 1000 if port < 64000 else port - 1000}."
            ) from None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
