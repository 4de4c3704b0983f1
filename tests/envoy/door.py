"""What the tests of this folder stand on: a real Envoy and the upstreams behind it."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from services.mesh.envoy import Envoy


@dataclass
class Replica:
    """One running upstream."""

    process: subprocess.Popen[str]
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Ends it as a crash would. A second time does nothing."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@dataclass
class Door:
    """A running Envoy and the replicas behind it."""

    envoy: Envoy
    replicas: list[Replica]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.envoy.port}"

    @property
    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.envoy.port}")


MakeReplica = Callable[[], Replica]
MakeDoor = Callable[[int], Door]
