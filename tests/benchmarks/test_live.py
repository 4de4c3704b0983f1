"""The LIVE line is measured on real parts, and an order that came twice or never fails it."""

from pathlib import Path

import pytest

from benchmarks import live, systems
from benchmarks.drivers import BenchmarkError
from benchmarks.live import Placed
from efficientfrontier.simulation.v1 import simulation_pb2 as pb


def test_each_system_is_measured_from_the_call_to_the_gateway(
    database_url: str, tmp_path: Path
) -> None:
    with (
        systems.gateway(tmp_path) as (router_port, router_gateway),
        systems.gateway(tmp_path) as (bare_port, bare_gateway),
        systems.live_router(systems.Database(database_url), router_port, tmp_path) as router,
        systems.bare_broker(bare_port, tmp_path) as bare,
    ):
        parts = live.LiveParts(router, router_gateway, bare, bare_gateway)
        live.prepare(parts)
        measured = {step.key: step.measure(0) for step in live.steps(parts, seconds=1, orders=5)}
        sent = len(live.receipts_in(router_gateway))

    assert list(measured) == [live.OF_ROUTER, live.OF_BEHIND_GRPC, live.OF_BARE]
    for sample in measured.values():
        assert sample.done == 5
        assert 0 < sample.p50_ms <= sample.p99_ms < 10_000
    assert sent == 1 + 5


def test_an_order_takes_from_its_call_to_its_arrival() -> None:
    placed = [Placed("a", 1_000), Placed("b", 2_000)]

    took = live.latencies(placed, [receipt("b", 2_500), receipt("other", 1), receipt("a", 1_200)])

    assert took == [200, 500]


@pytest.mark.parametrize("arrived", [[], ["a", "a"]])
def test_an_order_that_did_not_arrive_once_fails_the_benchmark(arrived: list[str]) -> None:
    with pytest.raises(BenchmarkError, match=f"{len(arrived)} times instead of once"):
        live.latencies([Placed("a", 1)], [receipt(ref, 2) for ref in arrived])


def receipt(order_ref: str, arrival_ns: int) -> pb.Receipt:
    return pb.Receipt(order_ref=order_ref, arrival_ns=arrival_ns)
