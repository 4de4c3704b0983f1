"""The mesh of a test: a fresh database, the real router and the real Envoy on a free port."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from services.mesh.envoy import Envoy
from tests.support.database import fresh_database
from tests.support.router import Router

ANSWER_S = 30


@dataclass(frozen=True)
class Mesh:
    """A running mesh without strategies."""

    rest_url: str
    grpc_address: str
    router: Router
    envoy: Envoy
    database_url: str

    def new_strategy(self, cash: float = 10_000) -> str:
        """Makes a PAPER strategy with this cash, and returns its name, which nobody else uses."""
        name = f"Test_{uuid.uuid4().hex[:16]}"
        wish = {"strategy_name": name, "cash": cash, "requested_mode": "PAPER"}
        made = requests.post(f"{self.rest_url}/portfolio", json=wish, timeout=ANSWER_S)
        assert made.status_code == 200, made.text
        return name

    def assert_balanced(self) -> None:
        """Has the router recompute every book from its facts; fails on any difference."""
        answer = requests.get(f"{self.rest_url}/audit", timeout=ANSWER_S)
        assert answer.status_code == 200, answer.text
        assert answer.json()["balanced"], answer.text


@contextmanager
def running_mesh(server_url: str, folder: Path) -> Iterator[Mesh]:
    """Starts a mesh on a new database of the server, and ends it."""
    with fresh_database(server_url) as database_url:
        router = Router(database_url, folder / "router.log")
        envoy = Envoy(0, [router.address], folder / "envoy", folder)
        with running(router, envoy):
            address = f"127.0.0.1:{envoy.port}"
            yield Mesh(f"http://{address}", address, router, envoy, database_url)


@contextmanager
def running(router: Router, envoy: Envoy) -> Iterator[None]:
    """Has both run, the one behind the other, until the block ends."""
    try:
        envoy.start()
        router.start()
        envoy.wait_ready(ANSWER_S)
        yield
    finally:
        envoy.stop()
        router.stop()
