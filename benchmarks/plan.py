"""Which system does which work for how many callers, and what the ratios must be.

The order used everywhere buys 1 SPXL at 1.00 USD, for strategies with plenty of cash and no
commission, so that each leaves one order, one fill, one cash entry, a position and a book changed.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple
from urllib.request import Request, urlopen

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from benchmarks import empty_server
from benchmarks.drivers import BenchmarkError, Sample, drive_grpc, drive_rest, drive_sql
from benchmarks.results import Key, Target
from benchmarks.systems import CHECK, Database, call
from efficientfrontier.v1 import order_service_pb2 as orders_pb
from efficientfrontier.v1 import portfolio_service_pb2 as portfolio_pb

HERE = Path(__file__).resolve().parent
STRATEGIES = 100
CASH_USD = 1_000_000_000
CALLERS = (1, 16, 64)
MANY = CALLERS[-1]
LIST_CALLERS = 16

GRPC, REST, PEER, PGBENCH = "router, gRPC", "router, REST", "peer, REST", "pgbench"
TELLS_NOBODY = "pgbench, tells nobody"
EMPTY, BARE = "empty call, router", "empty call, bare"
FEW, MILLION = "router, 1,000", "router, 1,000,000"
ORDERS, ONE_STRATEGY = "orders", "orders of one strategy"
INVESTED, NEWEST = "invested", "newest 50 orders"

CREATE_ORDER = "/efficientfrontier.v1.OrderService/CreateOrder"
LIST_ORDERS = "/efficientfrontier.v1.OrderService/ListOrders"
GET_INVESTED = "/efficientfrontier.v1.PortfolioService/GetInvested"
UPSERT_PORTFOLIO = "/efficientfrontier.v1.PortfolioService/UpsertPortfolio"

OF_GRPC, OF_REST = Key(GRPC, ORDERS, MANY), Key(REST, ORDERS, MANY)
OF_PEER, OF_PGBENCH = Key(PEER, ORDERS, MANY), Key(PGBENCH, ORDERS, MANY)
OF_TELLS_NOBODY = Key(TELLS_NOBODY, ORDERS, MANY)
ONE_GRPC, ONE_PEER = Key(GRPC, ONE_STRATEGY, MANY), Key(PEER, ONE_STRATEGY, MANY)
READ_GRPC, READ_EMPTY = Key(GRPC, INVESTED, MANY), Key(EMPTY, INVESTED, MANY)
LIST_FEW, LIST_MILLION = Key(FEW, NEWEST, LIST_CALLERS), Key(MILLION, NEWEST, LIST_CALLERS)
TARGETS = (
    Target("Orders a second through gRPC", OF_GRPC, OF_PEER, "rate", 10),
    Target("Orders a second through gRPC", OF_GRPC, OF_PGBENCH, "rate", 1.2),
    Target("Orders a second through gRPC", OF_GRPC, OF_TELLS_NOBODY, "rate"),
    Target("Orders a second through REST", OF_REST, OF_PEER, "rate", 8),
    Target("Orders a second of one strategy, gRPC", ONE_GRPC, ONE_PEER, "rate", 14),
    Target("Invested reads a second through gRPC", READ_GRPC, READ_EMPTY, "rate", 0.65),
    Target("p99 of orders through gRPC", OF_GRPC, OF_PEER, "p99", 0.25, is_upper=True),
    Target("p99 of orders through REST", OF_REST, OF_PEER, "p99", 0.25, is_upper=True),
    Target("Cost of the newest 50 orders", LIST_MILLION, LIST_FEW, "cost", 1.2, is_upper=True),
)


@dataclass(frozen=True)
class Parts:
    """Where the systems are that the orders and reads are measured on."""

    router: str  # gRPC address
    envoy: str  # URL
    peer: str  # URL
    bare: str  # gRPC address of the empty server
    router_database: Database
    peer_database: Database
    pgbench_database: Database


class Step(NamedTuple):
    """One run of one driver: what it is of, and how to do it in the given round."""

    key: Key
    measure: Callable[[int], Sample]


def prepare(parts: Parts) -> None:
    """Makes the strategies in each system, through its own API, each with one order to hold."""
    prepare_router(parts.router)
    for name in names(STRATEGIES):
        post(f"{parts.peer}/portfolio", {"strategy_name": name, "cash": CASH_USD})
        order = {
            "strategy_name": name,
            "symbol": "SPXL",
            "side": "BUY",
            "quantity": 1,
            "price": 1.0,
        }
        post(f"{parts.peer}/orders", order)


def prepare_router(address: str) -> None:
    """Makes the strategies on one router, each with one order to hold."""
    with grpc.insecure_channel(address) as channel:
        for name in names(STRATEGIES):
            create_strategy(channel, name)
            call(channel, CREATE_ORDER, order_of(name))


def steps(parts: Parts, seconds: int) -> list[Step]:
    """All that one round measures on the parts; what is compared stands close together."""
    planned: list[Step] = []
    for callers in CALLERS:
        planned += order_steps(parts, ORDERS, STRATEGIES, callers, seconds)
    planned += order_steps(parts, ONE_STRATEGY, 1, MANY, seconds)
    planned += read_steps(parts, MANY, seconds)
    return planned


def order_steps(
    parts: Parts, work: str, strategies: int, callers: int, seconds: int
) -> Iterator[Step]:
    """Orders of so many strategies by so many callers, in each system."""

    def through_grpc(round_: int) -> Sample:
        crews = crews_that(order_of, strategies, callers, round_)
        return drive_grpc(f"http://{parts.router}{CREATE_ORDER}", crews, seconds=seconds)

    def through_rest(url: str) -> Callable[[int], Sample]:
        return lambda _: drive_rest(
            url, "orders", strategies=strategies, callers=callers, seconds=seconds
        )

    def through_sql(*, tells: bool) -> Callable[[int], Sample]:
        url = parts.pgbench_database.url
        return lambda _: drive_sql(
            url, strategies=strategies, callers=callers, seconds=seconds, tells=tells
        )

    for system, database, drive in (
        (GRPC, parts.router_database, through_grpc),
        (REST, parts.router_database, through_rest(parts.envoy)),
        (PEER, parts.peer_database, through_rest(parts.peer)),
        (PGBENCH, parts.pgbench_database, through_sql(tells=True)),
        (TELLS_NOBODY, parts.pgbench_database, through_sql(tells=False)),
    ):
        yield Step(Key(system, work, callers), counted(drive, database, callers))


def read_steps(parts: Parts, callers: int, seconds: int) -> Iterator[Step]:
    """Invested reads, and the empty call that they are measured beside."""
    for system, address, method, ask in (
        (GRPC, parts.router, GET_INVESTED, invested_of),
        (EMPTY, parts.router, CHECK, nothing_of),
        (BARE, parts.bare, empty_server.METHOD, nothing_of),
    ):
        measure = read_through_grpc(address, method, ask, STRATEGIES, callers, seconds)
        yield Step(Key(system, INVESTED, callers), measure)
    for system, url in ((REST, parts.envoy), (PEER, parts.peer)):

        def through_rest(_: int, url: str = url) -> Sample:
            return drive_rest(
                url, "invested", strategies=STRATEGIES, callers=callers, seconds=seconds
            )

        yield Step(Key(system, INVESTED, callers), through_rest)


def prepare_listing(address: str, database: Database, orders: int) -> None:
    """Gives the strategy Bench_001 so many orders, behind the router's back: it takes seconds."""
    with grpc.insecure_channel(address) as channel:
        create_strategy(channel, names(1)[0])
    database.run_file(HERE / "listing.sql", orders=orders)


def listing_steps(few: str, million: str, seconds: int) -> list[Step]:
    """The newest 50 orders of one strategy, on the router with few orders and that with many."""
    return [
        Step(
            Key(system, NEWEST, LIST_CALLERS),
            read_through_grpc(address, LIST_ORDERS, newest_of, 1, LIST_CALLERS, seconds),
        )
        for system, address in ((FEW, few), (MILLION, million))
    ]


def read_through_grpc(
    address: str,
    method: str,
    ask: Callable[[str], Message],
    strategies: int,
    callers: int,
    seconds: int,
) -> Callable[[int], Sample]:
    """How to measure a call that writes nothing, and whose answers are all of one size."""

    def measure(round_: int) -> Sample:
        with grpc.insecure_channel(address) as channel:
            size = len(call(channel, method, ask(names(1)[0])))
        crews = crews_that(ask, strategies, callers, round_)
        url = f"http://{address}{method}"
        return drive_grpc(url, crews, seconds=seconds, answer_bytes=size)

    return measure


def counted(
    drive: Callable[[int], Sample], database: Database, callers: int
) -> Callable[[int], Sample]:
    """`drive`, after which as many orders must stand in the database as were answered."""

    def measure(round_: int) -> Sample:
        before = database.orders()
        sample = drive(round_)
        written = database.orders() - before
        if not sample.done <= written <= sample.done + callers:  # the last ones had no reader
            raise BenchmarkError(f"{sample.done} orders were answered, but {written} written.")
        return sample

    return measure


def crews_that(
    ask: Callable[[str], Message], strategies: int, callers: int, round_: int
) -> list[tuple[bytes, int]]:
    """Who sends what: each caller picks a strategy at random, the same one in each system.

    64 callers pick 47 of 100 strategies on average, as wrk's and pgbench's do at any moment.
    """
    picked = Random(round_).choices(names(strategies), k=callers)
    return [(ask(name).SerializeToString(), crew) for name, crew in sorted(Counter(picked).items())]


def names(count: int) -> list[str]:
    """The first `count` strategies."""
    return [f"Bench_{number:03d}" for number in range(1, count + 1)]


def order_of(name: str) -> orders_pb.CreateOrderRequest:
    """The order that everybody sends."""
    return orders_pb.CreateOrderRequest(
        strategy_name=name, symbol="SPXL", side=orders_pb.Order.BUY, quantity=1, price=1.0
    )


def invested_of(name: str) -> Message:
    """Asks whether the strategy holds anything."""
    return portfolio_pb.GetInvestedRequest(strategy_name=name)


def newest_of(name: str) -> Message:
    """Asks for the strategy's first page of orders."""
    return orders_pb.ListOrdersRequest(strategy_name=name)


def nothing_of(_: str) -> Message:
    """Asks for nothing."""
    return health_pb2.HealthCheckRequest()


def create_strategy(channel: grpc.Channel, name: str) -> None:
    """Makes a strategy with plenty of cash in the router."""
    wanted = portfolio_pb.UpsertPortfolioRequest(strategy_name=name, cash=CASH_USD)
    call(channel, UPSERT_PORTFOLIO, wanted)


def post(url: str, body: dict[str, object]) -> None:
    """Sends JSON; an answer other than 2xx raises HTTPError."""
    request = Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urlopen(request, timeout=30):
        pass
