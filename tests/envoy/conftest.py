"""A real Envoy in front of two upstreams, and what tests need to start more."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.mesh.envoy import Envoy
from tests.envoy.door import Door, MakeDoor, MakeReplica, Replica

START_S = 20


@pytest.fixture(scope="session")
def make_replica() -> Iterator[MakeReplica]:
    """Starts an upstream; it is killed at the end of the session, if it still runs."""
    with ExitStack() as stack:

        def make() -> Replica:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("upstream.py"))],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout
            replica = Replica(process, int(process.stdout.readline()))
            stack.callback(replica.kill)
            return replica

        yield make


@pytest.fixture(scope="session")
def make_door(
    make_replica: MakeReplica, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeDoor]:
    """Starts an Envoy in front of so many fresh upstreams, and waits until it is ready."""
    with ExitStack() as stack:

        def make(replica_count: int) -> Door:
            replicas = [make_replica() for _ in range(replica_count)]
            folder = tmp_path_factory.mktemp("envoy")
            envoy = Envoy(0, [replica.address for replica in replicas], folder, folder)
            stack.callback(envoy.stop, drain_s=0)
            envoy.start()
            envoy.wait_ready(START_S)
            return Door(envoy, replicas)

        yield make


@pytest.fixture(scope="session")
def door(make_door: MakeDoor) -> Door:
    """The Envoy of all tests that do it no harm: two replicas."""
    return make_door(2)
