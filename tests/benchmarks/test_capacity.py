"""What an order costs is measured on real replicas, and counts what was written."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import capacity, systems
from tests.support.replicated import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server without a standby."""
    one = Server(tmp_path / "primary")
    one.make()
    try:
        one.start()
        yield one
    finally:
        one.stop()


def test_each_part_costs_something_for_each_order(server: Server, tmp_path: Path) -> None:
    database = systems.Database(server.url).create("two")
    with capacity.replicas(server, database, tmp_path, 2, strategies=5) as ones:
        cost = ones.cost("two routers", 5, 1)
        sessions, memory_mib = ones.connections(), ones.memory_mib()
    assert cost.sample.done > 0
    for used_us in (cost.router_us, cost.envoy_us, cost.postgres_us):
        assert 1 < used_us < 1e6
    assert 100 < cost.wal_bytes < 1e6
    assert 100 < capacity.disk_bytes(database) < 1e8
    assert 2 <= sessions <= 15
    assert 20 < memory_mib < 2000
    assert capacity.table_of([cost]).row_count == 1
