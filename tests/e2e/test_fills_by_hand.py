"""An order's life when it does not fill at once: PUT /orders/{order_id}/status."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from efficientfrontier.v1.order_service_pb2 import (
    CreateOrderRequest,
    Order,
    UpdateOrderStatusRequest,
)
from efficientfrontier.v1.portfolio_service_pb2 import (
    AuditRequest,
    GetPortfolioRequest,
    Portfolio,
    UpsertPortfolioRequest,
)
from efficientfrontier.v1.position_service_pb2 import SetPositionRequest
from tests.e2e.stubs import Stubs, stubs_on
from tests.support.database import fresh_database
from tests.support.router import Router

LEGAL = {
    "PENDING": {"PENDING", "EXECUTED", "CANCELLED", "REJECTED", "UNKNOWN"},
    "UNKNOWN": {"UNKNOWN", "EXECUTED", "CANCELLED", "REJECTED"},
    "EXECUTED": {"EXECUTED"},
    "CANCELLED": {"CANCELLED"},
    "REJECTED": {"REJECTED"},
}


@pytest.fixture(scope="module")
def by_hand(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stubs]:
    """A router whose paper orders stay PENDING."""
    settings = {"PAPER_FILLS": "by_hand", "PAPER_COMMISSION": "0.01"}
    log = tmp_path_factory.mktemp("by-hand") / "router.log"
    with (
        fresh_database(postgres_url) as database_url,
        Router(database_url, log, settings) as router,
        stubs_on(router.address) as stubs,
    ):
        yield stubs


@dataclass(frozen=True)
class Trader:
    """One strategy with 1000 USD, and the calls it makes."""

    name: str
    stubs: Stubs

    def place(self, side: Order.Side.ValueType, quantity: float, price: float) -> Order:
        return self.stubs.orders.CreateOrder(
            CreateOrderRequest(
                strategy_name=self.name, symbol="SPXL", side=side, quantity=quantity, price=price
            )
        )

    def put(self, order: Order, status: str, **figures: Any) -> Order:
        return self.stubs.orders.UpdateOrderStatus(
            UpdateOrderStatusRequest(
                order_id=order.order_id,
                status=Order.Status.Value(status),
                **figures,
            )
        )

    def set_position(self, quantity: float) -> None:
        self.stubs.positions.SetPosition(
            SetPositionRequest(
                strategy_name=self.name, symbol="SPXL", quantity=quantity, average_cost=20
            )
        )

    def set_cash(self, cash: float) -> None:
        self.stubs.portfolio.UpsertPortfolio(
            UpsertPortfolioRequest(strategy_name=self.name, cash=cash)
        )

    def portfolio(self) -> Portfolio:
        return self.stubs.portfolio.GetPortfolio(GetPortfolioRequest(strategy_name=self.name))


@pytest.fixture
def trader(by_hand: Stubs) -> Iterator[Trader]:
    """A strategy of the test's own; the audit balances when the test is over."""
    trader = Trader(f"ByHand_{uuid.uuid4().hex[:12]}", by_hand)
    trader.set_cash(1000)
    yield trader
    audit = by_hand.portfolio.Audit(AuditRequest())
    assert audit.balanced, audit


def reason_of(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(bytes(details)).details[0].Unpack(info)
    return info.reason


@pytest.mark.parametrize("start", LEGAL)
@pytest.mark.parametrize("to", LEGAL)
def test_every_change_of_status_is_as_the_table_says(trader: Trader, start: str, to: str) -> None:
    order = trader.place(Order.BUY, 10, 20)
    assert order.status == Order.PENDING
    if start != "PENDING":
        order = trader.put(order, start)
    if to in LEGAL[start]:
        assert Order.Status.Name(trader.put(order, to).status) == to
    else:
        with pytest.raises(grpc.RpcError) as refused:
            trader.put(order, to)
        assert reason_of(refused.value) == "ILLEGAL_STATUS_CHANGE"


def test_a_pending_buy_reserves_cash_which_a_cancel_releases(trader: Trader) -> None:
    order = trader.place(Order.BUY, 10, 20)
    held = trader.portfolio()
    assert (held.cash, held.reserved_cash, held.invested) == (1000, 200.10, False)
    assert trader.put(order, "CANCELLED", reason="changed my mind").reason == "changed my mind"
    free = trader.portfolio()
    assert (free.cash, free.reserved_cash) == (1000, 0)


def test_a_reported_fill_is_booked_at_its_own_price_and_commission(trader: Trader) -> None:
    order = trader.place(Order.BUY, 10, 20)
    filled = trader.put(
        order, "EXECUTED", filled_quantity=10, average_fill_price=19.5, commission=1
    )
    assert (filled.filled_quantity, filled.average_fill_price, filled.commission) == (10, 19.5, 1)
    after = trader.portfolio()
    assert (after.cash, after.reserved_cash, after.realized_pnl) == (804, 0, -1)


def test_a_partial_fill_stays_booked_when_the_rest_is_cancelled(trader: Trader) -> None:
    order = trader.place(Order.BUY, 10, 20)
    ended = trader.put(order, "CANCELLED", filled_quantity=4, average_fill_price=20.25)
    assert (Order.Status.Name(ended.status), ended.filled_quantity) == ("CANCELLED", 4)
    after = trader.portfolio()
    assert (after.cash, after.reserved_cash, after.invested) == (919, 0, True)


def test_a_pending_sell_reserves_the_shares(trader: Trader) -> None:
    trader.set_position(10)
    order = trader.place(Order.SELL, 6, 21)
    with pytest.raises(grpc.RpcError) as refused:
        trader.place(Order.SELL, 5, 21)
    assert reason_of(refused.value) == "INSUFFICIENT_SHARES"
    with pytest.raises(grpc.RpcError) as refused:
        trader.set_position(5)
    assert reason_of(refused.value) == "RESERVED_BY_OPEN_ORDERS"
    trader.put(order, "EXECUTED")
    assert trader.portfolio().cash == 1126


def test_a_paper_fill_that_costs_more_than_there_is_is_refused(trader: Trader) -> None:
    order = trader.place(Order.BUY, 10, 99)
    with pytest.raises(grpc.RpcError) as refused:
        trader.put(order, "EXECUTED", average_fill_price=101)
    assert reason_of(refused.value) == "INSUFFICIENT_CASH"
    assert trader.portfolio().reserved_cash == 990.1


def test_a_fill_larger_than_the_order_is_refused(trader: Trader) -> None:
    order = trader.place(Order.BUY, 10, 20)
    with pytest.raises(grpc.RpcError) as refused:
        trader.put(order, "EXECUTED", filled_quantity=11)
    assert reason_of(refused.value) == "ILLEGAL_FILL"


def test_cash_that_orders_have_reserved_cannot_be_taken(trader: Trader) -> None:
    trader.place(Order.BUY, 10, 20)
    with pytest.raises(grpc.RpcError) as refused:
        trader.set_cash(200)
    assert reason_of(refused.value) == "RESERVED_BY_OPEN_ORDERS"
