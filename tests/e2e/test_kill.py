"""Hard to kill: routers, connections and callers die in the middle of work; the ledger does not."""

import asyncio
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import grpc
import pytest
from grpc import aio

from efficientfrontier.v1.order_service_pb2 import CreateOrderRequest, ListOrdersRequest, Order
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.portfolio_service_pb2 import (
    AuditRequest,
    GetPortfolioRequest,
    UpsertPortfolioRequest,
)
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from tests.e2e.rest import Rest
from tests.e2e.stubs import Stubs, stubs_on
from tests.support.mesh import Mesh
from tests.support.router import Router
from tests.support.waiting import wait_until

RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def bought(name: str) -> CreateOrderRequest:
    return CreateOrderRequest(
        strategy_name=name,
        symbol="SPXL",
        side=Order.BUY,
        quantity=1,
        price=2,
        request_id=str(uuid.uuid4()),
    )


@dataclass
class Load:
    """Callers that place orders, each repeated under its request_id until it is answered."""

    address: str
    names: list[str]
    answered: dict[str, Order] = field(default_factory=dict)
    repeats: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def call(self, place: int) -> None:
        with stubs_on(self.address) as stubs:
            while not self.stop.is_set():
                request = bought(self.names[place % len(self.names)])
                self.answered[request.request_id] = self._until_answered(stubs, request)

    def _until_answered(self, stubs: Stubs, request: CreateOrderRequest) -> Order:
        while True:
            try:
                return stubs.orders.CreateOrder(request, timeout=5, wait_for_ready=True)
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                assert error.code() in RETRIED, error
                self.repeats += 1


def all_orders(stubs: Stubs, name: str) -> list[Order]:
    orders: list[Order] = []
    token = ""
    while True:
        page = stubs.orders.ListOrders(
            ListOrdersRequest(strategy_name=name, page_size=1000, page_token=token)
        )
        orders += page.orders
        token = page.next_page_token
        if not token:
            return orders


def test_a_killed_router_loses_no_answered_order_and_doubles_none(own_mesh: Mesh) -> None:
    names = [own_mesh.new_strategy(cash=1_000_000) for _ in range(3)]
    load = Load(own_mesh.grpc_address, names)
    with ThreadPoolExecutor(6) as pool:
        callers = [pool.submit(load.call, place) for place in range(6)]
        for _ in range(3):
            seen = len(load.answered)
            wait_until(lambda seen=seen: len(load.answered) > seen + 30, 60, "orders flow")  # type: ignore[misc]
            own_mesh.router.kill()
            own_mesh.router.start()
        seen = len(load.answered)
        wait_until(lambda: len(load.answered) > seen + 30, 60, "orders flow again")
        load.stop.set()
        for caller in callers:
            caller.result(timeout=30)
    assert load.repeats > 0, "no caller noticed a kill: the test has shown nothing"
    with stubs_on(own_mesh.grpc_address) as stubs:
        stored = [order for name in names for order in all_orders(stubs, name)]
        assert {o.request_id: o.order_id for o in stored} == {
            rid: order.order_id for rid, order in load.answered.items()
        }
        assert len(stored) == len(load.answered)
        for name in names:
            portfolio = stubs.portfolio.GetPortfolio(GetPortfolioRequest(strategy_name=name))
            mine = sum(order.strategy_name == name for order in stored)
            assert portfolio.cash == 1_000_000 - 2 * mine


def test_callers_that_vanish_leave_the_writer_its_locks_and_the_audit_whole(
    own_mesh: Mesh,
) -> None:
    name = own_mesh.new_strategy(cash=1_000_000)

    async def vanish() -> None:
        async with aio.insecure_channel(own_mesh.router.address) as channel:
            orders = OrderServiceStub(channel)
            for round_ in range(40):
                calls = [orders.CreateOrder(bought(name)) for _ in range(10)]
                await asyncio.sleep(0.0005 * (round_ % 8))  # leave at different moments of a call
                for call in calls:
                    call.cancel()
                await asyncio.gather(*(settled(call) for call in calls))
            # The writer still answers, at once: no lock is held, no task has died.
            answered = await orders.CreateOrder(bought(name), timeout=5)
            assert answered.status == Order.EXECUTED

    asyncio.run(vanish())
    with stubs_on(own_mesh.router.address) as stubs:
        booked = len(all_orders(stubs, name))
        portfolio = stubs.portfolio.GetPortfolio(GetPortfolioRequest(strategy_name=name))
        assert portfolio.cash == 1_000_000 - 2 * booked
        assert stubs.portfolio.Audit(AuditRequest()).balanced


async def settled(call: "aio.UnaryUnaryCall[CreateOrderRequest, Order]") -> None:
    try:
        await call
    except (asyncio.CancelledError, aio.AioRpcError):
        return


async def test_a_cut_database_connection_is_unavailable_and_heals(
    router: Callable[..., Router], database_url: str
) -> None:
    running = router(database_url)
    admin = await asyncpg.connect(database_url)
    try:
        async with aio.insecure_channel(running.address) as channel:
            orders, portfolio = OrderServiceStub(channel), PortfolioServiceStub(channel)
            await portfolio.UpsertPortfolio(UpsertPortfolioRequest(strategy_name="A", cash=1e6))
            answered: dict[str, str] = {}
            refused = 0
            for _ in range(6):
                requests = [bought("A") for _ in range(8)]
                calls = [orders.CreateOrder(request) for request in requests]
                await admin.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                for request, call in zip(requests, calls, strict=True):
                    try:
                        answered[request.request_id] = (await call).order_id
                    except aio.AioRpcError as error:
                        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                        refused += 1
                        repeated = await until_answered(orders, request)
                        answered[request.request_id] = repeated.order_id
            assert refused > 0, "no call met a cut connection: the test has shown nothing"
            listed = await orders.ListOrders(ListOrdersRequest(strategy_name="A", page_size=1000))
            assert {o.request_id: o.order_id for o in listed.orders} == answered
            assert (await portfolio.Audit(AuditRequest())).balanced
    finally:
        await admin.close()


async def until_answered(orders: Any, request: CreateOrderRequest) -> Order:
    for _ in range(100):
        try:
            answer: Order = await orders.CreateOrder(request, timeout=5)
        except aio.AioRpcError as error:
            assert error.code() in RETRIED, error
            await asyncio.sleep(0.05)
        else:
            return answer
    pytest.fail("not answered after 100 tries")


def test_without_a_router_rest_says_so_as_json(own_mesh: Mesh) -> None:
    rest = Rest(own_mesh.rest_url)
    own_mesh.router.kill()
    error = rest.error(503, "GET", "/portfolio")
    assert (error["code"], error["reason"]) == (14, "ROUTER_UNAVAILABLE")
    assert rest.raw("GET", "/healthz").status_code == 200
    wait_until(lambda: rest.raw("GET", "/readyz").status_code == 503, 30, "readyz notices")
    own_mesh.router.start()
    wait_until(lambda: rest.raw("GET", "/readyz").status_code == 200, 30, "readyz recovers")
    assert len(rest.ok("GET", "/portfolio")["portfolios"]) == 5


def test_a_router_that_is_asked_to_stop_answers_what_it_has_accepted(
    router: Callable[..., Router], database_url: str
) -> None:
    running = router(database_url, DRAIN_S="0.5")

    async def stop_in_mid_load() -> int:
        async with aio.insecure_channel(running.address) as channel:
            orders, portfolio = OrderServiceStub(channel), PortfolioServiceStub(channel)
            await portfolio.UpsertPortfolio(UpsertPortfolioRequest(strategy_name="A", cash=1e6))
            calls = [orders.CreateOrder(bought("A")) for _ in range(200)]
            await calls[0]
            running.ask_to_stop()
            return len(await asyncio.gather(*calls))

    assert asyncio.run(stop_in_mid_load()) == 200
    wait_until(lambda: running.exit_code() is not None, 30, "the router ends")
    assert running.exit_code() == 0, running.output()
