"""LIVE: how long it takes from the call to the first byte of placeOrder at the gateway.

One caller places one order after another, at a pace below IB's 50 messages a second: above it, the
figures would be those of the throttle. The simulated gateway notes when each placeOrder arrives, by
the clock that the caller reads before its call.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import grpc

from benchmarks.bare_broker import PLACE, PLACE_MANY
from benchmarks.drivers import BenchmarkError, Sample, percentile
from benchmarks.plan import CREATE_ORDER, Step, create_strategy, names, order_of
from benchmarks.results import Figure, Key, Target
from benchmarks.systems import call
from efficientfrontier.simulation.v1 import simulation_pb2 as simulation_pb
from efficientfrontier.v1 import order_service_pb2 as orders_pb

PACE_S = 0.04  # 25 a second; the router also asks for evidence now and then
ARRIVE_S = 10.0
GET_SNAPSHOT = "/efficientfrontier.simulation.v1.GatewaySimulationService/GetSnapshot"
UNBOUNDED = (("grpc.max_receive_message_length", -1),)

ROUTER, BEHIND_GRPC, BARE = "router, gRPC, LIVE", "ib library behind gRPC", "ib library alone"
TO_PLACE_ORDER = "call to first byte of placeOrder"
OF_ROUTER, OF_BEHIND_GRPC, OF_BARE = (
    Key(system, TO_PLACE_ORDER, 1) for system in (ROUTER, BEHIND_GRPC, BARE)
)
CLAIMS: tuple[Figure, ...] = ("p50", "p99")
TARGETS = tuple(
    Target(f"{figure} from the call to the first byte of placeOrder", OF_ROUTER, beside, figure)
    for beside in (OF_BEHIND_GRPC, OF_BARE)
    for figure in CLAIMS
)


class Placed(NamedTuple):
    """An order that was placed: its orderRef, and when the call began, on the monotonic clock."""

    order_ref: str
    called_ns: int


@dataclass(frozen=True)
class LiveParts:
    """Where the systems are; each has a gateway of its own, since each moves its account."""

    router: str  # gRPC address
    router_gateway: str  # of its control interface
    bare: str  # gRPC address of the bare broker
    bare_gateway: str


def prepare(parts: LiveParts) -> None:
    """Makes a LIVE strategy with plenty of cash, and places one order each to warm up."""
    with grpc.insecure_channel(parts.router) as channel:
        create_strategy(channel, names(1)[0])
    for step in steps(parts, seconds=1, orders=1):
        step.measure(0)


def steps(parts: LiveParts, seconds: int, orders: int = 0) -> list[Step]:
    """What one round measures; so many `orders` each, or what fits into `seconds`."""
    orders = orders or int(seconds / PACE_S)

    def through(address: str, method: str) -> Callable[[], list[Placed]]:
        return lambda: place_by_calls(address, method, orders)

    def alone() -> list[Placed]:
        return place_without_calls(parts.bare, orders)

    return [
        Step(OF_ROUTER, measured(through(parts.router, CREATE_ORDER), parts.router_gateway)),
        Step(OF_BEHIND_GRPC, measured(through(parts.bare, PLACE), parts.bare_gateway)),
        Step(OF_BARE, measured(alone, parts.bare_gateway)),
    ]


def place_by_calls(address: str, method: str, orders: int) -> list[Placed]:
    """Calls CreateOrder, or what is like it, so many times, one after another.

    Raises:
        BenchmarkError: a call was refused.
    """
    message = order_of(names(1)[0]).SerializeToString()
    placed = []
    with grpc.insecure_channel(address) as channel:
        unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        grpc.channel_ready_future(channel).result(ARRIVE_S)
        begun_s = time.monotonic()
        for number in range(orders):
            time.sleep(max(0.0, begun_s + number * PACE_S - time.monotonic()))
            called_ns = time.monotonic_ns()
            try:
                answer = unary(message, timeout=ARRIVE_S)
            except grpc.RpcError as refused:
                raise BenchmarkError(f"{method} was refused: {refused}") from None
            placed.append(Placed(orders_pb.Order.FromString(answer).order_id, called_ns))
    return placed


def place_without_calls(address: str, orders: int) -> list[Placed]:
    """Has the bare broker place so many orders on its own."""
    with grpc.insecure_channel(address) as channel:
        unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PLACE_MANY)
        asked = json.dumps([orders, PACE_S]).encode()
        answer = json.loads(unary(asked, timeout=orders * PACE_S + ARRIVE_S))
    return [Placed(ref, placed_ns) for ref, placed_ns in answer]


def measured(place: Callable[[], list[Placed]], control: str) -> Callable[[int], Sample]:
    """How to place orders and find when each arrived at the gateway with this control address."""

    def measure(_: int) -> Sample:
        begun_s, begun_cpu_s = time.monotonic(), time.process_time()
        placed = place()
        taken_s, cpu_s = time.monotonic() - begun_s, time.process_time() - begun_cpu_s
        latencies_ns = latencies(placed, arrivals_of(placed, control))
        return Sample(
            rate=len(placed) / taken_s,
            p50_ms=percentile(latencies_ns, 50) / 1e6,
            p99_ms=percentile(latencies_ns, 99) / 1e6,
            done=len(placed),
            driver_share=cpu_s / taken_s / (os.cpu_count() or 1),
        )

    return measure


def arrivals_of(placed: Sequence[Placed], control: str) -> list[simulation_pb.Receipt]:
    """Every placeOrder that the gateway received, once the last of ours has arrived."""
    last = placed[-1].order_ref
    give_up_s = time.monotonic() + ARRIVE_S
    while time.monotonic() < give_up_s:
        receipts = receipts_in(control)
        if any(one.order_ref == last for one in receipts):
            return receipts
        time.sleep(0.05)
    raise BenchmarkError(f"Order {last} has not reached the gateway in {ARRIVE_S:g} s.")


def receipts_in(control: str) -> list[simulation_pb.Receipt]:
    """Every placeOrder that the gateway has received."""
    with grpc.insecure_channel(control, options=UNBOUNDED) as channel:
        answer = call(channel, GET_SNAPSHOT, simulation_pb.GetSnapshotRequest())
    return list(simulation_pb.Snapshot.FromString(answer).receipts)


def latencies(placed: Sequence[Placed], receipts: Sequence[simulation_pb.Receipt]) -> list[int]:
    """From each call to the arrival of its order, in nanoseconds.

    Raises:
        BenchmarkError: an order has not arrived exactly once.
    """
    arrived: dict[str, list[int]] = {}
    for receipt in receipts:
        arrived.setdefault(receipt.order_ref, []).append(receipt.arrival_ns)
    took = []
    for order in placed:
        times = arrived.get(order.order_ref, [])
        if len(times) != 1:
            raise BenchmarkError(
                f"Order {order.order_ref} reached the gateway {len(times)} times instead of once."
            )
        took.append(times[0] - order.called_ns)
    return took
