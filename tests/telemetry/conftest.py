"""A mesh that tells a collector in this process of what it does."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.mesh.envoy import Envoy
from services.mesh.ports import free_port
from tests.support.database import fresh_database
from tests.support.mesh import Mesh, running
from tests.support.router import Router
from tests.telemetry.collector import Collector, running_collector

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}  # ms; spans are else sent every 5 s


@dataclass(frozen=True)
class Watched(Mesh):
    """A mesh with its collector and its figures."""

    collector: Collector
    metrics_port: int  # of the router


@pytest.fixture(scope="session")
def watched(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One mesh for all tests of a worker; use strategies and traces of your own."""
    folder = tmp_path_factory.mktemp("watched")
    with fresh_database(postgres_url) as database_url, running_collector() as collector:
        metrics_port = free_port()
        environ = {
            "METRICS_PORT": str(metrics_port),
            "METRICS_EVERY_S": "0.2",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            **SOON,
        }
        router = Router(database_url, folder / "router.log", environ)
        envoy = Envoy(
            0, [router.address], folder, folder, metrics_port=0, collector=collector.endpoint
        )
        with running(router, envoy):
            address = f"127.0.0.1:{envoy.port}"
            yield Watched(
                f"http://{address}", address, router, envoy, database_url, collector, metrics_port
            )


@pytest.fixture
def price_folder(tmp_path: Path) -> Path:
    """Rising prices of SPY and SPXL, above whose average a strategy buys at its first look."""
    folder = tmp_path / "prices"
    folder.mkdir()
    days = "".join(f"2020-01-{day:02d},{100 + day}\n" for day in range(1, 6))
    for symbol in ("SPY", "SPXL"):
        (folder / f"{symbol}.csv").write_text("date,close\n" + days)
    return folder
