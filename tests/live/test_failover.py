"""Two routers, one database, one gateway: whatever becomes of the sender, one sends, and once."""

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from efficientfrontier.simulation.v1.simulation_pb2 import ReleaseRequest
from efficientfrontier.v1.broker_service_pb2 import Broker, GetBrokerRequest
from efficientfrontier.v1.broker_service_pb2_grpc import BrokerServiceStub
from efficientfrontier.v1.order_service_pb2 import CreateOrderRequest, GetOrderRequest, Order
from efficientfrontier.v1.order_service_pb2_grpc import OrderServiceStub
from efficientfrontier.v1.portfolio_service_pb2 import (
    AuditRequest,
    GetPortfolioRequest,
    Portfolio,
    UpsertPortfolioRequest,
)
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from tests.ports.stores import CUT_SENDER
from tests.support.database import psql
from tests.support.gateway import GatewayProcess
from tests.support.router import Router
from tests.support.waiting import wait_until

NAME, CASH = "Failover", 500_000
CALL_S = 5
PROMISE_S = 5.0  # from the death of the sender to the next placeOrder
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
INTENTS = "SELECT order_id, broker_order_id FROM broker_orders WHERE broker_order_id IS NOT NULL"


@dataclass(frozen=True)
class Pair:
    """Two routers on one gateway."""

    gateway: GatewayProcess
    routers: tuple[Router, Router]
    database_url: str

    def broker(self, router: Router) -> Broker:
        """How things stand with the broker, as this router sees it."""
        with grpc.insecure_channel(router.address) as channel:
            return BrokerServiceStub(channel).GetBroker(GetBrokerRequest(), timeout=CALL_S)

    def roles(self) -> tuple[Router, Router]:
        """The sender and the other, once both see that it is CONNECTED."""
        by_pid = {str(router.running.pid): router for router in self.routers}

        def connected() -> Router | None:
            told = [self.broker(router) for router in self.routers if router.exit_code() is None]
            if any(one.state != Broker.CONNECTED for one in told):
                return None
            return by_pid.get(told[0].sender.rpartition(":")[2])

        sender = wait_until(connected, 30, "a sender")
        assert sender is not None
        other = self.routers[1] if sender is self.routers[0] else self.routers[0]
        return sender, other

    def place(self, router: Router) -> Order:
        """A buy of one share, accepted by this router; repeated until it is."""
        request = CreateOrderRequest(
            strategy_name=NAME,
            symbol="SPXL",
            side=Order.BUY,
            quantity=1,
            price=100,
            request_id=str(uuid.uuid4()),
        )
        with grpc.insecure_channel(router.address) as channel:
            stub = OrderServiceStub(channel)

            def accepted() -> Order | None:
                try:
                    return stub.CreateOrder(request, timeout=CALL_S)
                except grpc.RpcError as error:
                    assert isinstance(error, grpc.Call)
                    assert error.code() in AGAIN, error
                    return None

            order = wait_until(accepted, 30, "the order is accepted")
        assert order is not None
        return order

    def order(self, order_id: str) -> Order:
        """An order as it is now."""
        with grpc.insecure_channel(self.alive.address) as channel:
            stub = OrderServiceStub(channel)
            return stub.GetOrder(GetOrderRequest(order_id=order_id), timeout=CALL_S)

    def until(self, order: Order, status: "Order.Status.ValueType") -> None:
        """Waits until the order has this status."""
        name = Order.Status.Name(status)
        wait_until(lambda: self.order(order.order_id).status == status, 30, name)

    def until_settled(self, order: Order) -> None:
        """Waits until the order is executed, or ended as one that never reached the broker.

        The latter are those whose sender died between their commit and the wire.
        """

        def settled() -> bool:
            seen = self.order(order.order_id)
            if seen.status == Order.REJECTED:
                assert "never had it" in seen.reason
                assert self.arrival(order) is None
            return seen.status in {Order.EXECUTED, Order.REJECTED}

        wait_until(settled, 30, "EXECUTED, or REJECTED as never received")

    def arrival(self, order: Order) -> float | None:
        """When the placeOrder of an order arrived, by the machine's clock; None: it has not."""
        for receipt in self.gateway.snapshot().receipts:
            if receipt.order_ref == order.order_id:
                return receipt.time.ToNanoseconds() / 1e9
        return None

    def cut_sender(self) -> None:
        """Ends the session that holds the sender's lock, as soon as there is one."""
        wait_until(lambda: psql(self.database_url, CUT_SENDER), 20, "a session with the lock")

    @property
    def alive(self) -> Router:
        """A router that runs."""
        return next(router for router in self.routers if router.exit_code() is None)

    def assert_exactly_once(self) -> None:
        """Every order was received once at most, in the order of its ids, and all is booked."""
        truth = self.gateway.snapshot()
        refs = [receipt.order_ref for receipt in truth.receipts]
        assert len(set(refs)) == len(refs), "an order was sent twice"
        ids = [receipt.order_id for receipt in truth.receipts]
        assert ids == sorted(set(ids)), "two sent at the same time"
        rows = (line.split("|") for line in psql(self.database_url, INTENTS).splitlines())
        committed = {order_id: int(number) for order_id, number in rows}
        assert all(committed[r.order_ref] == r.order_id for r in truth.receipts)
        spent = sum(one.quantity * one.price + one.commission for one in truth.executions)
        with grpc.insecure_channel(self.alive.address) as channel:
            stub = PortfolioServiceStub(channel)

            def cash() -> float:
                return stub.GetPortfolio(
                    GetPortfolioRequest(strategy_name=NAME), timeout=CALL_S
                ).cash

            wait_until(lambda: abs(cash() - (CASH - spent)) < 0.001, 20, "every fill is booked")
            assert stub.Audit(AuditRequest(), timeout=CALL_S).balanced


@dataclass
class Flow:
    """Orders that are placed at a router one after another, until the flow ends."""

    pair: Pair
    router: Router
    accepted: list[Order] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Places orders; each is accepted before the next is placed."""
        while not self.over.is_set():
            self.accepted.append(self.pair.place(self.router))

    def until_more(self, count: int = 5) -> None:
        """Waits until so many more have arrived at the gateway."""
        before = len(self.pair.gateway.snapshot().receipts)
        self.pair.gateway.wait_for(lambda seen: len(seen.receipts) >= before + count, 30, "orders")


@contextmanager
def flowing(pair: Pair, router: Router) -> Iterator[Flow]:
    """Orders flow while the block runs; then each of them is executed once, or never came."""
    flow = Flow(pair, router)
    with ThreadPoolExecutor(1) as pool:
        running: Future[None] = pool.submit(flow.run)
        try:
            flow.until_more()
            yield flow
        finally:
            flow.over.set()
            running.result(timeout=60)
    for order in flow.accepted:
        pair.until_settled(order)
    pair.assert_exactly_once()


@pytest.fixture
def gateway_process(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway that can be killed."""
    with GatewayProcess(tmp_path) as gateway:
        yield gateway


@pytest.fixture
def pair(router: Callable[..., Router], database_url: str, gateway_process: GatewayProcess) -> Pair:
    return pair_on(database_url, gateway_process, router)


def pair_on(database_url: str, gateway: GatewayProcess, router: Callable[..., Router]) -> Pair:
    """Two LIVE routers, CONNECTED, and a strategy with cash."""
    live = gateway.router_settings | {"ANSWER_WITHIN_S": "2"}
    routers = router(database_url, **live), router(database_url, **live)
    one = Pair(gateway, routers, database_url)
    with grpc.insecure_channel(routers[0].address) as channel:
        PortfolioServiceStub(channel).UpsertPortfolio(
            UpsertPortfolioRequest(strategy_name=NAME, cash=CASH, requested_mode=Portfolio.LIVE),
            timeout=CALL_S,
        )
    one.roles()
    return one


def test_when_the_sender_is_killed_the_other_sends_within_five_seconds(pair: Pair) -> None:
    for _ in range(2):
        sender, other = pair.roles()
        with flowing(pair, other):
            died = time.time()
            sender.kill()
            next_order = pair.place(other)  # taken while nobody knows of the death yet
            arrived = wait_until(lambda order=next_order: pair.arrival(order), 20, "placeOrder")  # type: ignore[misc]
            assert arrived is not None
            assert arrived - died < PROMISE_S
        sender.start()


def test_while_the_sender_stands_still_nobody_sends_and_then_each_order_goes_once(
    pair: Pair,
) -> None:
    sender, other = pair.roles()
    pair.until(pair.place(other), Order.EXECUTED)
    sender.send(signal.SIGSTOP)
    try:
        waiting = pair.place(other)  # taken while nobody knows yet
        wait_until(lambda: pair.broker(other).state == Broker.DOWN, 20, "the other notices")
        assert pair.arrival(waiting) is None
    finally:
        sender.send(signal.SIGCONT)
    pair.until(waiting, Order.EXECUTED)
    pair.assert_exactly_once()


def test_a_sender_that_stood_still_while_it_lost_the_lock_sends_nothing_more(pair: Pair) -> None:
    sender, other = pair.roles()
    pair.until(pair.place(other), Order.EXECUTED)
    sender.send(signal.SIGSTOP)
    try:
        waiting = pair.place(other)
        pair.cut_sender()
        other.wait_for_line("sender_elected")
        # The sender's connection is still there, so the client id is taken: nobody can send.
        other.wait_for_line("line_lost")
        assert pair.arrival(waiting) is None
    finally:
        sender.send(signal.SIGCONT)
    sender.wait_for_line("sender_stepped_back")
    pair.until(waiting, Order.EXECUTED)
    assert pair.roles() == (other, sender)
    pair.assert_exactly_once()


def test_a_sender_that_loses_its_database_session_stops_at_once(pair: Pair) -> None:
    sender, other = pair.roles()
    with flowing(pair, other) as flow:
        for _ in range(3):
            pair.cut_sender()
            flow.until_more()
    assert "sender_stepped_back" in sender.output()


def test_what_fills_while_both_are_dead_is_booked_when_they_are_back(pair: Pair) -> None:
    pair.gateway.set_scenario("HELD")
    order = pair.place(pair.roles()[1])
    wait_until(lambda: pair.arrival(order), 20, "placeOrder")
    for router in pair.routers:
        router.kill()
    assert pair.gateway.control.Release(ReleaseRequest(), timeout=CALL_S).released == 1
    pair.gateway.restart()
    for router in pair.routers:
        router.start()
    pair.until(order, Order.EXECUTED)
    pair.assert_exactly_once()
