"""Ports of this machine."""

import random
import socket
from contextlib import suppress

from services.mesh.errors import MeshError

LOOPBACK = "127.0.0.1"
UNASSIGNED = (20_000, 32_000)


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
    """A TCP port on this machine that nobody listens on.

    Below the ports that the system gives to outgoing connections, one of which may else take it
    before whoever asked has bound it; at random, because meshes start side by side.
    """
    while True:
        port = random.SystemRandom().randrange(*UNASSIGNED)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
