"""What a full allocation does to orders: `python -m benchmarks.rebalance`, part of `make bench`.

A thousand strategies with five years of daily closes, in a real database, behind a real router.
One caller places an order 50 times a second, first on an idle router, then while it computes a plan
by maximum Sharpe ratio, and then on an idle one again. Two figures: the seconds that the plan took,
and the median latency of the orders meanwhile over that on the idle router.
"""

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc

from benchmarks import systems
from benchmarks.allocation import LIMIT_S, fill
from benchmarks.drivers import Sample, percentile
from benchmarks.plan import CREATE_ORDER, create_strategy, order_of
from benchmarks.results import Key, Target
from efficientfrontier.v1 import allocation_service_pb2 as pb
from services.portfolio.storage.database import Database

HERE = Path(__file__).resolve().parent
PLAN_ALLOCATION = "/efficientfrontier.v1.AllocationService/PlanAllocation"
REBALANCE = "/efficientfrontier.v1.AllocationService/Rebalance"
TRADER = "Trader"
PACE_S = 0.02
IDLE_S = 10.0
SLOWEST = 1.5  # times the idle latency
WORK = "orders, 50 a second at most"
IDLE = Key("router, idle", WORK, 1)
BUSY = Key("router, planning for 1,000", WORK, 1)
PLAN = Key("router", "a plan for 1,000 strategies", 1)
TARGETS = (
    Target("p50 of orders while a plan is computed", BUSY, IDLE, "p50", SLOWEST, is_upper=True),
)


def main() -> None:
    """Measures and prints; an exit code of 1 says that a limit was not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rebalance", description=__doc__)
    parser.add_argument("--strategies", type=int, default=1000)
    parser.add_argument("--days", type=int, default=1260)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix=".data-bench-", dir=HERE.parent) as folder,
        systems.postgres(Path(folder)) as database,
    ):
        asyncio.run(prepare(database.url, asked.strategies, asked.days))
        with systems.router(database, Path(folder)) as address:
            raise SystemExit(not say(measure(address)))


async def prepare(url: str, strategies: int, days: int) -> None:
    """Makes the strategies and their curves."""
    await (await Database.connect(url)).close()
    connection = await asyncpg.connect(url)
    await fill(connection, [f"strategy-{number:04}" for number in range(strategies)], days)
    await connection.close()


@dataclass(frozen=True)
class Measured:
    """What one plan took, and the orders' latencies beside it and without it, in nanoseconds."""

    plan: pb.Plan
    plan_s: float
    carried_out_s: float
    idle_ns: list[int]
    busy_ns: list[int]

    def samples(self) -> dict[Key, Sample]:
        """As the other benchmarks have them."""
        planned_ns = [round(self.plan_s * 1e9)]
        return {
            IDLE: sample_of(self.idle_ns),
            BUSY: sample_of(self.busy_ns),
            PLAN: sample_of(planned_ns),
        }


def measure(address: str) -> Measured:
    """Places orders on an idle router, while it plans, and on an idle one again."""
    with grpc.insecure_channel(address) as channel:
        create_strategy(channel, TRADER)
        latencies_of(channel, for_s(1))  # to warm up
        idle = latencies_of(channel, for_s(IDLE_S))
        planning = Planning(channel)
        planning.start()
        busy = latencies_of(channel, planning.is_alive)
        idle += latencies_of(channel, for_s(IDLE_S))
        begun_s = time.monotonic()
        systems.call(channel, REBALANCE, pb.RebalanceRequest(plan_id=planning.plan.plan_id))
        carried_out_s = time.monotonic() - begun_s
    return Measured(planning.plan, planning.took_s, carried_out_s, idle, busy)


def say(measured: Measured) -> bool:
    """Prints the figures; whether they keep the limits."""
    plan, idle, busy = measured.plan, measured.idle_ns, measured.busy_ns
    ratio = percentile(busy, 50) / percentile(idle, 50)
    print(
        f"A plan for {len(plan.rows) - 1} strategies by "
        f"{pb.AllocationPolicy.Method.Name(plan.method)} with {len(plan.frontier)} points of the "
        f"frontier took {measured.plan_s:.1f} s (at most {LIMIT_S:g}); carrying it out "
        f"{measured.carried_out_s:.2f} s. {plan.fallback_reason}"
    )
    print(
        f"Orders meanwhile: p50 {percentile(busy, 50) / 1e6:.2f} ms, {ratio:.2f} times the "
        f"{percentile(idle, 50) / 1e6:.2f} ms of an idle router (at most {SLOWEST}); p99 "
        f"{percentile(busy, 99) / 1e6:.2f} ms and {percentile(idle, 99) / 1e6:.2f} ms."
    )
    return measured.plan_s <= LIMIT_S and ratio <= SLOWEST


def sample_of(latencies_ns: list[int]) -> Sample:
    """A sample of one caller's calls."""
    total_s = sum(latencies_ns) / 1e9
    return Sample(
        rate=len(latencies_ns) / total_s,
        p50_ms=percentile(latencies_ns, 50) / 1e6,
        p99_ms=percentile(latencies_ns, 99) / 1e6,
        done=len(latencies_ns),
        driver_share=0.0,
    )


class Planning(threading.Thread):
    """Asks for a plan, and keeps it."""

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__(daemon=True)
        self.plan = pb.Plan()
        self.took_s = float("inf")
        self._call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            PLAN_ALLOCATION
        )

    def run(self) -> None:
        """Waits for the plan."""
        policy = pb.AllocationPolicy(method=pb.AllocationPolicy.MAXIMUM_SHARPE, cash_floor=0.05)
        request = pb.PlanAllocationRequest(policy=policy)
        begun_s = time.monotonic()
        self.plan = pb.Plan.FromString(self._call(request.SerializeToString(), timeout=300))
        self.took_s = time.monotonic() - begun_s


def for_s(seconds: float) -> Callable[[], bool]:
    """True for so long."""
    end_s = time.monotonic() + seconds
    return lambda: time.monotonic() < end_s


def latencies_of(channel: grpc.Channel, goes_on: Callable[[], bool]) -> list[int]:
    """Places an order at the pace while it goes on; what each took, in nanoseconds."""
    unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CREATE_ORDER)
    message = order_of(TRADER).SerializeToString()
    took = []
    next_s = time.monotonic()
    while goes_on():
        time.sleep(max(0.0, next_s - time.monotonic()))
        next_s += PACE_S
        called_ns = time.monotonic_ns()
        unary(message, timeout=30)
        took.append(time.monotonic_ns() - called_ns)
    return took


if __name__ == "__main__":
    main()
